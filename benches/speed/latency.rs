//! From push to reply: on an idle worker, under open-loop load, beside a backlog.

use std::time::Duration;

use hdrhistogram::Histogram;
use redis::Commands;
use serde_json::{Value, json};

use crate::Bench;
use crate::chart::{self, Line};
use crate::documents::Document;
use crate::load;
use crate::report::Goal::AtMost;
use crate::report::{Report, median, out, range};
use crate::rig::{Worker, number};
use crate::server::{Keeps, Redis};
use crate::throughput::rate;

const TENANTS: [&str; 3] = ["tenant-0", "tenant-1", "tenant-2"];
/// Between two jobs of an idle worker.
const PAUSE: Duration = Duration::from_millis(30);
/// After a tenant that was new: time in which the worker may prepare for the next.
const LONG_PAUSE: Duration = Duration::from_millis(300);
const LOADS: [f64; 4] = [0.25, 0.50, 0.75, 0.90];
const BACKLOG: usize = 10_000;

pub(crate) fn measure(bench: &mut Bench) {
    let redis = Redis::start(Keeps::File);
    let worker = Worker::start(&redis, "latency", &[]);
    let receipts = [Document::receipt()];
    let mut producer = worker.client(&redis);
    producer.backlog(&receipts, 150, TENANTS.len());
    idle(bench, &redis, &worker);
    let jobs = 300;
    let rounds = bench.size(3, 1);
    let rates: Vec<f64> =
        (0..rounds).map(|_| rate(jobs, producer.backlog(&receipts, jobs, TENANTS.len()))).collect();
    open_loop(bench, &redis, &worker, &rates);
    backlog(bench, &redis, &worker);
}

fn idle(bench: &mut Bench, redis: &Redis, worker: &Worker) {
    bench.report.section(
        "Latency on an idle worker",
        "Push to reply, one job at a time with pauses: of tenants with a warm page, and of tenants \
         never seen before, in turns.",
    );
    let (receipt, roll) = (Document::receipt(), Document::roll());
    let mut producer = worker.client(redis);
    for _ in 0..5 {
        producer.one(&roll, "roll");
    }
    let [mut warm, mut rolls, mut cold] = [(); 3].map(|()| load::histogram());
    for _ in 0..bench.size(30, 8) {
        for step in 0..10 {
            std::thread::sleep(PAUSE);
            // A tenant of their own: a change of paper would cost two more calls.
            let (into, document, tenant) = match step {
                3 | 7 => (&mut rolls, &roll, "roll"),
                _ => (&mut warm, &receipt, TENANTS[step % TENANTS.len()]),
            };
            load::record(into, producer.one(document, tenant));
        }
        std::thread::sleep(PAUSE);
        load::record(&mut cold, producer.one(&receipt, &format!("new-{}", number())));
        std::thread::sleep(LONG_PAUSE);
    }
    let report = &mut bench.report;
    let count = |times: &Histogram<u64>| format!("{} jobs", times.len());
    let p50 = load::at(&warm, 0.5);
    report.goal("warm tenant, p50", p50, "ms", AtMost(20.0), &count(&warm));
    report.goal("warm tenant, p99", load::at(&warm, 0.99), "ms", AtMost(40.0), "");
    report.figure("warm tenant, roll, p50", load::at(&rolls, 0.5), "ms", &count(&rolls));
    report.figure("warm tenant, roll, p99", load::at(&rolls, 0.99), "ms", "");
    let new = load::at(&cold, 0.5);
    report.goal("cold tenant, p50", new, "ms", AtMost(110.0), &count(&cold));
    report.figure("cold tenant, p99", load::at(&cold, 0.99), "ms", "");
    report.goal("cold tenant, times a warm one, p50", new / p50, "", AtMost(2.0), "");
    for (name, times) in [("warm", &warm), ("roll", &rolls), ("cold", &cold)] {
        report.keep(&format!("distribution, {name}"), distribution(times));
    }
}

