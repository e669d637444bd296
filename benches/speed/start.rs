//! From the start of the process to the first PDF, with the job waiting already.

use std::time::Instant;

use crate::Bench;
use crate::documents::Document;
use crate::report::Goal::AtMost;
use crate::report::{median, range};
use crate::rig::{Producer, Worker, number};
use crate::server::{Keeps, Redis};

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Cold start",
        "The worker is started while a receipt waits in its inbox; all of its own checks included.",
    );
    let redis = Redis::start(Keeps::File);
    let document = Document::receipt();
    let (mut ready, mut first) = (Vec::new(), Vec::new());
    for _ in 0..bench.size(5, 2) {
        let queue = format!("start-{}", number());
        let mut producer = Producer::of(&redis, &queue);
        let name = producer.push(&document, "tenant");
        let began = Instant::now();
        let worker = Worker::start(&redis, &queue, &[]);
        producer.take(&name);
        first.push(began.elapsed().as_secs_f64() * 1e3);
        ready.push(worker.ready.as_secs_f64() * 1e3);
    }
    let report = &mut bench.report;
    report.figure("process start to ready", median(&ready), "ms", &range(&ready));
    report.goal("process start to first PDF", median(&first), "ms", AtMost(600.0), &range(&first));
}
