//! Forgetting a tenant, or one job.

use std::time::Duration;

use tillroll::job::Name;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::operate::TenantChange;
use tillroll::queue::{Forget, Forgotten, Queue, State};
use tillroll::worker::Stop;

use crate::support::rig::{dead, done, past};
use crate::support::{Calls, Rig, Running, Scripted, document, expect_claim};

fn tenant(name: &str) -> Forget {
    Forget::Tenant(name.to_owned())
}

fn job(name: &str) -> Forget {
    Forget::Job(Name::parse(name).unwrap())
}

async fn forget(queue: &Queue, whom: &Forget) -> Forgotten {
    queue.forget(whom, |_| ()).await.unwrap()
}

/// Everything that Redis has, as text: keys and what is in them.
async fn everything(rig: &Rig) -> String {
    let mut text = String::new();
    for key in rig.ask::<Vec<String>>(&["KEYS", "*"]).await {
        let kind: String = rig.ask(&["TYPE", &key]).await;
        let value: redis::Value = match kind.as_str() {
            "list" => rig.ask(&["LRANGE", &key, "0", "-1"]).await,
            "hash" => rig.ask(&["HGETALL", &key]).await,
            "zset" => rig.ask(&["ZRANGE", &key, "0", "-1"]).await,
            "set" => rig.ask(&["SMEMBERS", &key]).await,
            "stream" => rig.ask(&["XRANGE", &key, "-", "+"]).await,
            _ => rig.ask(&["GET", &key]).await,
        };
        text.push_str(&format!("{key} {value:?}\n"));
    }
    text
}

/// Jobs of `acme` in every state but running, with an unread reply, a stored PDF, a
/// dead letter with a history, lines on shared lists; and some of `zeta`.
async fn lived_in() -> (Rig, Queue) {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.renew(&[], "{}").await.unwrap();
    for who in ["acme", "zeta"] {
        rig.admit(&queue, &document(who, "done", "<p>")).await;
        queue.finish(&expect_claim(&queue).await.lease, &done(b"%PDF"), None).await.unwrap();
        rig.admit(&queue, &document(who, "dead", "<p>")).await;
        let lease = expect_claim(&queue).await.lease;
        queue.fail(&lease, Duration::ZERO, &past("scripted", true)).await.unwrap();
        queue.finish(&expect_claim(&queue).await.lease, &dead(), None).await.unwrap();
        rig.admit(&queue, &document(who, "stored", "<p>")).await;
        let mut stored = done(b"%PDF");
        stored.output = tillroll::job::Output::Stored { ttl: Duration::from_secs(60) };
        stored.reply_to = Some("mailer".to_owned());
        stored.line = format!("{{\"id\":\"stored\",\"tenant\":\"{who}\"}}");
        queue.finish(&expect_claim(&queue).await.lease, &stored, None).await.unwrap();
        rig.stage(&queue, Interactive, b"?").await;
        let line = format!("{{\"id\":\"bad\",\"tenant\":\"{who}\",\"status\":\"rejected\"}}");
        let ttl = Duration::from_secs(60);
        queue.rejects(rig.turn(), None, "bad", &line, ttl, None).await.unwrap();
        rig.admit(&queue, &document(who, "ready", "<p>")).await;
        rig.admit_through(&queue, Bulk, &document(who, "bulk", "<p>")).await;
        let delayed = format!(
            "{{\"id\":\"delayed\",\"tenant\":\"{who}\",\"delay_ms\":9000,\"deadline_ms\":99000}}\n<p>"
        );
        rig.admit(&queue, delayed.as_bytes()).await;
        let paused = TenantChange { state: Some(State::Paused), ..TenantChange::default() };
        queue.change_tenant(who, &paused).await.unwrap();
    }
    for who in ["acme", "zeta"] {
        let state = Some(State::Open);
        let change = TenantChange { state, weight: Some(2.0), ..TenantChange::default() };
        queue.change_tenant(who, &change).await.unwrap();
    }
    (rig, queue)
}

#[tokio::test]
async fn nothing_is_left_of_a_tenant_and_all_of_the_others() {
    let (rig, queue) = lived_in().await;
    let mut heard = Vec::new();
    let done = queue.forget(&tenant("acme"), |so_far| heard.push(so_far.clone())).await.unwrap();
    let events = done.events;
    assert!(events > 8, "{done:?}");
    let expected = Forgotten {
        jobs: 6,
        cancelled: 3,
        documents: 1,
        results: 3,
        dead: 1,
        lines: 2,
        events,
        ..Forgotten::default()
    };
    assert_eq!(done, expected);
    assert_eq!(heard.last(), Some(&done));
    let left = everything(&rig).await;
    assert!(!left.contains("acme"), "{left}");
    rig.assert_consistent().await;
    for name in ["zeta/done", "zeta/dead", "zeta/stored", "zeta/ready", "zeta/bulk", "zeta/delayed"]
    {
        assert!(rig.field(name, "state").await.is_some(), "{name} is gone");
    }
    assert_eq!(rig.length(&rig.keys.malformed()).await, 1);
    assert_eq!(rig.reply_to("mailer").await.line["tenant"], "zeta");
    assert!(queue.fsck(false).await.unwrap().is_clean());
    // Nothing is left to do, and the name may be used again.
    assert_eq!(forget(&queue, &tenant("acme")).await, Forgotten::default());
    rig.admit(&queue, &document("acme", "ready", "<p>")).await;
    assert_eq!(expect_claim(&queue).await.lease.name().to_string(), "acme/ready");
}

