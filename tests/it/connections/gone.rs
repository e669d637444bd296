//! A Redis that is silent with TCP still up, and one that was killed.

use std::time::Duration;

use tillroll::job::Priority::Interactive;
use tillroll::worker::Stop;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::rig::RESPONSE_TIMEOUT;
use crate::support::{RedisServer, Rig, Running, Scripted, document};

/// How long a worker may take to ask Redis anything at all.
const TICK: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// A worker with one job at the gate and three that wait in Redis.
async fn at_work(rig: &Rig) -> (Running, std::sync::Arc<Scripted>) {
    let renderer = Scripted::gated();
    let worker = Running::start(rig, "w1", &renderer, 1).await;
    for n in 0..4 {
        rig.push(Interactive, &document("acme", &format!("r-{n}"), &format!("<p>{n}"))).await;
        rig.event("admitted", &format!("acme/r-{n}")).await;
    }
    renderer.wait_started(1).await;
    (worker, renderer)
}

/// Every job comes back, rendered once.
async fn nothing_is_lost(rig: &Rig, mut worker: Running, renderer: &Scripted) {
    for n in 0..4 {
        let answer = rig.reply(&format!("acme/r-{n}")).await;
        assert_eq!(answer.pdf.unwrap(), Scripted::pdf(&format!("<p>{n}")));
    }
    worker.wait_for("with Redis", |seen| seen.redis.ok).await;
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered().len(), 4, "each once");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_silent_redis_is_found_out_within_the_time_that_an_answer_may_take() {
    let rig = Rig::new();
    let (mut worker, renderer) = at_work(&rig).await;
    rig.server.freeze();
    let since = Instant::now();
    worker.wait_for("without Redis", |seen| !seen.redis.ok).await;
    assert!(since.elapsed() < RESPONSE_TIMEOUT + TICK + SLACK, "{:?}", since.elapsed());
    let seen = worker.snapshot.borrow().clone();
    assert_eq!(seen.reasons()[0].what, "redis");
    assert!(seen.reasons()[0].why.contains("not available"), "{:?}", seen.reasons());
    renderer.open_gate();
    for _ in 0..4 {
        assert!(!worker.published().await.redis.ok, "nothing has answered since");
    }
    rig.server.thaw();
    nothing_is_lost(&rig, worker, &renderer).await;
}

#[tokio::test]
async fn a_killed_redis_is_looked_for_with_growing_pauses_and_found_again() {
    let mut rig = Rig::on(RedisServer::durable());
    let (mut worker, renderer) = at_work(&rig).await;
    rig.server.kill();
    worker.wait_for("without Redis", |seen| !seen.redis.ok).await;
    renderer.open_gate();
    // Takes Redis' place, and hangs up on whoever comes.
    let listener = TcpListener::bind(("127.0.0.1", rig.server.port())).await.unwrap();
    let mut calls = 0;
    let mut seconds = 0;
    // The pauses have grown by then.
    for _ in 0..3 {
        hang_up_until_published(&listener, &mut worker).await;
    }
    while seconds < 4 {
        calls += hang_up_until_published(&listener, &mut worker).await;
        seconds += 1;
        assert!(!worker.snapshot.borrow().redis.ok, "nothing has answered since");
    }
    assert!(calls / seconds <= 30, "{calls} connections in {seconds} s");
    drop(listener);
    rig.server.restart();
    nothing_is_lost(&rig, worker, &renderer).await;
}

/// How many came until the worker's next sign of life.
async fn hang_up_until_published(listener: &TcpListener, worker: &mut Running) -> usize {
    let mut calls = 0;
    let published = worker.published();
    tokio::pin!(published);
    loop {
        tokio::select! {
            _ = &mut published => return calls,
            call = listener.accept() => {
                drop(call.unwrap());
                calls += 1;
            }
        }
    }
}
