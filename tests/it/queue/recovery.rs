//! What dies, and what is left of it: nothing is lost, nothing is done twice.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::{Admitted, Settled};

use crate::support::rig::{dead, done};
use crate::support::{Calls, RedisServer, Rig, document, expect_claim, parsed, under};

#[tokio::test]
async fn a_lease_that_ran_out_counts_a_crash_and_no_attempt() {
    let rig = Rig::new();
    let (gone, other) = (rig.queue("gone").await, rig.queue("other").await);
    for id in ["r-1", "r-2"] {
        rig.admit(&gone, &document("acme", id, "<p>")).await;
    }
    for crashes in 1..=3 {
        expect_claim(&gone).await;
        rig.expire_lease("acme/r-1").await;
        assert_eq!(other.housekeep(true).await.unwrap().reaped, 1);
        assert_eq!(other.housekeep(true).await.unwrap().reaped, 0);
        rig.assert_consistent().await;
        let claimed = expect_claim(&other).await;
        assert_eq!(claimed.lease.name().id(), "r-1", "it had waited longest");
        assert_eq!((claimed.attempt, claimed.crashes), (1, crashes));
        other.retry(&claimed.lease, Duration::ZERO, false, "released").await.unwrap();
    }
    assert_eq!(rig.event("reaped", "acme/r-1").await, "lease_expired");
}

#[tokio::test]
async fn a_claim_after_the_reaper_is_a_new_one() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    let token = queue.token();
    queue.claim(under(&token)).await.unwrap().unwrap();
    rig.expire_lease("acme/r-1").await;
    queue.housekeep(true).await.unwrap();
    let again = queue.claim(under(&token)).await.unwrap().unwrap();
    assert_eq!((again.attempt, again.crashes), (1, 1));
    rig.assert_consistent().await;
}

