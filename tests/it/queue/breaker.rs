//! A tenant whose template is broken costs others one slot at the most.

use std::time::Duration;

use tillroll::job::Priority::Interactive;
use tillroll::queue::{BROKEN_AFTER, Queue};

use crate::support::observe::{finish, try_claim};
use crate::support::rig::dead;
use crate::support::{Calls, Rig, document, expect_claim};

/// So many jobs of `acme` are admitted, and one attempt of each fails.
async fn fail(rig: &Rig, queue: &Queue, prefix: &str, count: usize, buried: bool) {
    rig.admit_many(queue, Interactive, ("acme", prefix), count).await;
    for _ in 0..count {
        let lease = expect_claim(queue).await.lease;
        if buried {
            queue.finish(&lease, &dead(), None).await.unwrap();
        } else {
            queue.retry(&lease, Duration::from_secs(3600), true, "scripted").await.unwrap();
        }
    }
}

async fn is_broken(rig: &Rig) -> bool {
    rig.ask(&["SISMEMBER", &rig.keys.broken(), "acme"]).await
}

#[tokio::test]
async fn twenty_failures_in_a_row_leave_one_job_at_a_time_until_one_succeeds() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    fail(&rig, &queue, "retried", 10, false).await;
    fail(&rig, &queue, "buried", 9, true).await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 6).await;
    let (one, two) = (expect_claim(&queue).await, expect_claim(&queue).await);
    assert!(!is_broken(&rig).await);
    queue.finish(&one.lease, &dead(), None).await.unwrap();
    assert!(is_broken(&rig).await);
    assert_eq!(rig.events("breaker_opened").await, [(String::new(), "acme".to_owned())]);
    assert_eq!(queue.counts().await.unwrap().broken, 1);
    let tenant = queue.tenant("acme").await.unwrap().unwrap();
    assert_eq!((tenant.broken, tenant.fails), (true, BROKEN_AFTER));
    // The other one still runs: nothing beside it, and another tenant is not touched.
    assert_eq!(try_claim(&queue, true).await, None);
    rig.admit(&queue, &document("other", "r", "<p>")).await;
    assert_eq!(expect_claim(&queue).await.lease.name().tenant(), "other");
    queue.finish(&two.lease, &dead(), None).await.unwrap();
    let third = expect_claim(&queue).await;
    assert_eq!(try_claim(&queue, true).await, None);
    rig.assert_consistent().await;

    finish(&queue, &third).await;
    assert!(!is_broken(&rig).await);
    assert_eq!(rig.events("breaker_closed").await.len(), 1);
    for _ in 0..3 {
        expect_claim(&queue).await;
    }
    rig.assert_consistent().await;
}

#[tokio::test]
async fn what_is_nobodys_fault_does_not_count_and_a_success_starts_anew() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    fail(&rig, &queue, "first", 19, false).await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 2).await;
    for counted in [false, false] {
        let lease = expect_claim(&queue).await.lease;
        queue.retry(&lease, Duration::from_secs(60), counted, "dependency").await.unwrap();
    }
    rig.admit_many(&queue, Interactive, ("acme", "s"), 1).await;
    let claimed = expect_claim(&queue).await;
    queue.retry(&claimed.lease, Duration::ZERO, false, "browser_died").await.unwrap();
    let claimed = expect_claim(&queue).await;
    finish(&queue, &claimed).await;
    fail(&rig, &queue, "second", 19, false).await;
    assert!(!is_broken(&rig).await);
    fail(&rig, &queue, "last", 1, false).await;
    assert!(is_broken(&rig).await);
}

#[tokio::test]
async fn a_broken_tenant_is_known_for_a_day_and_then_forgotten() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    fail(&rig, &queue, "r", 20, true).await;
    let used = rig.keys.used_by("acme");
    let left: u64 = rig.ask(&["PTTL", &used]).await;
    assert!((86_000_000..=86_400_000).contains(&left), "{left} ms");
    // Within the day it is still broken, and its counters do not run out under it.
    rig.admit_many(&queue, Interactive, ("acme", "again"), 2).await;
    assert_eq!(rig.ask::<i64>(&["PTTL", &used]).await, -1);
    let claimed = expect_claim(&queue).await;
    assert_eq!(try_claim(&queue, true).await, None);
    queue.finish(&claimed.lease, &dead(), None).await.unwrap();
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &dead(), None).await.unwrap();
    // After it, housekeeping forgets it.
    rig.ask::<u64>(&["PEXPIRE", &used, "0"]).await;
    queue.housekeep(true).await.unwrap();
    assert!(!is_broken(&rig).await, "nobody can mend it any more");
    assert_eq!(queue.counts().await.unwrap().broken, 0);
}
