//! Cancelling under a real worker, and a Redis that is emptied under it.

use std::sync::Arc;

use tillroll::failure::Failure;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::Cancelled;
use tillroll::renderer::{Readiness, Render, RenderFuture, RenderRequest, Rendered};
use tillroll::worker::Stop;
use tokio::sync::watch;

use crate::support::observe::name;
use crate::support::rig::PATIENCE;
use crate::support::{Rig, Running, Scripted, document};

/// Renders for ever; counts the renders that were dropped.
struct Endless {
    started: watch::Sender<usize>,
    dropped: watch::Sender<usize>,
    readiness: watch::Sender<Readiness>,
}

struct Dropped(watch::Sender<usize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.send_modify(|dropped| *dropped += 1);
    }
}

impl Endless {
    fn new() -> Arc<Self> {
        let (started, dropped) = (watch::Sender::new(0), watch::Sender::new(0));
        Arc::new(Self { started, dropped, readiness: watch::Sender::new(Ok(())) })
    }

    async fn wait(count: &watch::Sender<usize>, at_least: usize) {
        let mut count = count.subscribe();
        let waited = tokio::time::timeout(PATIENCE, count.wait_for(|n| *n >= at_least)).await;
        waited.expect("it never happened").unwrap();
    }
}

impl Render for Endless {
    fn render(&self, _: RenderRequest) -> RenderFuture<'_> {
        let dropped = Dropped(self.dropped.clone());
        self.started.send_modify(|started| *started += 1);
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(dropped);
            Ok::<_, Failure>(Rendered {
                sha256: None,
                pdf: Vec::new(),
                pages: 0,
                warnings: Vec::new(),
            })
        })
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}

#[tokio::test]
async fn a_render_stops_at_once_when_its_job_is_cancelled() {
    let rig = Rig::new();
    let operator = rig.queue("operator").await;
    let renderer = Endless::new();
    let worker = Running::on(rig.queue("w1").await, &renderer, 2, PATIENCE);
    for (number, inbox) in [(1, Interactive), (2, Bulk)] {
        let element = b"{\"id\":\"r\",\"tenant\":\"acme\",\"meta\":{\"order\":\"7\"}}\n<p>";
        rig.push(inbox, element).await;
        Endless::wait(&renderer.started, number).await;
        let asked = tokio::time::Instant::now();
        let told = operator.cancel(&name("acme/r")).await.unwrap();
        assert_eq!(told, Cancelled::Stopping { worker: "w1".to_owned() });
        Endless::wait(&renderer.dropped, number).await;
        let took = asked.elapsed();
        // Far below the heartbeat, which would tell it as well: the message does.
        assert!(took.as_secs() < 3, "{took:?}");
        let answer = rig.reply("acme/r").await;
        assert_eq!((answer.status(), answer.code()), ("cancelled", "cancelled"));
        assert_eq!(answer.line["meta"]["order"], "7");
    }
    let totals = worker.stop(Stop::Drain).await;
    assert_eq!((totals.done, totals.lost, totals.released), (0, 0, 0));
    assert_eq!(rig.events("released").await, []);
    operator.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn the_heartbeat_tells_where_the_message_was_lost() {
    let rig = Rig::new();
    let operator = rig.queue("operator").await;
    let renderer = Endless::new();
    let lease = std::time::Duration::from_secs(4);
    let queue = rig.queue_with_lease("w1", lease).await;
    let worker = Running::on(queue, &renderer, 1, lease);
    rig.push(Interactive, &document("acme", "r", "<p>")).await;
    Endless::wait(&renderer.started, 1).await;
    // At one stroke: cancelled, and the message is gone.
    let job = rig.keys.job(&name("acme/r"));
    rig.ask::<u64>(&["HSET", &job, "cancel", "1"]).await;
    assert_eq!(rig.reply("acme/r").await.status(), "cancelled");
    assert_eq!(*renderer.dropped.borrow(), 1);
    worker.stop(Stop::Drain).await;
    operator.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn one_whose_worker_was_killed_while_it_was_cancelled_is_answered_by_another() {
    let rig = Rig::new();
    let operator = rig.queue("operator").await;
    let lease = std::time::Duration::from_secs(2);
    let endless = Endless::new();
    let worker = Running::on(rig.queue_with_lease("w1", lease).await, &endless, 1, lease);
    rig.push(Interactive, &document("acme", "r", "<p>")).await;
    Endless::wait(&endless.started, 1).await;
    worker.kill().await;
    operator.cancel(&name("acme/r")).await.unwrap();
    let renderer = Scripted::open();
    let other = Running::with_lease(&rig, "w2", &renderer, 1, lease).await;
    assert_eq!(rig.reply("acme/r").await.status(), "cancelled");
    other.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), [""; 0]);
}

#[tokio::test]
async fn a_redis_that_is_emptied_under_load_is_worked_with_again_at_once() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let workers = [
        Running::start(&rig, "w1", &renderer, 2).await,
        Running::start(&rig, "w2", &renderer, 2).await,
    ];
    for number in 0..20 {
        let inbox = if number % 2 == 0 { Interactive } else { Bulk };
        rig.push(inbox, &document("acme", &format!("lost-{number}"), "<p>lost")).await;
    }
    renderer.wait_started(3).await;
    rig.ask::<()>(&["FLUSHDB"]).await;
    renderer.open_gate();
    // What was pushed is lost; what comes now is not.
    for number in 0..20 {
        let inbox = if number % 2 == 0 { Interactive } else { Bulk };
        rig.push(inbox, &document("acme", &format!("new-{number}"), "<p>new")).await;
    }
    for number in 0..20 {
        let name = format!("acme/new-{number}");
        assert_eq!(rig.reply(&name).await.status(), "done", "{name}");
    }
    let mut done = 0;
    for mut worker in workers {
        worker.wait_for("well again", |seen| seen.redis.ok && seen.claims.ok).await;
        done += worker.stop(Stop::Drain).await.done;
    }
    assert_eq!(done, 20, "a result from before was accepted");
    rig.queue("operator").await.housekeep(true).await.unwrap();
    rig.assert_at_rest().await;
}
