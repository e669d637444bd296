//! Receipts through Redis beside the floor, in turns: a round of one, a round of the
//! other, several times. The ratio is the middle of the rounds' own ratios, each with the
//! mean of the floors before and after it: a machine becomes slower and faster meanwhile.

use std::time::Duration;

use crate::Bench;
use crate::chart::{self, Bar};
use crate::documents::Document;
use crate::floor::{Floor, LaidOut};
use crate::machine::{cpu, cpu_below};
use crate::report::Goal::{AtLeast, AtMost};
use crate::report::{median, out, range};
use crate::rig::Worker;
use crate::server::{FSYNC, Keeps, Redis};

/// What is compared.
struct Case {
    name: &'static str,
    documents: fn() -> Vec<Document>,
    tenants: usize,
    jobs: usize,
    /// The part of the floor that is to be reached.
    goal: Option<f64>,
}

impl Case {
    /// Whether it is compared with the floor that lays out as Chromium does, too.
    fn is_beside_early(&self) -> bool {
        self.goal == Some(HIGHEST)
    }
}

fn receipts() -> Vec<Document> {
    vec![Document::receipt()]
}

fn rolls() -> Vec<Document> {
    vec![Document::roll()]
}

fn mixed() -> Vec<Document> {
    vec![Document::receipt(), Document::receipt(), Document::receipt(), Document::invoice()]
}

const CASES: [Case; 6] = [
    Case { name: "receipts, 1 tenant", documents: receipts, tenants: 1, jobs: 300, goal: None },
    Case {
        name: "receipts, 3 tenants",
        documents: receipts,
        tenants: 3,
        // Beginning and end, where not all cores are busy, are a fiftieth of it.
        jobs: 450,
        goal: Some(HIGHEST),
    },
    Case {
        name: "receipts, 32 tenants",
        documents: receipts,
        tenants: 32,
        jobs: 320,
        goal: Some(0.85),
    },
    Case {
        name: "receipts, 100 tenants",
        documents: receipts,
        tenants: 100,
        jobs: 300,
        goal: Some(0.75),
    },
    Case {
        name: "rolls of automatic height, 3 tenants",
        documents: rolls,
        tenants: 3,
        jobs: 300,
        goal: None,
    },
    Case {
        name: "3 receipts to 1 invoice, 3 tenants",
        documents: mixed,
        tenants: 3,
        jobs: 180,
        goal: None,
    },
];

const ROUNDS: usize = 5;
/// The goal that the most rounds are for.
const HIGHEST: f64 = 0.92;
/// Each tenant's page is used so often before anything is measured.
const WARM_UP: usize = 6;

/// The floor alone.
pub(crate) fn floor(bench: &mut Bench) {
    bench.report.section(
        "Floor",
        "Warm pages over the bare pipe, the worker's calls for each job and nothing else.",
    );
    for case in [&CASES[1], &CASES[4], &CASES[5]] {
        let mut floor = Floor::new(&(case.documents)(), LaidOut::AsTheWorker);
        floor.run(60);
        let rounds = bench.size(ROUNDS, 1);
        let rates: Vec<f64> = (0..rounds).map(|_| rate(case.jobs, floor.run(case.jobs))).collect();
        let name = case.name.split(", ").next().unwrap();
        let name = if case.tenants == 3 && name.starts_with('3') { case.name } else { name };
        bench.report.figure(name, median(&rates), "/s", &range(&rates));
    }
}

/// All cases.
pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Throughput",
        &format!(
            "Through Redis (`appendfsync {FSYNC}`), all of a round pushed at once and every reply \
             taken, beside the floor, in turns."
        ),
    );
    let redis = Redis::start(Keeps::File);
    let mut bars = Vec::new();
    for case in &CASES {
        let (floor, through) = compare(bench, &redis, case);
        bars.push(Bar::new(case.name, "floor", floor));
        bars.push(Bar::new("", "through Redis", through));
    }
    std::fs::write(out().join("throughput.svg"), chart::bars("documents per second", &bars))
        .unwrap();
}

