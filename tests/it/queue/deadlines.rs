//! A job that did not start in time is answered at once; one that started is not late.

use std::time::Duration;

use redis::cmd;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::{Queue, UNBEGUN};
use tillroll::worker::Stop;

use crate::support::observe::{name, try_claim};
use crate::support::rig::under;
use crate::support::{Calls, Rig, Running, Scripted, document, expect_claim, parsed};

fn with_deadline(id: &str, more: &str) -> Vec<u8> {
    format!("{{\"id\":\"{id}\",\"tenant\":\"acme\",\"deadline_ms\":3600000{more}}}\n<p>")
        .into_bytes()
}

/// Its deadline passes now.
async fn pass(rig: &Rig, name: &str) {
    let job = rig.keys.job(&crate::support::observe::name(name));
    let mut both = redis::pipe();
    both.cmd("ZADD").arg(rig.keys.deadlines()).arg("XX").arg("CH").arg(1).arg(name);
    both.cmd("HSET").arg(job).arg("deadline").arg(1);
    let (changed, _): (u64, u64) = both.query_async(&mut rig.connection().await).await.unwrap();
    assert_eq!(changed, 1, "{name} has no deadline before it");
}

async fn admit(rig: &Rig, queue: &Queue, count: usize, more: &str) {
    for number in 0..count {
        rig.admit(queue, &with_deadline(&format!("r-{number}"), more)).await;
    }
}

#[tokio::test]
async fn an_overdue_job_is_answered_while_its_turn_is_far_away() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let worker = Running::start(&rig, "w1", &renderer, 1).await;
    rig.push(Interactive, &document("acme", "first", "<p>first")).await;
    renderer.wait_started(1).await;
    rig.push(Interactive, &with_deadline("ready", ",\"meta\":{\"order\":\"7\"}")).await;
    rig.push(Bulk, &with_deadline("bulk", "")).await;
    rig.push(Interactive, &with_deadline("delayed", ",\"delay_ms\":1800000")).await;
    for id in ["ready", "bulk", "delayed"] {
        let name = format!("acme/{id}");
        rig.event("admitted", &name).await;
        pass(&rig, &name).await;
        // The only slot is taken, and still its producer hears of it.
        let answer = rig.reply(&name).await;
        assert_eq!((answer.status(), answer.code()), ("expired", "expired"), "{id}");
        assert_eq!(answer.line["attempts"], 0, "{id}");
        if id == "ready" {
            assert_eq!(answer.line["meta"]["order"], "7");
        }
    }
    renderer.open_gate();
    rig.reply("acme/first").await;
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>first"]);
    let queue = rig.queue("operator").await;
    assert_eq!(try_claim(&queue, true).await, None, "names that stayed behind are skipped");
    queue.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn three_hundred_that_are_overdue_at_once_are_all_answered() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    admit(&rig, &queue, 300, "").await;
    for number in 0..300 {
        pass(&rig, &format!("acme/r-{number}")).await;
    }
    let renderer = Scripted::open();
    let mut worker = Running::start(&rig, "w1", &renderer, 1).await;
    worker.wait_for("ready", |seen| seen.renderer.ok).await;
    for number in 0..300 {
        assert_eq!(rig.reply(&format!("acme/r-{number}")).await.status(), "expired");
    }
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), [""; 0]);
    queue.housekeep(true).await.unwrap();
    assert_eq!(try_claim(&queue, true).await, None);
    assert_eq!(try_claim(&queue, true).await, None);
    assert_eq!(try_claim(&queue, true).await, None);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_job_that_started_in_time_is_never_late_afterwards() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &with_deadline("r", "")).await;
    let past_it = async || {
        let redis = &mut rig.connection().await;
        // What its record said of a deadline is as if it had passed long ago.
        let job = rig.keys.job(&name("acme/r"));
        let deadline: u64 = cmd("HGET").arg(&job).arg("deadline").query_async(redis).await.unwrap();
        if deadline > 0 {
            cmd("HSET").arg(job).arg("deadline").arg(1).query_async::<u64>(redis).await.unwrap();
        }
        assert!(!rig.exists(&rig.keys.deadlines()).await);
    };
    let claimed = expect_claim(&queue).await;
    past_it().await;
    queue.retry(&claimed.lease, Duration::ZERO, true, "scripted").await.unwrap();
    assert_eq!(queue.housekeep(true).await.unwrap().overdue, []);
    let claimed = expect_claim(&queue).await;
    assert!(!claimed.expired, "it had started once");
    rig.expire_lease("acme/r").await;
    queue.housekeep(true).await.unwrap();
    assert!(!expect_claim(&queue).await.expired);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_tells_the_deadline_again() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &with_deadline("r", "")).await;
    let token = queue.token();
    let first = queue.claim(under(&token)).await.unwrap().unwrap();
    let again = queue.claim(under(&token)).await.unwrap().unwrap();
    assert_eq!(first.lease.name(), again.lease.name());
    assert!(first.begin_by.is_some() && again.begin_by.is_some(), "{again:?}");
}

