//! A backlog that is pushed at once and drained: whether the rate falls, or memory grows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Bench;
use crate::documents::Document;
use crate::machine;
use crate::report::Goal::{AtLeast, AtMost};
use crate::report::{median, number};
use crate::rig::Worker;
use crate::server::{Keeps, Redis};

const TENANTS: usize = 3;
/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(200);
/// What memory may vary by without having grown, in times.
const STEADY: f64 = 1.1;

/// Megabytes at one moment.
struct Look {
    at: Instant,
    worker: f64,
    all: f64,
}

type What = fn(&Look) -> f64;

/// Ends the looking, also where a reply is missing and all else is given up.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn measure(bench: &mut Bench) {
    let jobs = bench.jobs.unwrap_or_else(|| bench.size(5_000, 500));
    bench.report.section(
        "Draining a backlog",
        &format!("{jobs} receipts of {TENANTS} tenants, pushed at once; every reply is taken."),
    );
    let redis = Redis::start(Keeps::File);
    let worker = Worker::start(&redis, "drain", &[]);
    let document = Document::receipt();
    // Renderers grow for their first half minute under load, whatever the backlog.
    let warm_up = bench.size(4_000, 200);
    worker.client(&redis).backlog(std::slice::from_ref(&document), warm_up, TENANTS);
    let done = AtomicBool::new(false);
    let (began, ends, looks) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| watch(&worker, &done));
        let taking = Done(&done);
        let began = Instant::now();
        scope.spawn(|| push(&redis, &worker, &document, jobs));
        let mut taker = worker.client(&redis);
        let ends: Vec<Instant> = (0..jobs)
            .map(|job| {
                taker.take(&format!("tenant-{}/d-{job}", job % TENANTS));
                Instant::now()
            })
            .collect();
        drop(taking);
        (began, ends, looking.join().unwrap())
    });
    let tenth = jobs / 10;
    let rate = |from: Instant, to: Instant| tenth as f64 / (to - from).as_secs_f64();
    let end = |tenths: usize| ends[tenths * tenth - 1];
    let rates: Vec<f64> = (0..10)
        .map(|number| rate(if number == 0 { began } else { end(number) }, end(number + 1)))
        .collect();
    let all: Vec<String> = rates.iter().map(|rate| number(*rate)).collect();
    let report = &mut bench.report;
    let whole = jobs as f64 / (ends[jobs - 1] - began).as_secs_f64();
    report.figure("rate", whole, "/s", &format!("tenths: {}", all.join(", ")));
    report.goal("last tenth, of the first", rates[9] / rates[0], "", AtLeast(0.95), "");
    let held = |from: Instant, to: Instant, what: What| {
        let within = looks.iter().filter(|look| (from..to).contains(&look.at));
        median(&within.map(what).collect::<Vec<_>>())
    };
    let parts: [(&str, What); 2] = [
        ("worker, private", |look| look.worker),
        ("worker and Chromium, private", |look| look.all),
    ];
    for (name, what) in parts {
        let (then, now) = (held(end(1), end(2), what), held(end(9), end(10), what));
        let seen =
            format!("{} MB in the second tenth, {} MB in the last", number(then), number(now));
        let what = format!("{name}: last tenth, of the second");
        report.goal(&what, now / then, "", AtMost(STEADY), &seen);
    }
}

fn push(redis: &Redis, worker: &Worker, document: &Document, jobs: usize) {
    let mut producer = worker.client(redis);
    let inbox = producer.key("in");
    for first in (0..jobs).step_by(100) {
        let mut pushes = redis::pipe();
        for job in first..jobs.min(first + 100) {
            let element =
                document.element(&format!("tenant-{}", job % TENANTS), &format!("d-{job}"), "");
            pushes.lpush(&inbox, element).ignore();
        }
        pushes.exec(&mut producer.redis).unwrap();
    }
}

fn watch(worker: &Worker, done: &AtomicBool) -> Vec<Look> {
    let mut looks = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let own = machine::private(worker.pid()).unwrap();
        let all = machine::private_of_all(worker.pid());
        looks.push(Look { at: Instant::now(), worker: own, all });
        std::thread::sleep(LOOK);
    }
    looks
}
