//! A bell rings when work of its kind is left, and only then.

use std::time::Duration;

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::operate::TenantChange;
use tillroll::queue::{Admitted, Next, State};

use crate::support::observe::{finish, name, try_claim};
use crate::support::rig::{dead, done};
use crate::support::{Calls, Rig, document, expect_claim, parsed, under};

#[tokio::test]
async fn each_admission_rings_its_own_bell() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "i", "<p>")).await;
    assert_eq!(rig.bells().await, (true, false));
    expect_claim(&queue).await;
    assert_eq!(rig.bells().await, (false, false), "nothing is left");
    rig.admit_through(&queue, Bulk, &document("acme", "b", "<p>")).await;
    assert_eq!(rig.bells().await, (false, true));
    rig.admit(&queue, b"{\"id\":\"later\",\"delay_ms\":60000}\n<p>").await;
    rig.bells().await;
    expect_claim(&queue).await;
    assert_eq!(rig.bells().await, (false, false), "what is delayed is no work yet");
}

#[tokio::test]
async fn a_claim_rings_for_what_it_leaves() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "i"), 2).await;
    rig.admit_many(&queue, Bulk, ("acme", "b"), 2).await;
    for expected in [(true, true), (false, true), (false, true), (false, false)] {
        rig.bells().await;
        expect_claim(&queue).await;
        assert_eq!(rig.bells().await, expected);
    }
}

#[tokio::test]
async fn a_slot_kept_from_bulk_rings_for_the_bulk_that_it_leaves() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "b", "<p>");
    rig.stage(&queue, Bulk, &element).await;
    let (job, token) = (parsed(Bulk, &element), queue.token());
    let next = Next { bulk: false, ..under(&token) };
    let admitted = queue.admit(Bulk, rig.turn(), &job, element.len(), Some(next)).await.unwrap();
    assert_eq!(admitted, (Admitted::Admitted, None));
    assert_eq!(rig.bells().await, (false, true), "no idle worker hears of it");
    assert_eq!(try_claim(&queue, false).await, None);
    assert_eq!(rig.bells().await, (false, true));
}

#[tokio::test]
async fn whatever_makes_room_or_work_rings() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let cap = TenantChange { running: Some(1), ..TenantChange::default() };
    queue.change_tenant("acme", &cap).await.unwrap();
    rig.admit_many(&queue, Interactive, ("acme", "r"), 6).await;
    rig.bells().await;

    let first = expect_claim(&queue).await;
    assert_eq!(rig.bells().await, (false, false), "the tenant is at its cap");
    finish(&queue, &first).await;
    assert_eq!(rig.bells().await, (true, false), "after a finish");
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &dead(), None).await.unwrap();
    assert_eq!(rig.bells().await, (true, false), "after a burial");
    let claimed = expect_claim(&queue).await;
    queue.retry(&claimed.lease, Duration::from_secs(60), true, "x").await.unwrap();
    assert_eq!(rig.bells().await, (true, false), "after a failure");
    let claimed = expect_claim(&queue).await;
    queue.retry(&claimed.lease, Duration::ZERO, false, "x").await.unwrap();
    assert_eq!(rig.bells().await, (true, false), "after a release");
    let claimed = expect_claim(&queue).await;
    rig.expire_lease(&claimed.lease.name().to_string()).await;
    queue.housekeep(true).await.unwrap();
    assert_eq!(rig.bells().await, (true, false), "after a reaped lease");

    queue.set_state(State::Paused).await.unwrap();
    rig.bells().await;
    assert_eq!(try_claim(&queue, true).await, None);
    assert_eq!(rig.bells().await, (false, false));
    queue.set_state(State::Open).await.unwrap();
    assert_eq!(rig.bells().await, (true, false), "after a pause");
    queue.revive(&name("acme/r-1")).await.unwrap();
    assert_eq!(rig.bells().await, (true, false), "after a revival");
}

#[tokio::test]
async fn a_finish_rings_for_what_its_own_claim_could_not_take() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "i", "<p>")).await;
    let claimed = expect_claim(&queue).await;
    rig.admit_through(&queue, Bulk, &document("acme", "b", "<p>")).await;
    rig.bells().await;
    let token = queue.token();
    let next = Next { bulk: false, ..under(&token) };
    let (_, none) = queue.finish(&claimed.lease, &done(b"%PDF"), Some(next)).await.unwrap();
    assert_eq!(none, None);
    assert_eq!(rig.bells().await, (false, true));
}
