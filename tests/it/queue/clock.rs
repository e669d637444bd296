//! Redis' clock jumps, or Redis was away: leases that nobody could renew are not
//! taken from the living.

use std::time::Duration;

use tillroll::queue::Queue;

use crate::support::observe::name;
use crate::support::{Rig, document, expect_claim};

const HOUR_MS: i64 = 3_600_000;

async fn now(rig: &Rig) -> i64 {
    let (seconds, micros): (i64, i64) = rig.ask(&["TIME"]).await;
    seconds * 1000 + micros / 1000
}

async fn set_state(rig: &Rig, field: &str, value: i64) {
    rig.ask::<u64>(&["HSET", &rig.keys.state(), field, &value.to_string()]).await;
}

/// A lease that ran out, a delayed job that is due, and one past its deadline.
async fn all_due(rig: &Rig) -> Queue {
    let queue = rig.queue_with_lease("w1", Duration::from_secs(20)).await;
    queue.renew(&[], "{}").await.unwrap();
    assert!(!queue.housekeep(true).await.unwrap().clock_holds, "the first round is as good as any");
    rig.admit(&queue, &document("acme", "leased", "<p>")).await;
    expect_claim(&queue).await;
    rig.expire_lease("acme/leased").await;
    rig.admit(&queue, b"{\"id\":\"delayed\",\"tenant\":\"acme\",\"delay_ms\":3600000}\n<p>").await;
    rig.make_due("acme/delayed").await;
    let late = b"{\"id\":\"late\",\"tenant\":\"acme\",\"deadline_ms\":3600000}\n<p>";
    rig.admit(&queue, late).await;
    rig.ask::<u64>(&["ZADD", &rig.keys.deadlines(), "XX", "CH", "1", "acme/late"]).await;
    queue
}

async fn nothing_moves(queue: &Queue) {
    let kept = queue.housekeep(true).await.unwrap();
    assert!(kept.clock_holds);
    assert_eq!((kept.reaped, kept.promoted, kept.overdue.len()), (0, 0, 0));
}

async fn all_moves(queue: &Queue) {
    let kept = queue.housekeep(true).await.unwrap();
    assert!(!kept.clock_holds);
    assert_eq!((kept.reaped, kept.promoted, kept.overdue.len()), (1, 1, 1));
}

fn clock(code: &str) -> [(String, String); 1] {
    [(String::new(), code.to_owned())]
}

#[tokio::test]
async fn after_a_gap_nothing_is_reaped_promoted_or_expired_for_the_grace() {
    let rig = Rig::new();
    let queue = all_due(&rig).await;
    set_state(&rig, "seen", now(&rig).await - HOUR_MS).await;
    nothing_moves(&queue).await;
    nothing_moves(&queue).await;
    assert_eq!(rig.events("clock").await, clock("gap"), "said once");
    let until: i64 = rig.ask(&["HGET", &rig.keys.state(), "hold_until"]).await;
    let left = until - now(&rig).await;
    assert!((8_000..=10_000).contains(&left), "{left} ms: half a lease");
    set_state(&rig, "hold_until", now(&rig).await).await;
    all_moves(&queue).await;
}

#[tokio::test]
async fn a_pause_that_a_living_worker_may_make_is_no_gap() {
    let rig = Rig::new();
    let queue = all_due(&rig).await;
    set_state(&rig, "seen", now(&rig).await - 8_000).await;
    all_moves(&queue).await;
    assert_eq!(rig.events("clock").await, []);
}

#[tokio::test]
async fn a_clock_that_went_back_does_not_stretch_leases_or_heartbeats() {
    let rig = Rig::new();
    let queue = all_due(&rig).await;
    let ahead = now(&rig).await + HOUR_MS;
    set_state(&rig, "seen", ahead).await;
    rig.admit(&queue, &document("acme", "stretched", "<p>")).await;
    expect_claim(&queue).await;
    expect_claim(&queue).await;
    let of = ahead.to_string();
    rig.ask::<u64>(&["ZADD", &rig.keys.leased(), "XX", "CH", &of, "acme/stretched"]).await;
    rig.ask::<u64>(&["ZADD", &rig.keys.workers(), &of, "w1"]).await;
    nothing_moves(&queue).await;
    assert_eq!(rig.events("clock").await, clock("back"));
    let now = now(&rig).await;
    let lease: i64 = rig.ask(&["ZSCORE", &rig.keys.leased(), "acme/stretched"]).await;
    assert!(lease <= now + 20_000, "its worker may be dead for an hour");
    assert!(lease > now, "it holds for as long as any");
    let beat: i64 = rig.ask(&["ZSCORE", &rig.keys.workers(), "w1"]).await;
    assert!(beat <= now && beat > now - 5_000);
    nothing_moves(&queue).await;
    assert_eq!(rig.events("clock").await.len(), 1);
}

#[tokio::test]
async fn a_hold_from_before_the_clock_went_back_is_no_hold_for_an_hour() {
    let rig = Rig::new();
    let queue = all_due(&rig).await;
    set_state(&rig, "held_from", now(&rig).await + HOUR_MS - 10_000).await;
    set_state(&rig, "hold_until", now(&rig).await + HOUR_MS).await;
    all_moves(&queue).await;
}

#[tokio::test]
async fn a_living_worker_keeps_its_jobs_through_a_gap_and_a_dead_one_loses_them_later() {
    let rig = Rig::new();
    let queue = rig.queue_with_lease("w1", Duration::from_secs(20)).await;
    queue.housekeep(true).await.unwrap();
    for id in ["alive", "dead"] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
    }
    let (alive, _) = (expect_claim(&queue).await, expect_claim(&queue).await);
    for id in ["alive", "dead"] {
        rig.expire_lease(&format!("acme/{id}")).await;
    }
    set_state(&rig, "seen", now(&rig).await - HOUR_MS).await;
    nothing_moves(&queue).await;
    let lease = (alive.lease.name().clone(), alive.lease.token().to_owned());
    assert_eq!(queue.renew(&[lease], "{}").await.unwrap().lost, [""; 0]);
    set_state(&rig, "hold_until", now(&rig).await).await;
    assert_eq!(queue.housekeep(true).await.unwrap().reaped, 1);
    assert_eq!(rig.field("acme/alive", "state").await.unwrap(), "leased");
    assert_eq!(rig.field("acme/dead", "crashes").await.unwrap(), "1");
    assert_eq!(queue.history(&name("acme/dead")).await.unwrap().len(), 1);
    rig.assert_consistent().await;
}
