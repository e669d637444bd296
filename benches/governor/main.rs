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
//! ```
//!
//! It needs to make control groups: root, as a rule. What it starts it also ends, and
//! each wait has an end. Logs of the workers: `target/governor/`.

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
mod documents;
mod naive;
mod rig;
mod survive;
mod watch;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let part = words.first().map(String::as_str);
    let is_kept = match part {
        Some("survive") => survive::show(&words[1..]),
        _ => true,
    };
    if !is_kept {
        std::process::exit(1);
    }
}
