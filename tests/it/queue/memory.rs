//! What is kept in Redis of memory, and a job that waits for it.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tillroll::job::Name;
use tillroll::job::Priority::Interactive;
use tillroll::memory::{Governor, Probe, Settings, verdicts};
use tillroll::queue::{Lease, Past, Queue};
use tillroll::worker::Stop;

use crate::support::rig::{PATIENCE, past};
use crate::support::{Calls, Rig, Running, Scripted, document, expect_claim, parsed};

#[tokio::test]
async fn what_a_job_needs_alone_goes_with_it_to_whoever_takes_it() {
    let rig = Rig::new();
    let (one, other) = (rig.queue("w1").await, rig.queue("w2").await);
    rig.admit(&one, &document("acme", "r", "<p>")).await;
    let claimed = expect_claim(&one).await;
    assert_eq!(claimed.needs, None);
    let mut outgrown = past("memory_outgrown", false);
    outgrown.needs_bytes = Some(700 << 20);
    one.release(&claimed.lease, "memory_outgrown", false, Some(&outgrown)).await.unwrap();
    let again = expect_claim(&other).await;
    assert_eq!(again.needs, Some(700 << 20));
    // A later release that knows nothing does not take it back.
    other.release(&again.lease, "released", false, None).await.unwrap();
    let again = expect_claim(&one).await;
    assert_eq!(again.needs, Some(700 << 20));
    // Nor does a failure; but one that knows better is believed.
    other_failure(&one, &again.lease, None).await;
    let again = expect_claim(&other).await;
    assert_eq!(again.needs, Some(700 << 20));
    other_failure(&other, &again.lease, Some(900 << 20)).await;
    assert_eq!(expect_claim(&one).await.needs, Some(900 << 20));
    rig.assert_consistent().await;
}

async fn other_failure(queue: &Queue, lease: &Lease, needs_bytes: Option<u64>) {
    let fenced = Past { needs_bytes, ..past("memory_fence", false) };
    queue.fail(lease, Duration::ZERO, &fenced).await.unwrap();
}