#[tokio::test]
async fn the_stages_of_a_silent_worker_are_adopted_and_those_of_a_live_one_never() {
    let rig = Rig::new();
    let (silent, live) = (rig.queue("silent").await, rig.queue("live").await);
    for queue in [&silent, &live] {
        queue.renew(&[], "{}").await.unwrap();
        for inbox in [Interactive, Bulk] {
            rig.stage(queue, inbox, &document(queue.worker(), inbox.as_str(), "<p>")).await;
        }
    }
    assert_eq!(live.housekeep(true).await.unwrap().adopted, 0);
    let past: u64 = rig.ask::<Vec<u64>>(&["TIME"]).await[0] * 1000 - 40_000;
    let _: u64 = rig.ask(&["ZADD", &rig.keys.workers(), &past.to_string(), "silent"]).await;
    assert_eq!(live.housekeep(true).await.unwrap().adopted, 2);
    for inbox in [Interactive, Bulk] {
        assert_eq!(rig.length(&rig.keys.inbox(inbox)).await, 1);
        assert_eq!(rig.length(&rig.keys.stage(inbox, "silent")).await, 0);
        assert_eq!(rig.length(&rig.keys.stage(inbox, "live")).await, 1);
    }
    // The silent one wakes up and offers what it had in hand.
    let element = document("silent", "interactive", "<p>");
    let job = parsed(Interactive, &element);
    let (admitted, _) =
        silent.admit(Interactive, rig.turn(), &job, element.len(), None).await.unwrap();
    assert_eq!(admitted, Admitted::Gone);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn an_element_that_reaches_a_worker_just_after_it_left_is_adopted() {
    let rig = Rig::new();
    let (leaver, other) = (rig.queue("leaver").await, rig.queue("other").await);
    leaver.renew(&[], "{}").await.unwrap();
    leaver.leave().await.unwrap();
    assert_eq!(other.housekeep(true).await.unwrap().adopted, 0);
    // Redis may learn later that the leaver's blocked read is gone.
    rig.stage(&leaver, Interactive, &document("acme", "r-1", "<p>")).await;
    assert_eq!(other.housekeep(true).await.unwrap().adopted, 1, "nobody looks after this stage");
    assert_eq!(rig.length(&rig.keys.inbox(Interactive)).await, 1);
}

#[tokio::test]
async fn a_worker_that_is_silent_for_long_is_forgotten_with_its_keys() {
    let rig = Rig::new();
    let (silent, other) = (rig.queue("silent").await, rig.queue("other").await);
    silent.renew(&[], "{}").await.unwrap();
    rig.stage(&silent, Bulk, &document("acme", "r-1", "<p>")).await;
    let control = rig.keys.control("silent");
    let _: u64 = rig.ask(&["RPUSH", &control, "{}"]).await;
    let _: u64 = rig.ask(&["ZADD", &rig.keys.workers(), "1", "silent"]).await;
    assert_eq!(other.housekeep(true).await.unwrap().adopted, 1, "not without its stage");
    assert_eq!(rig.ask::<Option<u64>>(&["ZSCORE", &rig.keys.workers(), "silent"]).await, None);
    assert!(!rig.exists(&control).await);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again_in_every_transition() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let flush = async || rig.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    for (id, ending) in [("r-1", done(b"%PDF")), ("r-2", dead())] {
        flush().await;
        assert_eq!(rig.admit(&queue, &document("acme", id, "<p>")).await, Admitted::Admitted);
        flush().await;
        let claimed = expect_claim(&queue).await;
        flush().await;
        assert_eq!(queue.renew(&[], "{}").await.unwrap().lost, [""; 0]);
        flush().await;
        queue.retry(&claimed.lease, Duration::ZERO, false, "again").await.unwrap();
        let claimed = expect_claim(&queue).await;
        flush().await;
        let (settled, _) = queue.finish(&claimed.lease, &ending, None).await.unwrap();
        assert_eq!(settled, Settled::Accepted);
        flush().await;
        queue.housekeep(true).await.unwrap();
        flush().await;
        rig.stage(&queue, Interactive, b"nonsense").await;
        let ttl = Duration::from_secs(60);
        queue.rejects(rig.turn(), None, "malformed_header", "{}", ttl, None).await.unwrap();
    }
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn scripts_that_redis_forgets_again_and_again_hinder_no_transition() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let mut connection = ::redis::Client::open(rig.server.url()).unwrap().get_connection().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let forgetting = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                ::redis::cmd("SCRIPT").arg("FLUSH").exec(&mut connection).unwrap();
            }
        })
    };
    for turn in 0..200 {
        let ending = if turn % 2 == 0 { done(b"%PDF") } else { dead() };
        rig.admit(&queue, &document("acme", &format!("r-{turn}"), "<p>")).await;
        let lease = expect_claim(&queue).await.lease;
        queue.renew(&[], "{}").await.unwrap();
        let (settled, _) = queue.finish(&lease, &ending, None).await.unwrap();
        assert_eq!(settled, Settled::Accepted);
    }
    stop.store(true, Relaxed);
    forgetting.join().unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_redis_that_was_killed_comes_back_with_everything() {
    let mut rig = Rig::on(RedisServer::durable());
    let queue = rig.queue("w1").await;
    for id in ["replied", "leased", "dead", "ready"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    rig.admit(&queue, b"{\"id\":\"delayed\",\"delay_ms\":3600000}\n<p>").await;
    let replied = expect_claim(&queue).await.lease;
    let leased = expect_claim(&queue).await.lease;
    let died = expect_claim(&queue).await.lease;
    queue.finish(&replied, &done(b"%PDF"), None).await.unwrap();
    queue.finish(&died, &dead(), None).await.unwrap();
    rig.stage(&queue, Interactive, &document("acme", "staged", "<p>")).await;
    rig.push(Bulk, &document("acme", "pushed", "<p>")).await;
    rig.server.kill();
    rig.server.restart();

    rig.assert_consistent().await;
    assert_eq!(rig.length(&rig.keys.inbox(Bulk)).await, 1);
    assert_eq!(rig.length(&rig.keys.stage(Interactive, "w1")).await, 1);
    assert_eq!(rig.reply("acme/replied").await.pdf.unwrap(), b"%PDF");
    let states = [("leased", "leased"), ("ready", "ready"), ("dead", "dead")];
    for (id, state) in states {
        assert_eq!(rig.field(&format!("acme/{id}"), "state").await.as_deref(), Some(state));
    }
    assert_eq!(rig.field("default/delayed", "state").await.as_deref(), Some("delayed"));
    // The lease holds across the restart: the worker that has it may finish.
    let back = rig.queue("w1").await;
    let (settled, _) = back.finish(&leased, &done(b"%PDF"), None).await.unwrap();
    assert_eq!(settled, Settled::Accepted);
    rig.assert_consistent().await;
}
