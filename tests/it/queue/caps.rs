//! What a tenant or the queue may have: running, waiting, paused, drained.

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::job::{Isolation, Rules};
use tillroll::queue::operate::TenantChange;
use tillroll::queue::{Admitted, Limit, Queue, State};
use tillroll::worker::Stop;

use crate::support::observe::{finish, try_claim};
use crate::support::{Rig, Running, Scripted, document, expect_claim};

fn running(cap: u64) -> TenantChange {
    TenantChange { running: Some(cap), ..TenantChange::default() }
}

fn state(state: State) -> TenantChange {
    TenantChange { state: Some(state), ..TenantChange::default() }
}

/// Claims until nothing comes; how many.
async fn drain(queue: &Queue) -> usize {
    let mut claimed = 0;
    while try_claim(queue, true).await.is_some() {
        claimed += 1;
    }
    claimed
}

#[tokio::test]
async fn a_tenant_runs_no_more_jobs_than_its_cap() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.change_tenant("acme", &running(3)).await.unwrap();
    rig.admit_many(&queue, Interactive, ("acme", "r"), 12).await;
    rig.admit_many(&queue, Bulk, ("acme", "b"), 3).await;
    let first = expect_claim(&queue).await;
    assert_eq!(drain(&queue).await, 2, "three in all, of both priorities");
    rig.assert_consistent().await;
    finish(&queue, &first).await;
    assert_eq!(drain(&queue).await, 1);
    // Raised while jobs wait: at once. Lowered: as they end.
    queue.change_tenant("acme", &running(5)).await.unwrap();
    let one = expect_claim(&queue).await;
    assert_eq!(drain(&queue).await, 1);
    queue.change_tenant("acme", &running(4)).await.unwrap();
    finish(&queue, &one).await;
    assert_eq!(drain(&queue).await, 0);
    rig.assert_consistent().await;
    // 0: the queue's default, which is none here.
    queue.change_tenant("acme", &running(0)).await.unwrap();
    assert_eq!(drain(&queue).await, 15 - 6);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn what_was_decided_for_a_tenant_comes_with_each_claim() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 4).await;
    let rules = |isolation, scripts| Rules { isolation, scripts };
    let change = |isolation, scripts| TenantChange { isolation, scripts, ..Default::default() };
    assert_eq!(expect_claim(&queue).await.rules, Rules::default());
    let both = change(Some(Some(Isolation::Browser)), Some(Some(false)));
    queue.change_tenant("acme", &both).await.unwrap();
    let decided = rules(Some(Isolation::Browser), Some(false));
    assert_eq!(expect_claim(&queue).await.rules, decided);
    let tenant = queue.tenant("acme").await.unwrap().unwrap();
    assert_eq!((tenant.isolation, tenant.scripts), (Some("browser"), Some(false)));
    // What is not named stays; `None` is taken back.
    queue.change_tenant("acme", &change(Some(None), None)).await.unwrap();
    assert_eq!(expect_claim(&queue).await.rules, rules(None, Some(false)));
    queue.change_tenant("acme", &change(None, Some(Some(true)))).await.unwrap();
    assert_eq!(expect_claim(&queue).await.rules, rules(None, Some(true)));
    queue.change_tenant("other", &change(Some(Some(Isolation::Job)), None)).await.unwrap();
    rig.assert_consistent().await;
}

#[tokio::test]
async fn the_queues_own_cap_holds_where_a_tenant_has_none() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.set_limit("tenant_running", Some(2)).await.unwrap();
    queue.change_tenant("large", &running(4)).await.unwrap();
    for tenant in ["acme", "large"] {
        rig.admit_many(&queue, Interactive, (tenant, "r"), 9).await;
    }
    assert_eq!(rig.shares(&queue, 6).await, [("acme".into(), 2), ("large".into(), 4)].into());
    assert_eq!(drain(&queue).await, 0);
    // Raised while nobody ends: who was at the cap goes on at once.
    queue.set_limit("tenant_running", Some(3)).await.unwrap();
    rig.assert_consistent().await;
    assert_eq!(drain(&queue).await, 1);
    queue.set_limit("tenant_running", None).await.unwrap();
    let one = expect_claim(&queue).await;
    // Lowered while jobs wait: not one more is started.
    queue.set_limit("tenant_running", Some(2)).await.unwrap();
    rig.assert_consistent().await;
    assert_eq!(drain(&queue).await, 0);
    finish(&queue, &one).await;
    assert_eq!(drain(&queue).await, 0);
}