#[tokio::test]
async fn verdicts_are_told_in_order_and_bounded() {
    let rig = Rig::new();
    let (one, other) = (rig.queue("w1").await, rig.queue("w2").await);
    for number in 0..1_030 {
        one.keep_verdict(&format!("{number:064x} {number}")).await.unwrap();
    }
    let lines = other.verdicts().await.unwrap();
    assert_eq!(lines.len(), 1_024);
    assert!(lines[0].ends_with(" 6") && lines[1_023].ends_with(" 1029"), "{}", lines[0]);
    let left: i64 = rig.ask(&["PTTL", &rig.keys.verdicts()]).await;
    assert!(left > 0, "{left}");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_job_whose_deadline_passes_while_it_waits_for_memory_expires() {
    let rig = Rig::new();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 400000 kB\n").unwrap();
    let settings = Settings { limit: None, reserve: 0, per_render: 1 << 20, redis: 0, slots: 3 };
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let renderer = Scripted::gated();
    let queue = rig.queue("w1").await;
    let mut worker = Running::governed(queue, &renderer, governor, PATIENCE);
    rig.push(Interactive, &document("acme", "light", "<p>")).await;
    renderer.wait_started(1).await;
    let rows = "<tr><td>1</td></tr>".repeat(50_000);
    let header = "{\"id\":\"heavy\",\"tenant\":\"acme\",\"deadline_ms\":3000}";
    let pushed = tokio::time::Instant::now();
    rig.push(Interactive, format!("{header}\n<table>{rows}</table>").as_bytes()).await;
    worker
        .wait_for("one waits", |seen| {
            seen.memory.governor.as_ref().is_some_and(|governor| governor.waiting == 1)
        })
        .await;
    let answer = rig.reply("acme/heavy").await;
    assert_eq!((answer.status(), answer.code()), ("expired", "expired"));
    assert_eq!(answer.line["attempts"], 0, "{}", answer.line);
    assert!(pushed.elapsed() >= Duration::from_millis(2_900), "{:?}", pushed.elapsed());
    renderer.open_gate();
    assert_eq!(rig.reply("acme/light").await.status(), "done");
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>"]);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_worker_that_drains_gives_back_what_waits_for_memory_with_its_deadline() {
    let rig = Rig::new();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 400000 kB\n").unwrap();
    let settings = Settings { limit: None, reserve: 0, per_render: 1 << 20, redis: 0, slots: 3 };
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let renderer = Scripted::gated();
    let queue = rig.queue("w1").await;
    let mut worker = Running::governed(queue, &renderer, governor, PATIENCE);
    rig.push(Interactive, &document("acme", "light", "<p>")).await;
    renderer.wait_started(1).await;
    let rows = "<tr><td>1</td></tr>".repeat(50_000);
    let header = "{\"id\":\"heavy\",\"tenant\":\"acme\",\"deadline_ms\":3600000}";
    rig.push(Interactive, format!("{header}\n<table>{rows}</table>").as_bytes()).await;
    worker
        .wait_for("one waits", |seen| {
            seen.memory.governor.as_ref().is_some_and(|governor| governor.waiting == 1)
        })
        .await;
    let stopping = worker.stop(Stop::Abort);
    assert_eq!(stopping.await.released, 2);
    assert_eq!(rig.event("released", "acme/heavy").await, "unbegun");
    assert_eq!(rig.event("released", "acme/light").await, "released");
    let other = rig.queue("w2").await;
    let claims = [expect_claim(&other).await, expect_claim(&other).await];
    let heavy = claims.iter().find(|claimed| claimed.lease.name().id() == "heavy").unwrap();
    assert!(heavy.begin_by.is_some());
}

/// A worker on a machine with 400 MB, of which one job that is held at the renderer's gate
/// has some; and a second one that waits for much more.
async fn one_waits(rig: &Rig, renderer: &Arc<Scripted>) -> (Running, Governor, Vec<u8>, TempDir) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 400000 kB\n").unwrap();
    let settings = Settings { limit: None, reserve: 0, per_render: 1 << 20, redis: 0, slots: 3 };
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let queue = rig.queue("w1").await;
    let mut worker = Running::governed(queue, renderer, governor.clone(), PATIENCE);
    rig.push(Interactive, &document("acme", "light", "<p>")).await;
    renderer.wait_started(1).await;
    let rows = "<tr><td>1</td></tr>".repeat(50_000);
    let header = "{\"id\":\"heavy\",\"tenant\":\"acme\",\"deadline_ms\":3600000}";
    let heavy = format!("{header}\n<table>{rows}</table>").into_bytes();
    rig.push(Interactive, &heavy).await;
    worker
        .wait_for("one waits", |seen| {
            seen.memory.governor.as_ref().is_some_and(|governor| governor.waiting == 1)
        })
        .await;
    (worker, governor, heavy, root)
}

#[tokio::test]
async fn a_job_that_waits_ends_when_its_document_is_found_to_be_too_big() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let (worker, governor, heavy, _root) = one_waits(&rig, &renderer).await;
    let live = governor.live().unwrap();
    let digest = tillroll::worker::digest(&parsed(Interactive, &heavy));
    // Less than there is: that says nothing.
    live.judge(&[verdicts::line(&digest, 1 << 20)]);
    live.judge(&[verdicts::line(&digest, 10 << 30)]);
    let answer = rig.reply("acme/heavy").await;
    assert_eq!((answer.status(), answer.code()), ("dead", "memory_exceeded"));
    let message = answer.line["error"]["message"].as_str().unwrap();
    assert!(message.contains("10240 MiB") && message.contains("not rendered"), "{message}");
    renderer.open_gate();
    assert_eq!(rig.reply("acme/light").await.status(), "done");
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>"]);
}

