//! How attempts and jobs end.

use std::time::Duration;

use tillroll::job::Priority::Interactive;
use tillroll::job::{Output, Status};
use tillroll::queue::Settled;

use crate::support::rig::{dead, done};
use crate::support::{Calls, Rig, document, expect_claim, under};

#[tokio::test]
async fn a_result_whose_reply_was_lost_is_accepted_once() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for id in ["r-1", "r-2", "r-3"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    let lease = expect_claim(&queue).await.lease;
    let token = queue.token();
    let (once, next) = queue.finish(&lease, &done(b"%PDF"), Some(under(&token))).await.unwrap();
    let (again, same) = queue.finish(&lease, &done(b"%PDF"), Some(under(&token))).await.unwrap();
    assert_eq!((once, again), (Settled::Accepted, Settled::Accepted));
    let (next, same) = (next.unwrap(), same.unwrap());
    assert_eq!((&next.lease, next.attempt), (&same.lease, same.attempt));
    rig.assert_consistent().await;
    assert_eq!(rig.length(&rig.keys.reply(lease.name())).await, 1);
    let ended: String = rig.ask(&["HGET", &rig.keys.state(), "ended:done"]).await;
    assert_eq!(ended, "1");
    // The reply may even have been taken between the two.
    rig.reply("acme/r-1").await;
    queue.finish(&lease, &done(b"%PDF"), None).await.unwrap();
    assert!(!rig.exists(&rig.keys.reply(lease.name())).await);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn every_kind_of_ending_may_be_repeated() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let stored = Output::Stored { ttl: Duration::from_secs(60) };
    let mut endings = vec![done(b"%PDF"), dead()];
    endings.push(tillroll::queue::Ending { output: stored, ..done(b"%PDF") });
    endings.push(tillroll::queue::Ending { status: Status::Expired, ..dead() });
    endings.push(tillroll::queue::Ending { reply_to: Some("all".to_owned()), ..dead() });
    let to = Some("all".to_owned());
    endings.push(tillroll::queue::Ending { output: stored, reply_to: to, ..done(b"%PDF") });
    for (index, ending) in endings.iter().enumerate() {
        let id = format!("r-{index}");
        rig.admit(&queue, &document("acme", &id, "<p>")).await;
        let lease = expect_claim(&queue).await.lease;
        for _ in 0..3 {
            let (settled, _) = queue.finish(&lease, ending, None).await.unwrap();
            assert_eq!(settled, Settled::Accepted);
            rig.assert_at_rest().await;
        }
        if ending.reply_to.is_none() {
            let answer = rig.reply(&format!("acme/{id}")).await;
            assert_eq!(answer.pdf.is_some(), index == 0);
        }
        assert!(!rig.exists(&rig.keys.reply(lease.name())).await, "said once");
    }
    assert_eq!(rig.length(&format!("{}replies:all", rig.keys.prefix())).await, 2);
}

#[tokio::test]
async fn replies_results_and_records_have_their_times_to_live() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    let lease = expect_claim(&queue).await.lease;
    let mut ending = done(b"%PDF");
    ending.output = Output::Stored { ttl: Duration::from_secs(3000) };
    ending.reply_ttl = Duration::from_secs(2000);
    ending.retain = Duration::from_secs(4000);
    queue.finish(&lease, &ending, None).await.unwrap();
    for (key, ttl) in [
        (rig.keys.pdf(lease.name()), 3000),
        (rig.keys.result(lease.name()), 3000),
        (rig.keys.reply(lease.name()), 2000),
        (rig.keys.job(lease.name()), 4000),
    ] {
        let left: i64 = rig.ask(&["PTTL", &key]).await;
        assert!((ttl - 25) * 1000 < left && left <= ttl * 1000, "{key}: {left} ms");
    }
}

