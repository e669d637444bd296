//! How fast it is: the floor, throughput, latency, memory, start, big documents, a long
//! drain, what others do, how many browsers, and what replacing one costs, with their goals.
//!
//! ```text
//! cargo bench --bench speed                    all of it: a quarter of an hour
//! cargo bench --bench speed -- --quick         a smoke test: two minutes, no goals
//! cargo bench --bench speed -- floor           Chromium alone, over a bare pipe
//! cargo bench --bench speed -- throughput      through Redis beside the floor
//! cargo bench --bench speed -- latency         idle, under load, beside a backlog
//! cargo bench --bench speed -- memory          contexts, worker, documents
//! cargo bench --bench speed -- cold-start      process start to first PDF
//! cargo bench --bench speed -- fresh           a new context for each job; scripts
//! cargo bench --bench speed -- big             1,000 and 5,000 rows, 5 MB of images
//! cargo bench --bench speed -- drain 100000    a backlog of so many (5,000)
//! cargo bench --bench speed -- peers           what a team would otherwise build
//! cargo bench --bench speed -- browsers        the same contexts in 1, 2, 4 and 12 browsers
//! cargo bench --bench speed -- recycle         a browser replaced, and contexts, under load
//! ```
//!
//! `KEY=VALUE` among the words is a setting of the workers (`renderer.nice=0` where other
//! programs are busy; the floor follows it).
//!
//! What is compared is measured in turns in the same run, and the middle counts. Each
//! part has a `redis-server` of its own on a unix socket, with an append-only file,
//! `appendfsync everysec`, and the release binary as it is configured by default.
//! Tables go to stdout; `target/bench/speed.json` and three pictures keep the same.
//! The exit code is 1 where a goal is missed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::exit,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark stops at the first mistake, prints what it saw and measures real time"
)]

mod big;
mod browsers;
mod chart;
mod documents;
mod drain;
mod floor;
mod fresh;
mod latency;
mod load;
mod machine;
mod memory;
mod naive;
mod peers;
mod pipe;
mod recycle;
mod report;
mod rig;
#[path = "../common/server.rs"]
#[allow(dead_code, reason = "each benchmark needs its part of it")]
mod server;
mod start;
mod throughput;

use std::time::Instant;

use report::Report;

/// What all parts share.
pub(crate) struct Bench {
    pub(crate) report: Report,
    /// A smoke test.
    pub(crate) quick: bool,
    /// The number among the words.
    pub(crate) jobs: Option<usize>,
}

impl Bench {
    /// How many: of a real run, or of a smoke test.
    pub(crate) fn size(&self, real: usize, quick: usize) -> usize {
        if self.quick { quick } else { real }
    }
}

type Part = (&'static str, fn(&mut Bench));
const PARTS: [Part; 11] = [
    ("floor", throughput::floor),
    ("throughput", throughput::measure),
    ("latency", latency::measure),
    ("memory", memory::measure),
    ("cold-start", start::measure),
    ("fresh", fresh::measure),
    ("big", big::measure),
    ("drain", drain::measure),
    ("peers", peers::measure),
    ("browsers", browsers::measure),
    ("recycle", recycle::measure),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let quick = words.iter().any(|word| word == "--quick");
    // Cargo adds options of its own.
    let words: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let (settings, words): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|word| word.contains('='));
    rig::set(settings.into_iter().map(str::to_owned).collect());
    let jobs = words.iter().find_map(|word| word.parse().ok());
    let wanted: Vec<&str> =
        words.into_iter().filter(|word| word.parse::<usize>().is_err()).collect();
    if let Some(word) = wanted.iter().find(|word| !PARTS.iter().any(|(name, _)| name == *word)) {
        let names = PARTS.map(|(name, _)| name).join(", ");
        eprintln!("error: there is no part called {word}; there are {names}");
        std::process::exit(2);
    }
    let began = Instant::now();
    let machine = describe();
    let mut bench = Bench { report: Report::default(), quick, jobs };
    for (name, part) in PARTS {
        // The floor is part of the throughput: alone only when it is asked for.
        if wanted.contains(&name) || (wanted.is_empty() && name != "floor") {
            part(&mut bench);
        }
    }
    let missed = bench.report.finish(&machine);
    println!("{:.0} s", began.elapsed().as_secs_f64());
    if quick {
        println!("A smoke test: too short for its figures to count.");
    } else if !missed.is_empty() {
        println!("\nMISSED:\n- {}", missed.join("\n- "));
        std::process::exit(1);
    }
}

fn describe() -> serde_json::Value {
    let engine = pipe::Pipe::launch().product();
    let redis = server::Redis::start(server::Keeps::File).version();
    let machine = machine::describe(&engine, &redis);
    println!(
        "{} cores ({}), load {} at the start; {engine}; Redis {redis}, appendfsync {}; Tillroll {}",
        machine["cores"],
        machine["processor"].as_str().unwrap_or_default(),
        machine["load_at_start"],
        server::FSYNC,
        env!("CARGO_PKG_VERSION"),
    );
    machine
}
