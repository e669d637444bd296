//! What a group uses, what the worker's ledger says and what the kernel killed, over
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cgroup::{Group, Kills};
use crate::rig;

/// Memory is read so often; of each [`POINT`] the most is kept.
const LOOK: Duration = Duration::from_millis(20);
const POINT: Duration = Duration::from_millis(100);

/// One moment, in seconds and bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Point {
    pub(crate) at: f64,
    /// The working set.
    pub(crate) memory: u64,
    /// What the worker and Chromium use, and what running jobs may still take.
    pub(crate) granted: Option<u64>,
    pub(crate) reserve: u64,
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    pub(crate) kills: Kills,
}

/// Samples until it is stopped.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Group, Vec<Point>)>,
}

impl Watch {
    /// `status`: where the worker answers. `running`: what runs where nobody says.
    pub(crate) fn start(group: Group, status: Option<String>, running: Arc<AtomicUsize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut group = group;
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let points = watch(&stop, &mut group, status.as_deref(), &running);
                (group, points)
            }
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> (Group, Vec<Point>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn watch(
    stop: &AtomicBool,
    group: &mut Group,
    status: Option<&str>,
    running: &AtomicUsize,
) -> Vec<Point> {
    let began = Instant::now();
    let mut points = Vec::new();
    let mut point = Point::default();
    while !stop.load(Ordering::Relaxed) {
        point.memory = point.memory.max(group.used());
        point.kills = group.kills();
        if began.elapsed().as_secs_f64() >= point.at + POINT.as_secs_f64() {
            point.running = running.load(Ordering::Relaxed) as u64;
            if let Some(said) = status.and_then(rig::status) {
                point.take_in(&said);
            }
            points.push(point);
            let at = began.elapsed().as_secs_f64();
            point = Point { at, kills: point.kills, ..Point::default() };
        }
        std::thread::sleep(LOOK);
    }
    points.push(Point { kills: group.kills(), ..point });
    points
}

impl Point {
    fn take_in(&mut self, status: &Value) {
        self.running = status["slots"]["in_use"].as_u64().unwrap_or(0);
        let governor = &status["memory"]["governor"];
        let Some(outstanding) = governor["outstanding_bytes"].as_u64() else { return };
        let bytes = |field: &str| status["memory"][field].as_u64().unwrap_or(0);
        // A job that may take more than there is gets what there is.
        self.granted = Some((bytes("used_bytes") + outstanding).min(bytes("budget_bytes")));
        self.reserve = governor["reserve_bytes"].as_u64().unwrap_or(0);
        self.running = governor["running"].as_u64().unwrap_or(0);
        self.waiting = governor["waiting"].as_u64().unwrap_or(0);
    }
}

/// The most of the working set that was seen.
pub(crate) fn peak(points: &[Point]) -> u64 {
    points.iter().map(|point| point.memory).max().unwrap_or(0)
}
