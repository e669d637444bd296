//! Fresh contexts: the worker with `renderer.isolation = "job"`, and with scripts,
//! beside a naive new context for each job over the bare pipe, in turns.

use serde_json::json;

use crate::Bench;
use crate::documents::Document;
use crate::floor::workers_target;
use crate::naive::Naive;
use crate::pipe::Switches;
use crate::report::Goal::AtLeast;
use crate::report::{median, range};
use crate::rig::Worker;
use crate::server::{Keeps, Redis};
use crate::throughput::rate;

const JOBS: usize = 75;
const WARM_UP: usize = 15;
const TENANTS: usize = 3;

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Fresh contexts",
        "A new context for each receipt, in turns: over the bare pipe as one would write it first \
         (the usual quiet switches, a plain target), with the worker's switches, and with its \
         targets too (1×1 px, unseen, at no address); through Redis with \
         `renderer.isolation = \"job\"`; and a barcode that a script draws.",
    );
    let redis = Redis::start(Keeps::File);
    let (receipts, scripts) = ([Document::receipt()], [Document::script()]);
    let worker = Worker::start(&redis, "fresh", &["renderer.isolation=job"]);
    let mut producer = worker.client(&redis);
    let mut loops = [
        (Switches::TheUsual, json!({"url": "about:blank"})),
        (Switches::TheWorkers, json!({"url": "about:blank"})),
        (Switches::TheWorkers, workers_target()),
    ]
    .map(|(switches, target)| Naive::new(&receipts[0], switches, target));
    for naive in &mut loops {
        naive.run(WARM_UP);
    }
    producer.backlog(&receipts, WARM_UP, TENANTS);
    producer.backlog(&scripts, WARM_UP, TENANTS);
    let mut bare = [const { Vec::new() }; 3];
    let [mut fresh, mut scripted] = [const { Vec::new() }; 2];
    for _ in 0..bench.size(5, 1) {
        for (naive, rates) in loops.iter_mut().zip(&mut bare) {
            rates.push(rate(JOBS, naive.run(JOBS)));
        }
        fresh.push(rate(JOBS, producer.backlog(&receipts, JOBS, TENANTS)));
        scripted.push(rate(JOBS, producer.backlog(&scripts, JOBS, TENANTS)));
    }
    let report = &mut bench.report;
    let names =
        ["as one would write it first", "with the worker's switches", "and with its targets"];
    for (name, rates) in names.iter().zip(&bare) {
        let name = format!("new context for each: {name}");
        report.figure(&name, median(rates), "/s", &range(rates));
    }
    report.figure("through Redis", median(&fresh), "/s", &range(&fresh));
    for (label, rates) in names.into_iter().zip(&bare) {
        let ratios: Vec<f64> = fresh.iter().zip(rates).map(|(ours, bare)| ours / bare).collect();
        let (name, ratio) = (format!("through Redis, times one {label}"), median(&ratios));
        if label == names[0] {
            report.goal(&name, ratio, "", AtLeast(1.2), &range(&ratios));
        } else {
            report.figure(&name, ratio, "", &range(&ratios));
        }
    }
    report.figure("through Redis, with a script", median(&scripted), "/s", &range(&scripted));
}
