//! The memory governor inside real limits: a child control group of this machine with
//! the worker in it, and Redis outside.
//!
//! ```text
//! cargo bench --bench governor -- survive      a flood that is too much, beside what others do
//! cargo bench --bench governor -- survive 1024MiB governed
//! cargo bench --bench governor                 the figures below: about 15 minutes
//! cargo bench --bench governor -- sweep        receipts/s beside the best fixed number
//! cargo bench --bench governor -- cost         what governing costs
//! cargo bench --bench governor -- neighbour    a neighbour that grows, one that is in a hurry
//! cargo bench --bench governor -- invoice      an invoice of 1,000 rows among receipts
//! cargo bench --bench governor -- rss          the worker's own memory
//! cargo bench --bench governor -- clean        ends what a run left behind that was killed
//! ```
//!
//! `KEY=VALUE` among the words is a setting of the workers: `renderer.nice=0` where other
//! programs are busy. It needs to make control groups: root, as a rule. What it starts it also ends, and
//! each wait has an end. It fails after all of it where a goal was missed. Logs of the workers: `target/governor/`.

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

mod cgroup;
mod chart;
mod cost;
mod documents;
mod invoice;
mod naive;
mod neighbour;
mod report;
mod rig;
mod rss;
#[path = "../common/server.rs"]
#[allow(dead_code, reason = "each benchmark needs its part of it")]
mod server;
mod survive;
mod sweep;
mod watch;

/// Name, and how it is measured with these settings of the worker.
type Part = (&'static str, fn(&[&str]));
const PARTS: [Part; 5] = [
    ("sweep", sweep::measure),
    ("cost", cost::measure),
    ("neighbour", neighbour::measure),
    ("invoice", invoice::measure),
    ("rss", rss::measure),
];

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match words.first().map(String::as_str) {
        Some("survive") if !survive::show(&words[1..]) => std::process::exit(1),
        Some("survive") => {}
        // Making a group removes those whose makers are dead.
        Some("clean") => drop(cgroup::Group::new(1 << 30)),
        Some("neighbour-itself") => neighbour::be(&words[1..]),
        _ => measure(&words),
    }
}

/// `KEY=VALUE` is told to the workers; all else is a part's name.
fn measure(words: &[String]) {
    let (settings, wanted): (Vec<&str>, Vec<&str>) =
        words.iter().map(String::as_str).partition(|word| word.contains('='));
    for word in &wanted {
        if !PARTS.iter().any(|(name, _)| name == word) {
            let names = PARTS.map(|(name, _)| name).join(", ");
            eprintln!("error: there is no part called {word}; there are survive, {names}");
            std::process::exit(2);
        }
    }
    // Whether a group can be made is seen before anything is measured.
    if let Err(error) = cgroup::Group::new(1 << 30) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores");
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            part(&settings);
        }
    }
    if report::missed() > 0 {
        std::process::exit(1);
    }
}
