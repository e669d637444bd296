//! What must never happen, though little is between: wrong documents, lost
//! elements, replies that vanish, jobs that never end.

use std::time::Duration;

use tillroll::job::Name;
use tillroll::job::Priority::Interactive;
use tillroll::queue::Admitted;
use tillroll::worker::Stop;

use crate::support::{Calls, Rig, Running, Scripted, document, expect_claim};

#[tokio::test]
async fn a_refused_document_never_stands_in_for_the_living_job_of_its_name() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let mut worker = Running::start(&rig, "w1", &renderer, 1).await;
    worker.wait_for("ready", |snapshot| snapshot.renderer.ok).await;
    let right = br#"{"id":"r-1","tenant":"acme","delay_ms":3600000}
<p>right"#;
    rig.push(Interactive, right).await;
    rig.event("admitted", "acme/r-1").await;
    // At one stroke, and without a bell: the job is ready, and its name comes in
    // again with another document. The idle worker claims with that one in hand.
    let wrong = document("acme", "r-1", "<p>wrong");
    let script = "local p = ARGV[1] redis.call('ZREM', p .. 'delayed', 'acme/r-1') \
                  redis.call('HSET', p .. 'job:acme/r-1', 'state', 'ready') \
                  redis.call('RPUSH', p .. 'ready:interactive:acme', 'acme/r-1') \
                  redis.call('ZADD', p .. 'ring:interactive', 0, 'acme') \
                  redis.call('LPUSH', p .. 'in', ARGV[2])";
    let wrong = std::str::from_utf8(&wrong).unwrap();
    let _: () = rig.ask(&["EVAL", script, "0", rig.keys.prefix(), wrong]).await;
    assert_eq!(rig.event("refused", "acme/r-1").await, "id_conflict");
    assert_eq!(rig.reply("acme/r-1").await.pdf, Some(Scripted::pdf("<p>right")));
    assert_eq!(renderer.rendered(), ["<p>right"]);
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_second_element_in_a_stage_goes_back_to_its_inbox() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    // A connection that died unnoticed was handed one more.
    rig.stage(&queue, Interactive, &document("acme", "older", "<p>1")).await;
    let latest = document("acme", "latest", "<p>2");
    assert_eq!(rig.admit(&queue, &latest).await, Admitted::Admitted);
    assert_eq!(rig.length(&rig.keys.inbox(Interactive)).await, 1);
    let claimed = expect_claim(&queue).await;
    assert_eq!(queue.element(claimed.lease.name()).await.unwrap(), Some(latest));
}

#[tokio::test]
async fn a_reply_never_shortens_the_life_of_the_others_on_its_list() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let list = format!("{}replies:mailer", rig.keys.prefix());
    for (id, ttl) in [("long", 3_600), ("short", 1)] {
        rig.stage(&queue, Interactive, b"{").await;
        let (name, ttl) = (Name::parse(&format!("t/{id}")), Duration::from_secs(ttl));
        let answered = queue.rejects(rig.turn(), name.as_ref(), "x", "{}", ttl, Some("mailer"));
        answered.await.unwrap();
    }
    assert_eq!(rig.length(&list).await, 2);
    let left: i64 = rig.ask(&["PTTL", &list]).await;
    assert!(left > 1_000_000, "{left} ms");
}

#[tokio::test]
async fn a_job_present_at_a_browsers_death_counts_a_crash_and_no_attempt() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    for (code, crashes) in [("browser_died", 1), ("released", 1), ("browser_died", 2)] {
        let claimed = expect_claim(&queue).await;
        queue.retry(&claimed.lease, Duration::ZERO, false, code).await.unwrap();
        let claimed = expect_claim(&queue).await;
        assert_eq!((claimed.crashes, claimed.attempt), (crashes, 1), "{code}");
        queue.retry(&claimed.lease, Duration::ZERO, false, "put back").await.unwrap();
    }
}

#[tokio::test]
async fn an_attempt_that_panics_ends_its_job_and_frees_its_slot() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let worker = Running::start(&rig, "w1", &renderer, 1).await;
    rig.push(Interactive, &document("acme", "bad", Scripted::PANICS)).await;
    let answer = rig.reply("acme/bad").await;
    assert_eq!((answer.status(), answer.code()), ("dead", "panicked"));
    rig.push(Interactive, &document("acme", "good", "<p>good")).await;
    assert_eq!(rig.reply("acme/good").await.status(), "done");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}