fn compare(bench: &mut Bench, redis: &Redis, case: &Case) -> (f64, f64) {
    let documents = (case.documents)();
    let queue = format!("throughput-{}-{}", case.tenants, crate::rig::number());
    let worker = Worker::start(redis, &queue, &[]);
    let mut producer = worker.client(redis);
    let mut floor = Floor::new(&documents, LaidOut::AsTheWorker);
    let mut early = case.is_beside_early().then(|| Floor::new(&documents, LaidOut::Early));
    let rounds = if case.is_beside_early() { ROUNDS * 2 } else { ROUNDS };
    let (jobs, rounds) = (bench.size(case.jobs, case.jobs / 5), bench.size(rounds, 1));
    let warm_up = bench.size(WARM_UP, 1);
    producer.backlog(&documents, warm_up * case.tenants.max(10), case.tenants);
    for floor in [Some(&mut floor), early.as_mut()].into_iter().flatten() {
        floor.run(warm_up * 10);
    }
    let [mut floors, mut rates, mut earlier] = [const { Vec::new() }; 3];
    let mut cost = Cost::default();
    floors.push(rate(jobs, floor.run(jobs)));
    for _ in 0..rounds {
        let before = Cost::read(&worker, redis);
        rates.push(rate(jobs, producer.backlog(&documents, jobs, case.tenants)));
        cost.add(&before, &Cost::read(&worker, redis));
        floors.push(rate(jobs, floor.run(jobs)));
        earlier.extend(early.as_mut().map(|early| rate(jobs, early.run(jobs))));
    }
    let beside = floors.windows(2).map(|floors| f64::midpoint(floors[0], floors[1]));
    let ratios: Vec<f64> = rates.iter().zip(beside).map(|(rate, floor)| rate / floor).collect();
    let (name, report) = (case.name, &mut bench.report);
    let (low, high) = (median(&floors), median(&rates));
    report.figure(&format!("{name}: floor"), low, "/s", &range(&floors));
    report.figure(&format!("{name}: through Redis"), high, "/s", &range(&rates));
    let (what, ratio) = (format!("{name}: of the floor"), median(&ratios));
    match case.goal {
        Some(goal) => report.goal(&what, ratio, "", AtLeast(goal), &range(&ratios)),
        None => report.figure(&what, ratio, "", &range(&ratios)),
    }
    if early.is_some() {
        let ratios: Vec<f64> =
            rates.iter().zip(&earlier).map(|(rate, floor)| rate / floor).collect();
        let what = format!("{name}: floor that lays out as Chromium does");
        report.figure(&what, median(&earlier), "/s", &range(&earlier));
        report.figure(&format!("{name}: of that"), median(&ratios), "", &range(&ratios));
    }
    if case.tenants == 3 {
        let each = |seconds: f64| seconds * 1e3 / (jobs * rounds) as f64;
        let (what, seen) =
            (format!("{name}: CPU of the worker, a job"), format!("{} jobs", jobs * rounds));
        match case.goal {
            Some(_) => report.goal(&what, each(cost.worker), "ms", AtMost(1.0), &seen),
            None => report.figure(&what, each(cost.worker), "ms", &seen),
        }
        report.figure(&format!("{name}: CPU of Redis, a job"), each(cost.redis), "ms", "");
        report.figure(&format!("{name}: CPU of Chromium, a job"), each(cost.chromium), "ms", "");
    }
    (low, high)
}

/// Seconds of CPU.
#[derive(Default)]
struct Cost {
    worker: f64,
    redis: f64,
    chromium: f64,
}

impl Cost {
    fn read(worker: &Worker, redis: &Redis) -> Self {
        let pid = worker.pid();
        Self { worker: cpu(pid), redis: cpu(redis.pid()), chromium: cpu_below(pid) }
    }

    fn add(&mut self, before: &Self, after: &Self) {
        self.worker += after.worker - before.worker;
        self.redis += after.redis - before.redis;
        self.chromium += after.chromium - before.chromium;
    }
}

pub(crate) fn rate(jobs: usize, took: Duration) -> f64 {
    jobs as f64 / took.as_secs_f64()
}
