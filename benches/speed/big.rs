//! Big documents: time and memory through Redis and in a warm page, beside Chromium's
//! own command line, in turns.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Bench;
use crate::documents::Document;
use crate::machine::Peak;
use crate::pipe;
use crate::report::{median, number};
use crate::rig::{Producer, Worker};
use crate::server::{Keeps, Redis};

/// What the worker puts before the document's own rules.
const PAPER: &str = "<style>@page{size:A4;margin:10mm}</style>";

/// One document by one way: milliseconds, and megabytes at most.
#[derive(Default)]
struct Seen {
    times: Vec<f64>,
    peaks: Vec<f64>,
}

impl Seen {
    fn add(&mut self, (took, peak): (Duration, f64)) {
        self.times.push(took.as_secs_f64() * 1e3);
        self.peaks.push(peak);
    }
}

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Big documents",
        "Push to reply on an idle worker with a warm page, beside `chromium-headless-shell \
         --print-to-pdf` of the same document (a browser started for it, no jail), in turns; private \
         memory of all processes together at its peak.",
    );
    let redis = Redis::start(Keeps::File);
    let worker = Worker::start(&redis, "big", &[]);
    let mut producer = worker.client(&redis);
    producer.backlog(&[Document::receipt()], 10, 1);
    let mut cases = vec![
        ("an invoice of 1,000 rows", Document::rows(1_000)),
        ("5 MB of inline images", Document::images()),
    ];
    if !bench.quick {
        cases.insert(1, ("a statement of 5,000 rows", Document::rows(5_000)));
    }
    for (name, document) in cases {
        let (mut ours, mut plain) = (Seen::default(), Seen::default());
        for _ in 0..bench.size(3, 1) {
            ours.add(through(&worker, &mut producer, &document));
            plain.add(alone(&document));
        }
        let report = &mut bench.report;
        let kib = format!("{} KiB of HTML", document.html.len() / 1024);
        report.figure(&format!("{name}: through Redis"), median(&ours.times), "ms", &kib);
        report.figure(&format!("{name}: plain Chromium"), median(&plain.times), "ms", "");
        let ratio = format!(
            "{} times plain Chromium's",
            number(median(&ours.peaks) / median(&plain.peaks))
        );
        report.figure(
            &format!("{name}: memory, worker and Chromium"),
            median(&ours.peaks),
            "MB",
            &ratio,
        );
        report.figure(&format!("{name}: memory, plain Chromium"), median(&plain.peaks), "MB", "");
    }
}

fn through(worker: &Worker, producer: &mut Producer, document: &Document) -> (Duration, f64) {
    let peak = Peak::watch(worker.pid());
    let took = producer.one(document, "tenant-0");
    (took, peak.stop().0)
}

fn alone(document: &Document) -> (Duration, f64) {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let (html, pdf) = (place("document.html"), place("document.pdf"));
    std::fs::write(&html, with_paper(&document.html)).unwrap();
    let began = Instant::now();
    // Untagged, as the worker prints it.
    let mut child = Command::new(pipe::engine().path)
        .args(["--headless", "--disable-gpu", "--no-pdf-header-footer", "--disable-pdf-tagging"])
        .args(rustix::process::geteuid().is_root().then_some("--no-sandbox"))
        .arg(format!("--user-data-dir={}", place("profile").display()))
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!("file://{}", html.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peak = Peak::watch(child.id());
    assert!(child.wait().unwrap().success(), "plain Chromium failed");
    let took = began.elapsed();
    assert!(is_pdf(&pdf), "plain Chromium printed nothing");
    (took, peak.stop().0)
}

fn with_paper(html: &str) -> String {
    let after = html.find("<title>").unwrap();
    format!("{}{PAPER}{}", &html[..after], &html[after..])
}

pub(crate) fn is_pdf(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|pdf| pdf.starts_with(b"%PDF"))
}
