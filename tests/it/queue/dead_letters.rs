//! Dead letters: their history, and what may be done with them.

use std::time::Duration;

use tillroll::job::Priority::Interactive;
use tillroll::queue::dead::{DeadFilter, Revived};
use tillroll::queue::{Admitted, Ending, Queue};

use crate::support::observe::{finish, name, try_claim};
use crate::support::rig::{dead, past};
use crate::support::{Calls, Rig, document, expect_claim};

fn buried(code: &'static str) -> Ending {
    Ending { code, past: Some(past(code, true)), ..dead() }
}

/// Jobs of a tenant that die with this code.
async fn bury(
    rig: &Rig,
    queue: &Queue,
    (tenant, prefix): (&str, &str),
    count: usize,
    end: &Ending,
) {
    rig.admit_many(queue, Interactive, (tenant, prefix), count).await;
    for _ in 0..count {
        queue.finish(&expect_claim(queue).await.lease, end, None).await.unwrap();
    }
}

async fn codes(queue: &Queue, of: &str) -> Vec<String> {
    let history = queue.history(&name(of)).await.unwrap();
    history.into_iter().map(|past| past.code).collect()
}

#[tokio::test]
async fn the_history_tells_of_every_attempt_that_did_not_end_well() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r", "<p>")).await;
    let lease = expect_claim(&queue).await.lease;
    for _ in 0..2 {
        // Said twice, it is remembered once.
        queue.retry(&lease, Duration::ZERO, true, "timeout").await.unwrap();
    }
    let lease = expect_claim(&queue).await.lease;
    queue.retry(&lease, Duration::ZERO, false, "browser_died").await.unwrap();
    expect_claim(&queue).await;
    rig.expire_lease("acme/r").await;
    queue.housekeep(true).await.unwrap();
    let lease = expect_claim(&queue).await.lease;
    queue.release(&lease, "released", false, None).await.unwrap();
    let lease = expect_claim(&queue).await.lease;
    for _ in 0..2 {
        queue.finish(&lease, &buried("js_error"), None).await.unwrap();
    }
    let told = ["timeout", "browser_died", "lease_expired", "js_error"];
    assert_eq!(codes(&queue, "acme/r").await, told);
    let history = queue.history(&name("acme/r")).await.unwrap();
    let reaped = &history[2];
    assert_eq!((reaped.class.as_str(), reaped.worker.as_str()), ("interrupted", "w1"));
    assert_eq!((reaped.attempt, reaped.counted, reaped.memory_bytes), (2, false, None));
    assert!(!reaped.message.is_empty() && !reaped.remedy.is_empty() && reaped.at > 1);
    assert_eq!(history[0], past("timeout", true));
    let page = queue.dead_letters(0, &DeadFilter::default()).await.unwrap();
    let letter = &page.letters[0];
    assert_eq!((letter.attempts, letter.crashes, letter.code.as_str()), (2, 2, "js_error"));
    assert!(letter.until_ms > letter.ended_ms + 86_000_000);
}

#[tokio::test]
async fn a_history_keeps_the_newest_twenty_and_goes_with_its_record() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r", "<p>")).await;
    for number in 0..30 {
        let lease = expect_claim(&queue).await.lease;
        let past = past(&format!("e-{number}"), false);
        queue.release(&lease, "x", false, Some(&past)).await.unwrap();
    }
    let kept: Vec<_> = (10..30).map(|number| format!("e-{number}")).collect();
    assert_eq!(codes(&queue, "acme/r").await, kept);
    let claimed = expect_claim(&queue).await;
    finish(&queue, &claimed).await;
    let left: i64 = rig.ask(&["PTTL", &rig.keys.history(&name("acme/r"))]).await;
    let record: i64 = rig.ask(&["PTTL", &rig.keys.job(&name("acme/r"))]).await;
    assert!(left > 0 && (record - left).abs() < 1000, "{left} ms, {record} ms");
    // Another document of this name has no past.
    rig.reply("acme/r").await;
    rig.admit(&queue, &document("acme", "r", "<p>2")).await;
    assert_eq!(codes(&queue, "acme/r").await, [""; 0]);
}

#[tokio::test]
async fn a_revived_job_has_all_its_attempts_and_its_producer_waits_for_the_new_reply() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = b"{\"id\":\"r\",\"max_attempts\":2,\"deadline_ms\":60000}\n<p>";
    rig.admit(&queue, element).await;
    let lease = expect_claim(&queue).await.lease;
    queue.retry(&lease, Duration::ZERO, false, "browser_died").await.unwrap();
    let lease = expect_claim(&queue).await.lease;
    queue.finish(&lease, &buried("js_error"), None).await.unwrap();
    assert_eq!(queue.revive(&name("default/r")).await.unwrap(), Revived::Ready);
    rig.assert_consistent().await;
    let reply = rig.keys.reply(&name("default/r"));
    assert!(!rig.exists(&reply).await, "the old answer would be taken for the new one");
    assert_eq!(queue.revive(&name("default/r")).await.unwrap(), Revived::NotDead);
    let claimed = expect_claim(&queue).await;
    assert_eq!((claimed.attempt, claimed.crashes, claimed.expired), (1, 0, false));
    assert_eq!(codes(&queue, "default/r").await, ["browser_died", "js_error"]);
    finish(&queue, &claimed).await;
    assert_eq!(rig.reply("default/r").await.status(), "done");
    let counts = queue.counts().await.unwrap();
    assert_eq!((counts.dead, counts.dead_bytes), (0, 0));
    queue.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
    assert_eq!(queue.revive(&name("default/r")).await.unwrap(), Revived::NotDead);
    assert_eq!(queue.revive(&name("default/never")).await.unwrap(), Revived::Unknown);
}

