//! A Redis at `maxmemory`: pushes are refused, what is there is drained.

use std::sync::Arc;

use redis::{RedisResult, cmd};
use tillroll::failure::Failure;
use tillroll::job::Priority::{self, Interactive};
use tillroll::queue::Damage;
use tillroll::renderer::{Readiness, Render, RenderFuture, RenderRequest, Rendered};
use tillroll::worker::Stop;
use tokio::sync::watch;

use crate::support::observe::name;
use crate::support::rig::PATIENCE;
use crate::support::{RedisServer, Rig, Running, Scripted, document};

/// Renders PDFs of a size.
struct Heavy {
    bytes: usize,
    readiness: watch::Sender<Readiness>,
}

impl Heavy {
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, readiness: watch::Sender::new(Ok(())) })
    }
}

impl Render for Heavy {
    fn render(&self, _: RenderRequest) -> RenderFuture<'_> {
        let pdf = vec![b'%'; self.bytes];
        Box::pin(async move {
            Ok::<_, Failure>(Rendered { sha256: None, pdf, pages: 1, warnings: Vec::new() })
        })
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}

async fn rig() -> Rig {
    let rig =
        Rig::on(RedisServer::start(&["--appendonly", "no", "--maxmemory-policy", "noeviction"]));
    // The limits would refuse first: here Redis itself does.
    let operator = rig.queue("operator").await;
    operator.set_limit("bytes", Some(1 << 30)).await.unwrap();
    operator.set_limit("held", Some(1 << 30)).await.unwrap();
    rig
}

