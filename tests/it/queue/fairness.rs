//! Tenants share by virtual time, priorities by turns.

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::operate::TenantChange;

use crate::support::observe::{finish, try_claim};
use crate::support::{Rig, document, expect_claim};

fn weight(weight: f64) -> TenantChange {
    TenantChange { weight: Some(weight), ..TenantChange::default() }
}

#[tokio::test]
async fn tenants_share_by_their_weights() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.change_tenant("c", &weight(2.0)).await.unwrap();
    for tenant in ["a", "b", "c"] {
        rig.admit_many(&queue, Interactive, (tenant, "r"), 160).await;
    }
    let shares = rig.shares(&queue, 300).await;
    for (tenant, fair) in [("a", 75.0), ("b", 75.0), ("c", 150.0)] {
        let off = shares[tenant] as f64 / fair - 1.0;
        assert!(off.abs() <= 0.1, "{tenant} has {} of {fair}", shares[tenant]);
    }
    // A changed weight counts from the tenant's next turn on.
    queue.change_tenant("c", &weight(0.5)).await.unwrap();
    rig.admit_many(&queue, Interactive, ("a", "more"), 100).await;
    let shares = rig.shares(&queue, 50).await;
    assert!(shares.get("c").is_none_or(|got| (8..=12).contains(got)), "{shares:?}");
    rig.assert_consistent().await;
}

#[tokio::test]
async fn an_idle_tenant_banks_no_credit() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("busy", "r"), 200).await;
    rig.shares(&queue, 100).await;
    rig.admit_many(&queue, Interactive, ("idle", "r"), 50).await;
    let shares = rig.shares(&queue, 60).await;
    assert!((29..=31).contains(&shares["idle"]), "{shares:?}");
}

#[tokio::test]
async fn tenants_that_come_one_job_at_a_time_do_not_starve_one_that_waits() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("many", "r"), 60).await;
    for tenant in ["b", "c", "d"] {
        rig.admit(&queue, &document(tenant, "0", "<p>")).await;
    }
    let mut served = 0;
    for round in 1..=100 {
        let claimed = expect_claim(&queue).await;
        finish(&queue, &claimed).await;
        match claimed.lease.name().tenant() {
            "many" => served += 1,
            // It has its answer, and pushes the next: idle for a moment.
            tenant => {
                rig.admit(&queue, &document(tenant, &round.to_string(), "<p>")).await;
            }
        }
    }
    assert!((23..=27).contains(&served), "{served} of 100");
}

#[tokio::test]
async fn leaving_and_coming_back_gains_no_weight() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.change_tenant("light", &weight(0.1)).await.unwrap();
    rig.admit_many(&queue, Interactive, ("other", "r"), 100).await;
    rig.admit(&queue, &document("light", "0", "<p>")).await;
    let mut served = 0;
    for round in 1..=88 {
        let claimed = expect_claim(&queue).await;
        finish(&queue, &claimed).await;
        if claimed.lease.name().tenant() == "light" {
            served += 1;
            rig.admit(&queue, &document("light", &round.to_string(), "<p>")).await;
        }
    }
    assert!((7..=9).contains(&served), "{served} of 88, a tenth of the other's are 8");
}

#[tokio::test]
async fn every_ninth_turn_is_bulks_while_both_wait() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "i"), 41).await;
    rig.admit_many(&queue, Bulk, ("acme", "b"), 20).await;
    let mut order = Vec::new();
    for _ in 0..45 {
        order.push(expect_claim(&queue).await.priority);
    }
    let bulk: Vec<_> = (0..45).filter(|turn| order[*turn] == Bulk).collect();
    assert_eq!(bulk, [8, 17, 26, 35, 44]);
    // Alone, neither saves up turns.
    assert_eq!(expect_claim(&queue).await.priority, Interactive);
    for _ in 0..15 {
        assert_eq!(expect_claim(&queue).await.priority, Bulk);
    }
    rig.admit_many(&queue, Bulk, ("acme", "late"), 5).await;
    rig.admit_many(&queue, Interactive, ("acme", "late-i"), 5).await;
    for _ in 0..5 {
        assert_eq!(expect_claim(&queue).await.priority, Interactive);
    }
}

#[tokio::test]
async fn a_slot_kept_from_bulk_never_gets_it() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Bulk, ("acme", "b"), 12).await;
    rig.admit_many(&queue, Interactive, ("acme", "i"), 20).await;
    for _ in 0..20 {
        assert_eq!(try_claim(&queue, false).await.unwrap().priority, Interactive);
    }
    assert_eq!(try_claim(&queue, false).await, None);
    // The turns of others are not used up.
    assert_eq!(rig.ask::<Option<u64>>(&["HGET", &rig.keys.state(), "turn"]).await, None);
    assert_eq!(try_claim(&queue, true).await.unwrap().priority, Bulk);
}

#[tokio::test]
async fn a_name_that_changes_its_priority_is_claimed_as_what_it_is_now() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    queue.cancel(&crate::support::observe::name("acme/r-1")).await.unwrap();
    // Its name still stands in the interactive list.
    rig.admit_through(&queue, Bulk, &document("acme", "r-1", "<p>2")).await;
    assert_eq!(try_claim(&queue, false).await, None, "a kept slot took a bulk job");
    assert_eq!(try_claim(&queue, true).await.unwrap().priority, Bulk);
    rig.assert_consistent().await;
}