#[tokio::test]
async fn a_job_that_is_given_back_unbegun_has_its_deadline_still() {
    let rig = Rig::new();
    let (one, two) = (rig.queue("w1").await, rig.queue("w2").await);
    admit(&rig, &one, 1, "").await;
    let claimed = expect_claim(&one).await;
    assert!(!rig.exists(&rig.keys.deadlines()).await);
    one.release(&claimed.lease, UNBEGUN, false, None).await.unwrap();
    rig.assert_consistent().await;
    let claimed = expect_claim(&two).await;
    assert!(claimed.begin_by.is_some());
    two.release(&claimed.lease, UNBEGUN, false, None).await.unwrap();
    pass(&rig, "acme/r-0").await;
    assert_eq!(one.housekeep(true).await.unwrap().overdue.len(), 1);
    // Who began, and then was given back, is not late any more.
    rig.admit(&one, &with_deadline("begun", "")).await;
    let begun = expect_claim(&one).await;
    one.release(&begun.lease, "released", false, None).await.unwrap();
    let begun = expect_claim(&one).await;
    assert_eq!(begun.begin_by, None);
    one.release(&begun.lease, UNBEGUN, false, None).await.unwrap();
    assert!(!rig.exists(&rig.keys.deadlines()).await, "its deadline is of an earlier attempt");
    rig.assert_consistent().await;
}

#[tokio::test]
async fn an_overdue_job_is_leased_by_one_worker_and_found_again_where_that_one_dies() {
    let rig = Rig::new();
    let (one, two) = (rig.queue("w1").await, rig.queue("w2").await);
    admit(&rig, &one, 1, ",\"delay_ms\":1800000").await;
    pass(&rig, "acme/r-0").await;
    let leased = one.housekeep(true).await.unwrap().overdue;
    assert_eq!(leased.len(), 1);
    assert!(leased[0].expired);
    assert_eq!(two.housekeep(true).await.unwrap().overdue, []);
    rig.assert_consistent().await;
    rig.expire_lease("acme/r-0").await;
    assert_eq!(two.housekeep(true).await.unwrap().reaped, 1);
    assert!(expect_claim(&two).await.expired);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_deadline_that_passes_in_this_millisecond_has_passed() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    admit(&rig, &queue, 1, "").await;
    let job = rig.keys.job(&name("acme/r-0"));
    // Tried until the two fall together: then it is expired, not rendered.
    for _ in 0..2000 {
        let (seconds, micros): (u64, u64) = rig.ask(&["TIME"]).await;
        let soon = (seconds * 1000 + micros / 1000 + 1).to_string();
        rig.ask::<u64>(&["HSET", &job, "deadline", &soon]).await;
        let claimed = expect_claim(&queue).await;
        let late = claimed.claimed_ms >= soon.parse().unwrap();
        assert_eq!(claimed.expired, late);
        if claimed.claimed_ms.to_string() == soon {
            return;
        }
        queue.retry(&claimed.lease, Duration::ZERO, false, "again").await.unwrap();
    }
    panic!("a claim never fell on the millisecond of the deadline");
}

#[tokio::test]
async fn a_duplicate_of_an_expired_job_starts_anew() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    admit(&rig, &queue, 1, "").await;
    pass(&rig, "acme/r-0").await;
    let mut leased = queue.housekeep(true).await.unwrap().overdue;
    let ending = tillroll::queue::Ending {
        status: tillroll::job::Status::Expired,
        ..crate::support::rig::dead()
    };
    queue.finish(&leased.remove(0).lease, &ending, None).await.unwrap();
    rig.reply("acme/r-0").await;
    let element = with_deadline("r-0", "");
    rig.stage(&queue, Interactive, &element).await;
    let job = parsed(Interactive, &element);
    let again = queue.admit(Interactive, rig.turn(), &job, element.len(), None).await.unwrap();
    assert_eq!(again.0, tillroll::queue::Admitted::Admitted);
    let claimed = expect_claim(&queue).await;
    assert!(!claimed.expired);
    assert_eq!(claimed.attempt, 1);
    assert_eq!(try_claim(&queue, true).await, None);
}