#[tokio::test]
async fn a_job_that_only_waited_has_no_part_in_its_workers_death() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let (worker, _, _, _root) = one_waits(&rig, &renderer).await;
    let waits = async |id: &str, wanted: &str| {
        let told = async {
            while rig.field(&format!("acme/{id}"), "waits").await.as_deref() != Some(wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("{id}: not {wanted}"));
    };
    waits("heavy", "1").await;
    assert_eq!(rig.field("acme/light", "waits").await, None, "nothing is told of who began");
    worker.kill().await;
    let other = rig.queue("w2").await;
    for (id, crashes) in [("heavy", 0), ("light", 1)] {
        rig.expire_lease(&format!("acme/{id}")).await;
        assert_eq!(other.housekeep(true).await.unwrap().reaped, 1);
        let claimed = expect_claim(&other).await;
        assert_eq!((claimed.lease.name().id(), claimed.attempt), (id, 1));
        assert_eq!(claimed.crashes, crashes, "{id}");
        // It has to begin in time still.
        assert_eq!(claimed.begin_by.is_some(), id == "heavy");
    }
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_job_that_waited_and_then_began_counts_its_workers_death() {
    let rig = Rig::new();
    let (gone, other) = (rig.queue("gone").await, rig.queue("other").await);
    rig.admit(&gone, &document("acme", "r", "<p>")).await;
    for (crashes, calls) in [(0, "w"), (1, "wb"), (2, "bw"), (3, "b"), (4, "")] {
        let claimed = expect_claim(&gone).await;
        for call in calls.chars() {
            match call {
                'w' => gone.waits(&claimed.lease).await.unwrap(),
                _ => gone.begins(&claimed.lease).await.unwrap(),
            }
        }
        rig.expire_lease("acme/r").await;
        other.housekeep(true).await.unwrap();
        let again = expect_claim(&other).await;
        assert_eq!(again.crashes, crashes, "{calls}");
        // Who lost its lease has nothing to say.
        gone.waits(&claimed.lease).await.unwrap();
        assert_eq!(rig.field("acme/r", "waits").await, None);
        other.retry(&again.lease, Duration::ZERO, false, "released").await.unwrap();
        rig.assert_consistent().await;
    }
}

#[tokio::test]
async fn before_a_job_begins_that_waited_long_that_is_told() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let (worker, _, _, _root) = one_waits(&rig, &renderer).await;
    let told = async {
        while rig.field("acme/heavy", "waits").await.as_deref() != Some("1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told that it waits");
    let operator = rig.queue("operator").await;
    operator.cancel(&Name::parse("acme/light").unwrap()).await.unwrap();
    renderer.wait_started(2).await;
    assert_eq!(rig.field("acme/heavy", "waits").await.as_deref(), Some("0"));
    renderer.open_gate();
    assert_eq!(rig.reply("acme/heavy").await.status(), "done");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn why_nothing_is_started_is_told_by_the_heartbeat_in_the_words_of_the_pages() {
    let rig = Rig::new();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 400000 kB\n").unwrap();
    let settings = Settings { limit: None, reserve: 0, per_render: 1 << 20, redis: 0, slots: 3 };
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let queue = rig.queue("w1").await;
    let lease = Duration::from_secs(2);
    let mut worker = Running::governed(queue, &Scripted::gated(), governor.clone(), lease);
    worker.wait_for("ready", |seen| seen.reasons().is_empty()).await;

    governor.change(|settings| settings.reserve = 2_000_000_000).unwrap();
    worker.wait_for("not ready", |seen| !seen.memory.condition.ok).await;
    let reasons = worker.published().await.reasons();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    let why = &reasons[0].why;
    assert!(why.contains("410 MB are free, less than the 2"), "{why}");
    assert!(why.contains("lower memory.reserve (2 GB; `tillroll config set"), "{why}");
    let told = serde_json::json!(reasons);
    let give_up = tokio::time::Instant::now() + PATIENCE;
    let other = rig.queue("w2").await;
    loop {
        let workers = other.workers().await.unwrap();
        let (_, _, says) = workers.iter().find(|(id, ..)| id == "w1").unwrap();
        let says: serde_json::Value = serde_json::from_str(says).unwrap();
        if says["reasons"] == told {
            let bounds = &says["memory"]["bounds"];
            assert_eq!(bounds["reserve_bytes"], 2_000_000_000_u64, "{says}");
            break;
        }
        assert!(tokio::time::Instant::now() < give_up, "{says}\n{told}");
        worker.published().await;
    }
    worker.stop(Stop::Drain).await;
}
