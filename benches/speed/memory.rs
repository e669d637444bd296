//! What warm contexts, the worker, and everything together hold.

use std::time::Duration;

use crate::Bench;
use crate::documents::Document;
use crate::machine::{self, Peak, renderers};
use crate::report::Goal::AtMost;
use crate::report::{Report, median, number};
use crate::rig::Worker;
use crate::server::{Keeps, Redis};

const TENANTS: usize = 3;
const RECEIPTS: usize = 50;

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Memory",
        "Private memory (`RssAnon` + `RssShmem`) of the renderers, each a tenant's context, in MB \
         of 10⁶ bytes; everything together as PSS (`smaps_rollup`), in which shared pages count in \
         parts.",
    );
    let redis = Redis::start(Keeps::File);
    let worker = Worker::start(&redis, "memory", &[]);
    let mut producer = worker.client(&redis);
    let receipts = [Document::receipt()];
    // One at a time: a backlog has a tenant take several contexts.
    for job in 0..TENANTS * RECEIPTS {
        producer.one(&receipts[0], &format!("tenant-{}", job % TENANTS));
    }
    let sizes = renderers(worker.pid());
    let name = format!("a context after {RECEIPTS} receipts, the largest");
    bench.report.goal(&name, largest(&sizes), "MB", AtMost(45.0), &list(&sizes));
    rest(bench);
    let sizes = renderers(worker.pid());
    let report = &mut bench.report;
    let name = "a context after 5 s without work, the largest";
    report.goal(name, largest(&sizes), "MB", AtMost(25.0), &list(&sizes));
    let name = format!("everything with {TENANTS} tenants idle, PSS");
    all(report, &name, &worker, Some(250.0));
    of_worker(report, &worker);
    producer.backlog(&receipts, TENANTS * RECEIPTS, TENANTS);
    rest(bench);
    let sizes = renderers(worker.pid());
    let name = format!("contexts 5 s after a backlog of {TENANTS} tenants");
    bench.report.figure(&name, sizes.len() as f64, "", &format!("MB: {}", list(&sizes)));
    let name = format!("everything 5 s after a backlog of {TENANTS} tenants, PSS");
    all(&mut bench.report, &name, &worker, None);
    drop(worker);
    many(bench, &redis);
    documents(bench, &redis);
}

/// The same with many tenants, so that what one more costs is seen.
fn many(bench: &mut Bench, redis: &Redis) {
    let tenants = bench.size(32, 8);
    let worker = Worker::start(redis, "memory-many", &[]);
    let mut producer = worker.client(redis);
    producer.backlog(&[Document::receipt()], tenants * 10, tenants);
    let sizes = renderers(worker.pid());
    let name = format!("a context of {tenants} after 10 receipts each, the middle");
    let most = format!("up to {}", number(largest(&sizes)));
    bench.report.figure(&name, median(&sizes), "MB", &most);
    rest(bench);
    let sizes = renderers(worker.pid());
    let report = &mut bench.report;
    let name = format!("a context of {tenants} after 5 s without work, the middle");
    report.figure(&name, median(&sizes), "MB", &format!("up to {}", number(largest(&sizes))));
    all(report, &format!("everything with {tenants} tenants idle, PSS"), &worker, None);
    of_worker(report, &worker);
}

/// What a renderer takes at most for a document, and holds after it.
fn documents(bench: &mut Bench, redis: &Redis) {
    let worker = Worker::start(redis, "memory-sizes", &[]);
    let mut producer = worker.client(redis);
    let mut sizes = vec![
        ("a receipt", Document::receipt()),
        ("an invoice of 120 rows", Document::invoice()),
        ("an invoice of 1,000 rows", Document::rows(1_000)),
    ];
    if !bench.quick {
        sizes.push(("a statement of 5,000 rows", Document::rows(5_000)));
    }
    for (name, document) in sizes {
        let tenant = format!("size-{}", document.html.len());
        let peak = Peak::watch(worker.pid());
        for _ in 0..2 {
            producer.one(&document, &tenant);
        }
        let (_, most) = peak.stop();
        let kib = document.html.len() / 1024;
        let what = format!("{name}: its renderer at most");
        bench.report.figure(&what, most, "MB", &format!("{kib} KiB of HTML"));
        rest(bench);
        let sizes = renderers(worker.pid());
        let what = format!("{name}: the largest renderer 5 s later");
        bench.report.figure(&what, largest(&sizes), "MB", "");
    }
    of_worker(&mut bench.report, &worker);
}

/// A little more than the five seconds after which a context is looked at.
fn rest(bench: &Bench) {
    std::thread::sleep(Duration::from_millis(bench.size(5_500, 1_000) as u64));
}

fn all(report: &mut Report, name: &str, worker: &Worker, most: Option<f64>) {
    match (machine::proportional(worker.pid()), most) {
        (Ok(all), Some(most)) => report.goal(name, all, "MB", AtMost(most), "worker and Chromium"),
        (Ok(all), None) => report.figure(name, all, "MB", "worker and Chromium"),
        (Err(why), _) => report.skipped(name, &format!("{why}; run it as root")),
    }
}

fn of_worker(report: &mut Report, worker: &Worker) {
    let own = machine::private(worker.pid()).unwrap();
    let seen = format!("{} MB private", number(own));
    let name = format!("the worker process, resident ({})", worker.queue);
    report.figure(&name, machine::resident(worker.pid()), "MB", &seen);
}

fn largest(sizes: &[f64]) -> f64 {
    sizes.first().copied().unwrap_or(f64::NAN)
}

fn list(sizes: &[f64]) -> String {
    sizes.iter().map(|size| number(*size)).collect::<Vec<_>>().join(", ")
}
