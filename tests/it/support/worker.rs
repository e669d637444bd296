//! A worker in the test's own process.

use std::sync::Arc;
use std::time::Duration;

use tillroll::memory::{Governor, Probe, Settings as MemorySettings};
use tillroll::queue::Queue;
use tillroll::worker::{Fixed, Phase, Settings, Shared, Snapshot, Stop, Totals, Worker};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::rig::PATIENCE;
use super::{Rig, Scripted};

/// A running worker.
pub(crate) struct Running {
    pub stop: mpsc::Sender<Stop>,
    pub snapshot: watch::Receiver<Snapshot>,
    task: JoinHandle<Totals>,
}

impl Running {
    /// A worker with so many slots whose leases never run out in a test.
    pub(crate) async fn start(rig: &Rig, id: &str, renderer: &Arc<Scripted>, slots: usize) -> Self {
        Self::with_lease(rig, id, renderer, slots, PATIENCE).await
    }

    /// With a short lease, renewed four times within it.
    pub(crate) async fn with_lease(
        rig: &Rig,
        id: &str,
        renderer: &Arc<Scripted>,
        slots: usize,
        lease: Duration,
    ) -> Self {
        Self::on(rig.queue_with_lease(id, lease).await, renderer, slots, lease)
    }

    /// On a queue that is connected already.
    pub(crate) fn on(
        queue: Queue,
        renderer: &Arc<impl tillroll::renderer::Render>,
        slots: usize,
        lease: Duration,
    ) -> Self {
        Self::governed(queue, renderer, governor(slots), lease)
    }

    /// With a governor of its own.
    pub(crate) fn governed(
        queue: Queue,
        renderer: &Arc<impl tillroll::renderer::Render>,
        governor: Governor,
        lease: Duration,
    ) -> Self {
        let id = queue.worker().to_owned();
        let (stop, stopped) = mpsc::channel(4);
        let first = Snapshot::starting(id, "receipts".to_owned());
        let (publish, snapshot) = watch::channel(first);
        let settings = Settings {
            lease,
            heartbeat: lease / 4,
            drain: Shared::new(Duration::from_secs(20)),
            max_timeout: Duration::from_secs(20),
            tune: Arc::new(Fixed),
        };
        let renderer = Arc::clone(renderer) as Arc<dyn tillroll::renderer::Render>;
        let worker = Worker::new(queue, renderer, governor, settings, stopped, publish);
        Self { stop, snapshot, task: tokio::spawn(worker.run()) }
    }

    /// Waits until the snapshot is as asked.
    pub(crate) async fn wait_for(&mut self, what: &str, condition: impl FnMut(&Snapshot) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.snapshot.wait_for(condition)).await;
        waited.unwrap_or_else(|_| panic!("the worker never was: {what}")).unwrap();
    }

    /// Waits until it has published again, as it does each second.
    pub(crate) async fn published(&mut self) -> Snapshot {
        let last = self.snapshot.borrow().published;
        self.wait_for("published again", |seen| seen.published > last).await;
        self.snapshot.borrow().clone()
    }

    pub(crate) async fn stop(self, stop: Stop) -> Totals {
        self.stop.send(stop).await.unwrap();
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Totals {
        let totals = tokio::time::timeout(PATIENCE, self.task).await;
        let totals = totals.expect("the worker did not stop").unwrap();
        assert_eq!(self.snapshot.borrow().phase, Phase::Stopped);
        totals
    }

    /// The worker is gone at once, as if its process had been killed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A governor on a machine with plenty of memory.
fn governor(slots: usize) -> Governor {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 8000000 kB\n").unwrap();
    let settings = MemorySettings { limit: None, reserve: 0, per_render: 1 << 20, redis: 0, slots };
    Governor::new(Probe::at(root.path()), settings).unwrap()
}