async fn used(rig: &Rig) -> u64 {
    let info: String = rig.ask(&["INFO", "memory"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

async fn set_maxmemory(rig: &Rig, bytes: u64) {
    rig.ask::<()>(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]).await;
}

/// Pushes until Redis is full; the names that it took.
async fn push_until_full(rig: &Rig, inbox: Priority, bytes: usize, most: usize) -> Vec<String> {
    let mut redis = rig.connection().await;
    set_maxmemory(rig, used(rig).await + (bytes * most / 2) as u64).await;
    let mut taken = Vec::new();
    let html = "x".repeat(bytes);
    loop {
        let id = format!("pushed-{}", taken.len());
        let mut push = cmd("LPUSH");
        push.arg(rig.keys.inbox(inbox)).arg(document("acme", &id, &html));
        let pushed: RedisResult<u64> = push.query_async(&mut redis).await;
        match pushed {
            Ok(_) => taken.push(format!("acme/{id}")),
            Err(error) => {
                assert_eq!(error.code(), Some("OOM"), "{error}");
                assert!(!taken.is_empty());
                return taken;
            }
        }
        assert!(taken.len() < 10 * most, "it is never full");
    }
}

/// Takes the replies of all at once, as their producers would.
async fn take_all(rig: &Arc<Rig>, names: Vec<String>, pdf_bytes: Option<usize>) {
    let mut takers = tokio::task::JoinSet::new();
    for name in names {
        let rig = Arc::clone(rig);
        takers.spawn(async move {
            let answer = rig.reply(&name).await;
            assert_eq!((answer.status(), &answer.line["attempts"]), ("done", &1.into()), "{name}");
            if let Some(bytes) = pdf_bytes {
                assert_eq!(answer.pdf.unwrap().len(), bytes);
            }
        });
    }
    while let Some(taken) = takers.join_next().await {
        taken.unwrap();
    }
}

async fn calls(rig: &Rig) -> u64 {
    let info: String = rig.ask(&["INFO", "commandstats"]).await;
    let counts = info.lines().filter_map(|line| line.split_once("calls=")?.1.split(',').next());
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

/// Waits for so many rounds of the worker's clock.
async fn rounds(worker: &mut Running, count: usize) {
    for _ in 0..count {
        let last = worker.snapshot.borrow().published;
        worker.wait_for("published again", |seen| seen.published > last).await;
    }
}

/// No lease was lost and nothing was done twice.
async fn assert_smooth(rig: &Rig) {
    for event in ["stale", "reaped", "retried", "released", "dead", "rejected"] {
        assert_eq!(rig.events(event).await, [], "{event}");
    }
}

#[tokio::test]
async fn what_was_admitted_and_what_is_in_the_inbox_is_drained() {
    let rig = Arc::new(rig().await);
    let renderer = Scripted::gated();
    let mut worker = Running::start(&rig, "w1", &renderer, 2).await;
    let html = "y".repeat(8_000);
    let mut names = Vec::new();
    for number in 0..40 {
        let id = format!("admitted-{number}");
        rig.push(Interactive, &document("acme", &id, &html)).await;
        names.push(format!("acme/{id}"));
    }
    rig.event("admitted", "acme/admitted-39").await;
    renderer.wait_started(2).await;
    // The inboxes are read as they fill: until Redis refuses.
    names.extend(push_until_full(&rig, Priority::Bulk, 8_000, 40).await);
    // Full, and nothing can end: the worker waits, and does not spin.
    rounds(&mut worker, 1).await;
    let before = calls(&rig).await;
    rounds(&mut worker, 4).await;
    let spent = calls(&rig).await - before;
    assert!(spent < 4 * 120, "{spent} commands in four seconds of waiting");
    let before = calls(&rig).await;
    renderer.open_gate();
    let jobs = names.len() as u64;
    take_all(&rig, names, None).await;
    let spent = calls(&rig).await - before;
    assert!(spent < jobs * 150, "{spent} commands for {jobs} jobs");
    assert_smooth(&rig).await;
    // It recovers by itself.
    set_maxmemory(&rig, 0).await;
    rig.push(Interactive, &document("acme", "after", "<p>")).await;
    assert_eq!(rig.reply("acme/after").await.status(), "done");
    worker.stop(Stop::Drain).await;
    rig.queue("operator").await.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_worker_that_starts_while_redis_is_full_drains_it() {
    let rig = Arc::new(rig().await);
    let names = push_until_full(&rig, Interactive, 20_000, 30).await;
    // Full to the brim: not even the smallest write is taken.
    set_maxmemory(&rig, used(&rig).await - 10_000).await;
    let renderer = Scripted::open();
    let queue = rig.queue("w1").await;
    // And it has just come back, without the scripts.
    rig.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    let worker = Running::on(queue, &renderer, 2, PATIENCE);
    take_all(&rig, names, None).await;
    assert_smooth(&rig).await;
    worker.stop(Stop::Drain).await;
    rig.queue("operator").await.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn large_results_get_through_a_full_redis() {
    let rig = Arc::new(rig().await);
    let queue = rig.queue("operator").await;
    let mut names: Vec<_> = (0..6).map(|number| format!("acme/r-{number}")).collect();
    rig.admit_many(&queue, Interactive, ("acme", "r"), 5).await;
    let stored = b"{\"id\":\"r-5\",\"tenant\":\"acme\",\"output\":{\"kind\":\"stored\"}}\n<p>";
    rig.admit(&queue, stored).await;
    push_until_full(&rig, Interactive, 20_000, 10).await;
    rig.ask::<u64>(&["DEL", &rig.keys.inbox(Interactive)]).await;
    set_maxmemory(&rig, used(&rig).await - 100_000).await;
    let worker = Running::on(rig.queue("w1").await, &Heavy::new(5 << 20), 2, PATIENCE);
    names.pop();
    take_all(&rig, names, Some(5 << 20)).await;
    let answer = rig.reply("acme/r-5").await;
    assert_eq!((answer.status(), &answer.pdf), ("done", &None));
    let pdf = rig.keys.pdf(&name("acme/r-5"));
    assert_eq!(rig.ask::<usize>(&["STRLEN", &pdf]).await, 5 << 20);
    assert_smooth(&rig).await;
    worker.stop(Stop::Drain).await;
}

#[tokio::test]
async fn claims_pause_while_redis_is_full_of_untaken_results() {
    let rig = Arc::new(rig().await);
    let queue = rig.queue("operator").await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 60).await;
    push_until_full(&rig, Interactive, 20_000, 20).await;
    rig.ask::<u64>(&["DEL", &rig.keys.inbox(Interactive)]).await;
    let max = used(&rig).await;
    set_maxmemory(&rig, max).await;
    let mut worker = Running::on(rig.queue("w1").await, &Heavy::new(200_000), 1, PATIENCE);
    worker.wait_for("hindered", |seen| !seen.claims.ok).await;
    let why = worker.snapshot.borrow().claims.why.clone().unwrap_or_default();
    assert!(why.contains("redis is full"), "{why}");
    // It stays so until somebody takes them: then it goes on.
    let names = (0..60).map(|number| format!("acme/r-{number}")).collect();
    take_all(&rig, names, Some(200_000)).await;
    worker.wait_for("unhindered", |seen| seen.claims.ok).await;
    assert_smooth(&rig).await;
    worker.stop(Stop::Drain).await;
}

#[tokio::test]
async fn operators_have_their_way_with_a_full_redis() {
    let rig = rig().await;
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 3).await;
    set_maxmemory(&rig, used(&rig).await - 10_000).await;
    let refused: RedisResult<u64> =
        cmd("LPUSH").arg("x").arg("y").query_async(&mut rig.connection().await).await;
    assert_eq!(refused.unwrap_err().code(), Some("OOM"));
    let claimed = crate::support::expect_claim(&queue).await;
    queue.finish(&claimed.lease, &crate::support::rig::dead(), None).await.unwrap();
    queue.revive(claimed.lease.name()).await.unwrap();
    queue.cancel(&name("acme/r-1")).await.unwrap();
    queue.set_limit("jobs", Some(7)).await.unwrap();
    queue.set_state(tillroll::queue::State::Paused).await.unwrap();
    queue.control("w1", "{\"command\":\"drain\"}").await.unwrap();
    queue.renew(&[], "{}").await.unwrap();
    queue.housekeep(true).await.unwrap();
    queue.purge(&["acme/r-0".to_owned()]).await.unwrap();
    queue.leave().await.unwrap();
    set_maxmemory(&rig, 0).await;
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_full_redis_is_checked_and_mended() {
    let rig = rig().await;
    let queue = rig.queue("w1").await;
    queue.renew(&[], "{}").await.unwrap();
    rig.admit_many(&queue, Interactive, ("acme", "r"), 6).await;
    rig.admit(&queue, b"{\"id\":\"later\",\"tenant\":\"acme\",\"delay_ms\":3600000}\n<p>").await;
    let claimed = crate::support::expect_claim(&queue).await;
    queue.finish(&claimed.lease, &crate::support::rig::done(b"%PDF"), None).await.unwrap();
    crate::support::expect_claim(&queue).await;
    set_maxmemory(&rig, used(&rig).await / 2).await;
    let check = async || queue.fsck(false).await.unwrap();
    assert!(check().await.is_clean(), "{:?}", check().await);
    let keys = &rig.keys;
    let held = format!("reply:{}", claimed.lease.name());
    // One stroke for each script that mends.
    for (damage, kind) in [
        (&["DEL", &keys.leased()][..], Damage::Unlisted),
        (&["DEL", &keys.delayed()], Damage::Unlisted),
        (&["DEL", &keys.ready(Interactive, "acme")], Damage::Unlisted),
        (&["DEL", &keys.claims("w1")], Damage::Claim),
        (&["DEL", &keys.ring(Interactive)], Damage::Ring),
        (&["DEL", &keys.tenants()], Damage::TenantUnlisted),
        (&["DEL", &keys.state()], Damage::Counter),
        (&["HDEL", &keys.held(), &held], Damage::ResultUncounted),
        (&["PERSIST", &keys.reply(claimed.lease.name())], Damage::ResultTtl),
        (&["DEL", &keys.job(&name("acme/r-3"))], Damage::OrphanDocument),
        (&["DEL", &keys.document(&name("acme/r-4"))], Damage::BodyMissing),
        (&["DEL", &keys.document(&name("acme/later"))], Damage::BodyMissing),
    ] {
        let changed: u64 = rig.ask(damage).await;
        assert_eq!(changed, 1, "{damage:?}");
        let refused: RedisResult<u64> =
            cmd("LPUSH").arg("x").arg("y").query_async(&mut rig.connection().await).await;
        assert_eq!(refused.unwrap_err().code(), Some("OOM"));
        // A tenant with a running job may be out of its turn; then nothing is certain.
        if kind != Damage::Ring {
            let seen = check().await;
            assert!(seen.findings.contains_key(&kind), "{damage:?}: {seen:?}");
        }
        let mended = queue.fsck(true).await.unwrap();
        assert_eq!(mended.unmended(), 0, "{damage:?}: {mended:?}");
        assert!(check().await.is_clean(), "{damage:?}: {:?}", check().await);
        rig.assert_consistent().await;
    }
    set_maxmemory(&rig, 0).await;
    rig.assert_consistent().await;
}