#[tokio::test]
async fn one_job_is_forgotten_and_its_neighbours_stay() {
    let (rig, queue) = lived_in().await;
    rig.admit(&queue, &document("acme", "ready-2", "<p>")).await;
    for name in ["acme/ready", "acme/delayed", "acme/dead", "acme/done", "acme/stored"] {
        let done = forget(&queue, &job(name)).await;
        assert_eq!((done.jobs, done.unread), (1, 0), "{name}: {done:?}");
        assert!(!everything(&rig).await.contains(&format!("{name} ")), "{name}");
        let left = everything(&rig).await.replace("acme/ready-2", "");
        assert!(!left.contains(name), "{name}: {left}");
        rig.assert_consistent().await;
        assert_eq!(forget(&queue, &job(name)).await, Forgotten::default(), "{name}");
    }
    let settings = queue.tenant("acme").await.unwrap().unwrap();
    assert_eq!((settings.jobs, settings.weight), (2, 2.0));
    assert!(queue.fsck(false).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_run_is_forgotten_with_its_new_tenants_and_no_others() {
    let (rig, queue) = lived_in().await;
    for (who, id) in [("novice", "run-1"), ("novice", "run-2"), ("acme", "run-3")] {
        rig.admit(&queue, &document(who, id, "<p>")).await;
    }
    rig.admit(&queue, &document("acme", "a-run-4", "<p>")).await;
    let whom = Forget::Run { ids: "run-".to_owned(), tenants: vec!["novice".to_owned()] };
    let done = forget(&queue, &whom).await;
    assert_eq!((done.jobs, done.cancelled, done.kept), (3, 3, false), "{done:?}");
    assert_eq!(done.events, 6, "three were admitted, three cancelled");
    let left = everything(&rig).await;
    assert!(!left.contains("novice") && !left.contains("/run-"), "{left}");
    rig.assert_consistent().await;
    let acme = queue.tenant("acme").await.unwrap().unwrap();
    assert_eq!((acme.jobs, acme.weight), (4, 2.0), "what it had before stays");
    assert!(rig.field("acme/a-run-4", "state").await.is_some());
    assert_eq!(forget(&queue, &whom).await, Forgotten::default());
}

#[tokio::test]
async fn a_running_job_is_stopped_first() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let worker = Running::start(&rig, "w1", &renderer, 2).await;
    rig.push(Interactive, &document("acme", "runs", "<p>")).await;
    renderer.wait_started(1).await;
    let queue = rig.queue("operator").await;
    let done = forget(&queue, &tenant("acme")).await;
    assert_eq!((done.jobs, done.cancelled, done.results, done.running.len()), (1, 1, 1, 0));
    let left = everything(&rig).await;
    assert!(!left.contains("acme"), "{left}");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_job_whose_worker_died_is_waited_for_until_its_lease_is_over() {
    let rig = Rig::new();
    let died = rig.queue("w1").await;
    rig.admit(&died, &document("acme", "held", "<p>")).await;
    expect_claim(&died).await;
    let queue = rig.queue_with_lease("operator", Duration::from_millis(1)).await;
    // Nobody keeps house: it is said.
    let done = forget(&queue, &tenant("acme")).await;
    assert_eq!(done.running, ["acme/held"]);
    assert!(done.kept, "its counters are those of a living job");
    assert_eq!(rig.field("acme/held", "state").await.as_deref(), Some("leased"));
    rig.assert_consistent().await;
    // Somebody does, while it waits: the lease is over, the job waits, and is cancelled.
    let acme = tenant("acme");
    let (done, ()) = tokio::join!(forget(&queue, &acme), async {
        rig.event("cancelling", "acme/held").await;
        rig.expire_lease("acme/held").await;
        assert_eq!(died.housekeep(true).await.unwrap().reaped, 1);
    });
    assert_eq!((done.jobs, done.cancelled, done.running.len()), (1, 1, 0));
    assert!(!done.kept);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn what_nobody_has_read_is_counted() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for inbox in [Interactive, Bulk] {
        rig.push(inbox, &document("acme", "r", "<p>")).await;
    }
    let stage = rig.keys.stage(Interactive, "w1");
    let _: i64 = rig.ask(&["RPUSH", &stage, "?"]).await;
    assert_eq!(forget(&queue, &tenant("acme")).await.unread, 3);
}