/// Every load in turn, more than once.
fn open_loop(bench: &mut Bench, redis: &Redis, worker: &Worker, rates: &[f64]) {
    let capacity = median(rates);
    bench.report.section(
        "Latency under load",
        &format!(
            "Receipts of 3 tenants arrive at random (Poisson) at parts of the {capacity:.0} a second \
             that the worker just did with a backlog; each latency counts from the moment at which \
             the job was to be pushed."
        ),
    );
    let document = Document::receipt();
    let mut all = LOADS.map(|_| load::histogram());
    let seconds = bench.size(6, 1) as f64;
    for pass in 0..bench.size(2, 1) {
        for (times, part) in all.iter_mut().zip(LOADS) {
            let schedule = load::poisson(capacity * part, seconds, 1 + pass as u64);
            load::run(redis, worker, &document, &TENANTS, &schedule, times);
        }
    }
    bench.report.figure("capacity", capacity, "/s", &range(rates));
    let mut lines = Vec::new();
    for (times, part) in all.iter().zip(LOADS) {
        quantiles(&mut bench.report, &format!("{:.0} %", part * 100.0), times);
        let points = CURVE.iter().map(|share| (*share, load::at(times, *share))).collect();
        lines.push(Line { name: format!("{:.0} %", part * 100.0), points });
    }
    std::fs::write(out().join("latency.svg"), chart::percentiles(&lines)).unwrap();
}

/// Interactive jobs of one tenant beside another's bulk.
fn backlog(bench: &mut Bench, redis: &Redis, worker: &Worker) {
    let waiting = bench.size(BACKLOG, 1_000);
    bench.report.section(
        "Latency beside a backlog",
        &format!(
            "An interactive receipt each 200 ms, whether or not the last is back, beside {waiting} \
             bulk receipts of another tenant that were pushed just before."
        ),
    );
    let document = Document::receipt();
    let mut producer = worker.client(redis);
    let inbox = producer.key("in:bulk");
    for part in 0..waiting / 100 {
        let mut pushes = redis::pipe();
        for job in 0..100 {
            // Nobody takes these replies: they go soon.
            let id = format!("b-{}", part * 100 + job);
            let element = document.element("bulk", &id, ",\"reply_ttl_ms\":1000");
            pushes.lpush(&inbox, element).ignore();
        }
        pushes.exec(&mut producer.redis).unwrap();
    }
    // Until the flood has its share of the slots.
    loop {
        let left: usize = producer.redis.llen(&inbox).unwrap();
        if left + 50 <= waiting {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let schedule = load::steady(Duration::from_millis(200), bench.size(100, 20));
    let mut times = load::histogram();
    load::run(redis, worker, &document, &["waiting"], &schedule, &mut times);
    let left: usize = producer.redis.llen(&inbox).unwrap();
    let report = &mut bench.report;
    report.figure(
        "interactive, p50",
        load::at(&times, 0.5),
        "ms",
        &format!("{} jobs", times.len()),
    );
    report.goal("interactive, p95", load::at(&times, 0.95), "ms", AtMost(150.0), "");
    report.figure("interactive, p99", load::at(&times, 0.99), "ms", "");
    report.figure("bulk not yet admitted at the end", left as f64, "jobs", "");
    report.keep("distribution", distribution(&times));
}

fn quantiles(report: &mut Report, what: &str, times: &Histogram<u64>) {
    report.figure(
        &format!("{what}, p50"),
        load::at(times, 0.5),
        "ms",
        &format!("{} jobs", times.len()),
    );
    report.figure(&format!("{what}, p95"), load::at(times, 0.95), "ms", "");
    report.figure(&format!("{what}, p99"), load::at(times, 0.99), "ms", "");
    report.figure(&format!("{what}, longest"), times.max() as f64 / 1e3, "ms", "");
    report.keep(&format!("distribution, {what}"), distribution(times));
}

/// Shares of jobs at which a distribution is told and drawn.
const CURVE: [f64; 11] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999];

fn distribution(times: &Histogram<u64>) -> Value {
    let points: Vec<Value> =
        CURVE.iter().map(|share| json!({"share": share, "ms": load::at(times, *share)})).collect();
    json!({"jobs": times.len(), "mean_ms": times.mean() / 1e3, "max_ms": times.max() as f64 / 1e3, "points": points})
}
