//! Fresh contexts: the worker with `renderer.isolation = "job"`, and with scripts,
//! beside a naive new context for each job over the bare pipe, in turns.

use serde_json::json;

use crate::Bench;
use crate::documents::Document;
use crate::naive::Naive;
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
        "A new context for each receipt, in turns: over the bare pipe with plain targets and with \
         the worker's (1×1 px, no frames), through Redis with `renderer.isolation = \"job\"`, and \
         a barcode that a script draws.",
    );
    let redis = Redis::start(Keeps::File);
    let (receipts, scripts) = ([Document::receipt()], [Document::script()]);
    let worker = Worker::start(&redis, "fresh", &["renderer.isolation=job"]);
    let mut producer = worker.client(&redis);
    let mut plain = Naive::new(&receipts[0], json!({}));
    let target = json!({"width": 1, "height": 1, "enableBeginFrameControl": true});
    let mut small = Naive::new(&receipts[0], target);
    plain.run(WARM_UP);
    small.run(WARM_UP);
    producer.backlog(&receipts, WARM_UP, TENANTS);
    producer.backlog(&scripts, WARM_UP, TENANTS);
    let [mut naive, mut tuned, mut fresh, mut scripted] = [const { Vec::new() }; 4];
    for _ in 0..bench.size(3, 1) {
        naive.push(rate(JOBS, plain.run(JOBS)));
        fresh.push(rate(JOBS, producer.backlog(&receipts, JOBS, TENANTS)));
        tuned.push(rate(JOBS, small.run(JOBS)));
        scripted.push(rate(JOBS, producer.backlog(&scripts, JOBS, TENANTS)));
    }
    let times = |others: &[f64]| -> Vec<f64> {
        fresh.iter().zip(others).map(|(ours, other)| ours / other).collect()
    };
    let report = &mut bench.report;
    report.figure("new context for each, plain targets", median(&naive), "/s", &range(&naive));
    report.figure("the same, the worker's targets", median(&tuned), "/s", &range(&tuned));
    report.figure("through Redis", median(&fresh), "/s", &range(&fresh));
    let ratios = times(&naive);
    let name = "times a new context for each";
    report.goal(name, median(&ratios), "", AtLeast(1.2), &range(&ratios));
    let ratios = times(&tuned);
    report.figure("times the same with the worker's targets", median(&ratios), "", &range(&ratios));
    report.figure("through Redis, with a script", median(&scripted), "/s", &range(&scripted));
}