#[tokio::test]
async fn a_dead_letter_without_its_document_cannot_be_revived() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    bury(&rig, &queue, ("acme", "r"), 1, &buried("body_lost")).await;
    rig.ask::<u64>(&["DEL", &rig.keys.document(&name("acme/r-0"))]).await;
    assert_eq!(queue.revive(&name("acme/r-0")).await.unwrap(), Revived::BodyLost);
    assert_eq!(rig.field("acme/r-0", "state").await.unwrap(), "dead");
    assert_eq!(try_claim(&queue, true).await, None);
}

#[tokio::test]
async fn a_purged_dead_letter_leaves_nothing_and_nothing_else_is_purged() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    bury(&rig, &queue, ("acme", "dead"), 150, &buried("js_error")).await;
    rig.admit_many(&queue, Interactive, ("acme", "alive"), 1).await;
    let mut names: Vec<_> = (0..150).map(|number| format!("acme/dead-{number}")).collect();
    names.extend(["acme/alive-0".to_owned(), "acme/never".to_owned()]);
    assert_eq!(queue.purge(&names).await.unwrap(), 150);
    assert_eq!(queue.purge(&names).await.unwrap(), 0);
    for key in [rig.keys.job(&name(&names[0])), rig.keys.history(&name(&names[0]))] {
        assert!(!rig.exists(&key).await, "{key} is left");
    }
    assert_eq!(rig.field("acme/alive-0", "state").await.unwrap(), "ready");
    rig.assert_consistent().await;
    assert_eq!(queue.counts().await.unwrap().dead_bytes, 0);
    // Its name is free again.
    rig.reply("acme/dead-0").await;
    assert_eq!(rig.admit(&queue, &document("acme", "dead-0", "<p>")).await, Admitted::Admitted);
}

#[tokio::test]
async fn pages_of_dead_letters_are_looked_through_by_tenant_and_code() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    bury(&rig, &queue, ("acme", "a"), 120, &buried("js_error")).await;
    bury(&rig, &queue, ("other", "b"), 60, &buried("timeout")).await;
    bury(&rig, &queue, ("acme", "c"), 50, &buried("timeout")).await;
    let cases = [
        (None, None, 230),
        (Some("acme"), None, 170),
        (None, Some("timeout"), 110),
        (Some("acme"), Some("timeout"), 50),
        (Some("nobody"), None, 0),
    ];
    for (tenant, code, expected) in cases {
        let filter =
            DeadFilter { tenant: tenant.map(str::to_owned), code: code.map(str::to_owned) };
        let (mut found, mut from, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(at) = from {
            let page = queue.dead_letters(at, &filter).await.unwrap();
            assert!(page.seen <= 100);
            found.extend(page.letters.into_iter().map(|letter| letter.name));
            (from, pages) = (page.next, pages + 1);
        }
        found.sort_unstable();
        found.dedup();
        assert_eq!((found.len(), pages), (expected, 3), "{tenant:?} {code:?}");
    }
}

#[tokio::test]
async fn the_oldest_are_forgotten_where_there_are_too_many_or_too_large_or_too_old() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let of_age = |days: u64| Ending { retain: Duration::from_secs(days * 86_400), ..buried("x") };
    bury(&rig, &queue, ("acme", "old"), 70, &of_age(1)).await;
    bury(&rig, &queue, ("acme", "new"), 10, &of_age(2)).await;
    let dead = async || {
        queue.housekeep(true).await.unwrap();
        rig.assert_consistent().await;
        queue.counts().await.unwrap().dead
    };
    assert_eq!(dead().await, 80);
    queue.set_limit("dead", Some(10)).await.unwrap();
    dead().await;
    assert_eq!(dead().await, 10);
    assert_eq!(rig.field("acme/new-9", "state").await.unwrap(), "dead");
    assert_eq!(rig.field("acme/old-69", "state").await, None);
    assert!(rig.events("purged").await.iter().all(|(_, code)| code == "too_many"));
    let bytes = queue.counts().await.unwrap().dead_bytes;
    queue.set_limit("dead_bytes", Some(bytes - 1)).await.unwrap();
    assert!(dead().await < 10);
    assert!(rig.events("purged").await.iter().any(|(_, code)| code == "too_many_bytes"));
    queue.set_limit("dead_bytes", None).await.unwrap();
    bury(&rig, &queue, ("acme", "aged"), 1, &of_age(1)).await;
    rig.ask::<u64>(&["ZADD", &rig.keys.dead(), "XX", "CH", "1", "acme/aged-0"]).await;
    dead().await;
    assert_eq!(rig.field("acme/aged-0", "state").await, None);
}

#[tokio::test]
async fn a_dead_letter_is_not_outlived_by_its_record_nor_the_other_way_round() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    bury(&rig, &queue, ("acme", "r"), 1, &buried("x")).await;
    for key in [
        rig.keys.job(&name("acme/r-0")),
        rig.keys.document(&name("acme/r-0")),
        rig.keys.history(&name("acme/r-0")),
    ] {
        assert_eq!(rig.ask::<i64>(&["PTTL", &key]).await, -1, "{key}");
    }
    // Pushed again, it is a living job and no dead letter any more.
    rig.reply("acme/r-0").await;
    assert_eq!(rig.admit(&queue, &document("acme", "r-0", "<p>")).await, Admitted::Admitted);
    let counts = queue.counts().await.unwrap();
    assert_eq!((counts.dead, counts.dead_bytes), (0, 0));
    rig.assert_consistent().await;
}
