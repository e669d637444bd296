//! Who is claimed next, and who holds it.

use std::time::Duration;

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::Settled;

use crate::support::rig::{dead, done};
use crate::support::{Calls, Rig, document, expect_claim, under};

#[tokio::test]
async fn bulk_is_not_starved_and_does_not_stand_before_interactive() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for n in 0..30 {
        let bulk = document("acme", &format!("b-{n}"), "<p>");
        rig.admit_through(&queue, Bulk, &bulk).await;
        rig.admit(&queue, &document("acme", &format!("i-{n}"), "<p>")).await;
    }
    let mut order = Vec::new();
    for _ in 0..27 {
        order.push(expect_claim(&queue).await.priority);
    }
    assert_eq!(order.iter().filter(|priority| **priority == Bulk).count(), 3, "one turn in nine");
    assert_eq!(order[..8].iter().filter(|priority| **priority == Interactive).count(), 8);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn the_header_may_choose_another_priority_than_its_inbox() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, b"{\"id\":\"b\",\"priority\":\"bulk\"}\n<p>").await;
    assert!(
        rig.exists(&rig.keys.ring(Bulk)).await && !rig.exists(&rig.keys.ring(Interactive)).await
    );
    assert_eq!(expect_claim(&queue).await.priority, Bulk);
}

#[tokio::test]
async fn tenants_take_turns_whatever_they_have_queued() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for n in 0..20 {
        rig.admit(&queue, &document("big", &format!("r-{n}"), "<p>")).await;
    }
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(expect_claim(&queue).await.lease.name().to_string());
    }
    // Another one comes late: it has saved nothing up, and waits for no backlog.
    for n in 0..3 {
        rig.admit(&queue, &document("small", &format!("r-{n}"), "<p>")).await;
    }
    for _ in 0..8 {
        order.push(expect_claim(&queue).await.lease.name().to_string());
    }
    let small: Vec<usize> = (5..13).filter(|index| order[*index].starts_with("small/")).collect();
    assert_eq!(small.len(), 3, "{order:?}");
    assert!(small[0] <= 6 && small[2] <= 10, "{order:?}");
    assert!(small.windows(2).all(|pair| pair[1] - pair[0] == 2), "one, one, one: {order:?}");
    // Within a tenant, first come, first served.
    let big: Vec<&String> = order.iter().filter(|name| name.starts_with("big/")).collect();
    let expected: Vec<String> = (0..10).map(|n| format!("big/r-{n}")).collect();
    assert_eq!(big, expected.iter().collect::<Vec<_>>());
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_gives_the_same_job_again() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for id in ["r-1", "r-2"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    let token = queue.token();
    let once = queue.claim(under(&token)).await.unwrap().unwrap();
    let again = queue.claim(under(&token)).await.unwrap().unwrap();
    assert_eq!((&once.lease, once.attempt), (&again.lease, again.attempt));
    assert_eq!(rig.field("acme/r-2", "state").await.as_deref(), Some("ready"));
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_leftover_in_a_ready_list_is_passed_over() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let list = format!("{}ready:interactive:acme", rig.keys.prefix());
    let _: u64 = rig.ask(&["RPUSH", &list, "acme/ghost"]).await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    assert_eq!(expect_claim(&queue).await.lease.name().id(), "r-1");
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_heartbeat_keeps_leases_and_names_those_that_are_lost() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for id in ["kept", "lost"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    let (kept, lost) = (expect_claim(&queue).await.lease, expect_claim(&queue).await.lease);
    for name in ["acme/kept", "acme/lost"] {
        rig.expire_lease(name).await;
    }
    let leases = [(kept.name().clone(), kept.token().to_owned())];
    assert_eq!(queue.renew(&leases, "{}").await.unwrap().lost, [""; 0]);
    let other = rig.queue("w2").await;
    assert_eq!(other.housekeep(true).await.unwrap().reaped, 1, "only what was not renewed");
    rig.assert_consistent().await;
    let both = [leases[0].clone(), (lost.name().clone(), lost.token().to_owned())];
    assert_eq!(queue.renew(&both, "{}").await.unwrap().lost, [lost.token()]);
    // The other one has it now: still lost, though the name is leased.
    let theirs = expect_claim(&other).await;
    assert_eq!(theirs.lease.name(), lost.name());
    assert_eq!(queue.renew(&both, "{}").await.unwrap().lost, [lost.token()]);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_writes_nothing() {
    let rig = Rig::new();
    let (frozen, other) = (rig.queue("frozen").await, rig.queue("other").await);
    rig.admit(&frozen, &document("acme", "r-1", "<p>")).await;
    let stale = expect_claim(&frozen).await.lease;
    rig.expire_lease("acme/r-1").await;
    other.housekeep(true).await.unwrap();

    let write_everything = async || {
        for ending in [done(b"%PDF stale"), dead()] {
            let (settled, _) = frozen.finish(&stale, &ending, None).await.unwrap();
            assert_eq!(settled, Settled::Stale);
        }
        for delay in [Duration::ZERO, Duration::from_secs(60)] {
            let settled = frozen.retry(&stale, delay, true, "late").await.unwrap();
            assert_eq!(settled, Settled::Stale);
        }
        assert!(!rig.exists(&rig.keys.out(stale.token())).await, "the stale result is gone");
        assert!(!rig.exists(&rig.keys.reply(stale.name())).await);
        rig.assert_consistent().await;
    };
    // While nobody has it, while another has it, and after that one's end.
    write_everything().await;
    let theirs = expect_claim(&other).await;
    assert_eq!((theirs.attempt, theirs.crashes), (1, 1));
    write_everything().await;
    other.finish(&theirs.lease, &done(b"%PDF"), None).await.unwrap();
    assert_eq!(rig.reply("acme/r-1").await.pdf.unwrap(), b"%PDF");
    write_everything().await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn tokens_are_equal_or_not_never_older_or_newer() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    let first = "w1:2:00000000".to_owned();
    let stale = queue.claim(under(&first)).await.unwrap().unwrap().lease;
    rig.expire_lease("acme/r-1").await;
    queue.housekeep(true).await.unwrap();
    // A counter that went back, as after a failover.
    let second = "w1:1:00000000".to_owned();
    let holder = queue.claim(under(&second)).await.unwrap().unwrap().lease;
    let (settled, _) = queue.finish(&stale, &done(b"%PDF stale"), None).await.unwrap();
    assert_eq!(settled, Settled::Stale);
    let (settled, _) = queue.finish(&holder, &done(b"%PDF"), None).await.unwrap();
    assert_eq!(settled, Settled::Accepted);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_deadline_is_judged_by_the_clock_of_redis_at_the_claim() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, b"{\"id\":\"r\",\"deadline_ms\":3600000}\n<p>").await;
    let claimed = expect_claim(&queue).await;
    assert!(!claimed.expired);
    queue.retry(&claimed.lease, Duration::ZERO, true, "again").await.unwrap();
    let key = rig.keys.job(claimed.lease.name());
    let _: i64 = rig.ask(&["HSET", &key, "deadline", &(claimed.claimed_ms - 1).to_string()]).await;
    assert!(expect_claim(&queue).await.expired);
}