#[tokio::test]
async fn a_paused_tenant_waits_and_the_others_go_on() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for tenant in ["acme", "other"] {
        rig.admit_many(&queue, Interactive, (tenant, "r"), 3).await;
    }
    queue.change_tenant("acme", &state(State::Paused)).await.unwrap();
    assert_eq!(rig.admit(&queue, &document("acme", "new", "<p>")).await, Admitted::Admitted);
    rig.assert_consistent().await;
    assert_eq!(rig.shares(&queue, 3).await, [("other".into(), 3)].into());
    assert_eq!(drain(&queue).await, 0);
    queue.change_tenant("acme", &state(State::Open)).await.unwrap();
    assert_eq!(drain(&queue).await, 4);
    let tenant = queue.tenant("acme").await.unwrap().unwrap();
    assert_eq!((tenant.state, tenant.jobs, tenant.running), (State::Open, 4, 4));
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_drained_tenant_or_queue_takes_nothing_new_and_finishes_the_rest() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 2).await;
    queue.change_tenant("acme", &state(State::Draining)).await.unwrap();
    let element = document("acme", "new", "<p>");
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Full(Limit::Draining));
    rig.ask::<u64>(&["DEL", &rig.keys.stage(Interactive, "w1")]).await;
    assert_eq!(rig.admit(&queue, &document("other", "new", "<p>")).await, Admitted::Admitted);
    // What is known already is answered as ever.
    assert_eq!(rig.admit(&queue, &document("acme", "r-0", "<p>")).await, Admitted::Duplicate);
    queue.change_tenant("acme", &state(State::Open)).await.unwrap();
    queue.set_state(State::Draining).await.unwrap();
    assert_eq!(queue.state().await.unwrap(), State::Draining);
    let refused = rig.admit(&queue, &document("other", "newer", "<p>")).await;
    assert_eq!(refused, Admitted::Full(Limit::Draining));
    assert_eq!(drain(&queue).await, 3);
}

#[tokio::test]
async fn a_paused_queue_starts_nothing_and_goes_on_by_itself() {
    let rig = Rig::new();
    let operator = rig.queue("operator").await;
    let renderer = Scripted::open();
    let mut worker = Running::start(&rig, "w1", &renderer, 2).await;
    operator.set_state(State::Paused).await.unwrap();
    rig.push(Interactive, &document("acme", "r", "<p>")).await;
    assert_eq!(rig.event("admitted", "acme/r").await, "interactive");
    worker.wait_for("paused", |seen| !seen.claims.ok).await;
    let why = worker.snapshot.borrow().claims.why.clone().unwrap_or_default();
    assert!(why.contains("tillroll queue resume"), "{why}");
    assert_eq!(renderer.rendered(), [""; 0]);
    operator.set_state(State::Open).await.unwrap();
    assert_eq!(rig.reply("acme/r").await.status(), "done");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn every_limit_has_its_rejection_and_says_when_to_come_back() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    let renderer = Scripted::gated();
    let worker = Running::start(&rig, "w1", &renderer, 1).await;
    rig.push(Interactive, &document("acme", "first", "<p>")).await;
    renderer.wait_started(1).await;
    let bytes = document("acme", "first", "<p>").len() as u64;
    let caps = |jobs, bytes| TenantChange { jobs, bytes, ..TenantChange::default() };
    let cases = ["jobs", "bytes", "tenant_jobs", "tenant_bytes", "own jobs", "own bytes"];
    for (index, limit) in cases.iter().enumerate() {
        match *limit {
            "own jobs" => queue.change_tenant("acme", &caps(Some(1), None)).await.unwrap(),
            "own bytes" => queue.change_tenant("acme", &caps(None, Some(bytes + 5))).await.unwrap(),
            name if name.ends_with("jobs") => queue.set_limit(name, Some(1)).await.unwrap(),
            name => queue.set_limit(name, Some(bytes + 5)).await.unwrap(),
        }
        let id = format!("r-{index}");
        rig.push(Interactive, &document("acme", &id, "<p>")).await;
        let answer = rig.reply(&format!("acme/{id}")).await;
        let code = if index < 2 { "queue_full" } else { "tenant_full" };
        assert_eq!((answer.status(), answer.code()), ("rejected", code), "{limit}");
        assert!(answer.line["error"]["retry_ms"].as_u64().unwrap() >= 1000, "{limit}");
        if limit.starts_with("own") {
            queue.change_tenant("acme", &caps(Some(0), Some(0))).await.unwrap();
        } else {
            queue.set_limit(limit, None).await.unwrap();
        }
    }
    queue.set_state(State::Draining).await.unwrap();
    rig.push(Interactive, &document("acme", "drained", "<p>")).await;
    let answer = rig.reply("acme/drained").await;
    assert_eq!((answer.status(), answer.code()), ("rejected", "draining"));
    assert!(answer.line["error"]["retry_ms"].as_u64().unwrap() >= 1000);
    queue.set_state(State::Open).await.unwrap();
    rig.push(Interactive, &document("acme", "last", "<p>")).await;
    renderer.open_gate();
    for id in ["first", "last"] {
        assert_eq!(rig.reply(&format!("acme/{id}")).await.status(), "done");
    }
    worker.stop(Stop::Drain).await;
    queue.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_tenants_own_caps_win_over_the_queues() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.set_limit("tenant_jobs", Some(1)).await.unwrap();
    let cap = TenantChange { jobs: Some(2), ..TenantChange::default() };
    queue.change_tenant("large", &cap).await.unwrap();
    rig.admit_many(&queue, Interactive, ("large", "r"), 2).await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 1).await;
    for tenant in ["large", "acme"] {
        let refused = rig.admit(&queue, &document(tenant, "new", "<p>")).await;
        assert_eq!(refused, Admitted::Full(Limit::TenantJobs), "{tenant}");
        rig.ask::<u64>(&["DEL", &rig.keys.stage(Interactive, "w1")]).await;
    }
}