#[tokio::test]
async fn base64_is_for_clients_that_decode_text() {
    use base64::Engine as _;
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for length in 0..5 {
        let pdf: Vec<u8> = (0..length).map(|n| 0xFA + n).collect();
        let id = format!("r-{length}");
        rig.admit(&queue, &document("acme", &id, "<p>")).await;
        let lease = expect_claim(&queue).await.lease;
        let mut ending = done(&pdf);
        ending.output = Output::Reply { base64: true };
        queue.finish(&lease, &ending, None).await.unwrap();
        let answer = rig.reply(&format!("acme/{id}")).await.pdf.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let decoded = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        assert_eq!(decoded, pdf);
    }
}

#[tokio::test]
async fn a_finish_claims_the_next_job_in_the_same_call() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for id in ["r-1", "r-2"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    let first = expect_claim(&queue).await.lease;
    let token = queue.token();
    let (_, next) = queue.finish(&first, &done(b"%PDF"), Some(under(&token))).await.unwrap();
    let next = next.unwrap();
    assert_eq!((next.lease.name().id(), next.lease.token()), ("r-2", token.as_str()));
    rig.assert_consistent().await;
    let token = queue.token();
    let (_, none) = queue.finish(&next.lease, &dead(), Some(under(&token))).await.unwrap();
    assert_eq!(none, None);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_retry_comes_back_and_counts_or_not() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    let later = Duration::from_secs(3600);
    for (delay, counted, attempt) in
        [(Duration::ZERO, true, 2), (Duration::ZERO, false, 2), (later, true, 3), (later, false, 3)]
    {
        let lease = expect_claim(&queue).await.lease;
        for _ in 0..2 {
            let settled = queue.retry(&lease, delay, counted, "scripted").await.unwrap();
            assert_eq!(settled, Settled::Accepted, "a lost reply changes nothing");
            rig.assert_consistent().await;
        }
        if delay == later {
            assert_eq!(queue.claim(under(&queue.token())).await.unwrap(), None);
            rig.make_due("acme/r-1").await;
            queue.housekeep(true).await.unwrap();
        }
        let claimed = expect_claim(&queue).await;
        assert_eq!(claimed.attempt, attempt);
        // A repeat that comes after the next claim finds nothing to do.
        let settled = queue.retry(&lease, delay, counted, "scripted").await.unwrap();
        assert_eq!(settled, Settled::Accepted);
        rig.assert_consistent().await;
        queue.retry(&claimed.lease, Duration::ZERO, false, "put back").await.unwrap();
    }
}

#[tokio::test]
async fn a_released_job_is_first_in_its_list_and_rings_the_bell() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for id in ["r-1", "r-2"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    let lease = expect_claim(&queue).await.lease;
    let _: u64 = rig.ask(&["DEL", &rig.keys.bell(Interactive)]).await;
    queue.retry(&lease, Duration::ZERO, false, "released").await.unwrap();
    assert_eq!(rig.length(&rig.keys.bell(Interactive)).await, 1);
    assert_eq!(expect_claim(&queue).await.lease.name().id(), "r-1");
}

#[tokio::test]
async fn a_dead_letter_keeps_its_document_until_it_is_forgotten() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "r-1", "<p>");
    rig.admit(&queue, &element).await;
    let lease = expect_claim(&queue).await.lease;
    queue.finish(&lease, &dead(), None).await.unwrap();
    assert_eq!(queue.element(lease.name()).await.unwrap(), Some(element));
    assert_eq!(queue.counts().await.unwrap().dead, 1);
    // When its time is over, housekeeping takes all that is left of it.
    let _: u64 = rig.ask(&["ZADD", &rig.keys.dead(), "XX", "1", "acme/r-1"]).await;
    queue.housekeep(true).await.unwrap();
    let counts = queue.counts().await.unwrap();
    assert_eq!((counts.dead, counts.dead_bytes), (0, 0));
    for key in [rig.keys.job(lease.name()), rig.keys.document(lease.name())] {
        assert!(!rig.exists(&key).await, "{key} stays for ever");
    }
}
