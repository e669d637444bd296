//! Workers with the null renderer in this process, and a producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use tillroll::memory::{Governor, Probe, Settings as MemorySettings};
use tillroll::queue::{LimitSettings, Queue, QueueConfig};
use tillroll::renderer::null::Null;
use tillroll::renderer::{Readiness, Render, RenderFuture, RenderRequest};
use tillroll::worker::{Fixed, Settings, Shared, Snapshot, Stop, Totals, Worker};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::server::Redis;

pub(crate) const PREFIX: &str = "tillroll:{receipts}:";
/// What `worker.concurrency = "auto"` is on two cores.
pub(crate) const SLOTS: usize = 3;
const LEASE: Duration = Duration::from_secs(30);
/// Workers so far: their ids are never used again.
static STARTED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn key(rest: &str) -> String {
    format!("{PREFIX}{rest}")
}

/// A queue as a worker sees it.
pub(crate) fn queue(runtime: &Runtime, redis: &Redis, worker: &str) -> Queue {
    let limits = LimitSettings { jobs: 1_000_000, dead: 10_000, ..LimitSettings::default() };
    let config = QueueConfig {
        redis: redis.url.as_str().into(),
        queue: "receipts".to_owned(),
        worker: worker.to_owned(),
        lease: LEASE,
        response_timeout: Duration::from_secs(10),
        limits,
        fenced: true,
    };
    runtime.block_on(Queue::connect(config)).unwrap()
}

/// The null renderer, which says when it is asked.
struct Stamped {
    null: Null,
    asked: SyncSender<Instant>,
}

impl Render for Stamped {
    fn render(&self, request: RenderRequest) -> RenderFuture<'_> {
        let now = Instant::now();
        // Nobody listens where only rates are measured, and a full channel means the same.
        self.asked.try_send(now).unwrap_or_default();
        self.null.render(request)
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.null.readiness()
    }

    fn kind(&self) -> &'static str {
        "null"
    }
}

/// Some workers with [`SLOTS`] slots each.
pub(crate) struct Workers {
    stops: Vec<mpsc::Sender<Stop>>,
    tasks: Vec<JoinHandle<Totals>>,
    /// When each render began.
    pub(crate) asked: Receiver<Instant>,
    _memory: tempfile::TempDir,
}

impl Workers {
    pub(crate) fn start(runtime: &Runtime, redis: &Redis, count: usize) -> Self {
        let memory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(memory.path().join("proc")).unwrap();
        std::fs::write(memory.path().join("proc/meminfo"), "MemAvailable: 8000000 kB\n").unwrap();
        let (asked, seen) = std::sync::mpsc::sync_channel(64);
        let renderer: Arc<dyn Render> = Arc::new(Stamped { null: Null::new(), asked });
        let (mut stops, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let id = format!("bench-{}", STARTED.fetch_add(1, Ordering::Relaxed));
            let queue = queue(runtime, redis, &id);
            let (stop, stopped) = mpsc::channel(4);
            let (publish, _) = watch::channel(Snapshot::starting(id, "receipts".to_owned()));
            let settings = Settings {
                lease: LEASE,
                heartbeat: LEASE / 6,
                drain: Shared::new(Duration::from_secs(20)),
                max_timeout: Duration::from_secs(20),
                tune: Arc::new(Fixed),
            };
            let room = MemorySettings {
                limit: None,
                reserve: 0,
                per_render: 1 << 20,
                redis: 0,
                slots: SLOTS,
            };
            let governor = Governor::new(Probe::at(memory.path()), room).unwrap();
            let worker =
                Worker::new(queue, Arc::clone(&renderer), governor, settings, stopped, publish);
            stops.push(stop);
            tasks.push(runtime.spawn(worker.run()));
        }
        Self { stops, tasks, asked: seen, _memory: memory }
    }

    pub(crate) fn stop(self, runtime: &Runtime) {
        for stop in &self.stops {
            runtime.block_on(stop.send(Stop::Drain)).unwrap();
        }
        for task in self.tasks {
            runtime.block_on(task).unwrap();
        }
    }
}

/// An element of about so many bytes.
pub(crate) fn element(tenant: &str, number: usize, bytes: usize) -> Vec<u8> {
    let mut element =
        format!("{{\"id\":\"r-{number}\",\"tenant\":\"{tenant}\"}}\n<h1>{number}</h1>")
            .into_bytes();
    let line = b"<p>One espresso, to go, 2.40</p>\n";
    element.extend(line.iter().cycle().take(bytes.saturating_sub(element.len())));
    element
}

/// Pushes jobs `numbers`, spread over `tenants`, several in one round trip.
pub(crate) fn push(
    redis: &mut Connection,
    inbox: &str,
    numbers: std::ops::Range<usize>,
    tenants: usize,
    bytes: usize,
) -> Duration {
    let together = (1 << 20) / bytes.max(1024) + 1;
    let mut spent = Duration::ZERO;
    let mut next = numbers.start;
    while next < numbers.end {
        let mut pushes = redis::pipe();
        let until = numbers.end.min(next + together);
        for number in next..until {
            let tenant = format!("tenant-{}", number % tenants);
            pushes.lpush(key(inbox), element(&tenant, number, bytes)).ignore();
        }
        let began = Instant::now();
        pushes.exec(redis).unwrap();
        spent += began.elapsed();
        next = until;
    }
    spent
}

/// A counter of the queue.
pub(crate) fn counter(redis: &mut Connection, field: &str) -> usize {
    let value: Option<usize> = redis.hget(key("state"), field).unwrap();
    value.unwrap_or(0)
}

/// Waits until a counter has reached `value`; how long after `since`.
pub(crate) fn reached(redis: &mut Connection, field: &str, value: usize) -> Instant {
    let patience = Instant::now() + Duration::from_secs(300);
    while counter(redis, field) < value {
        assert!(Instant::now() < patience, "{field} never reached {value}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Instant::now()
}

/// Pauses claims, or lets them go on.
pub(crate) fn pause(redis: &mut Connection, paused: bool) {
    let state = if paused { "paused" } else { "open" };
    let _: i64 = redis.hset(key("config"), "state", state).unwrap();
}
