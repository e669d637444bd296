//! The queue alone, and how fairly it shares.
//!
//! ```text
//! cargo bench --bench queue                   everything: about six minutes
//! cargo bench --bench queue -- alone          rates, round trips, latency, bytes: no Chromium
//! cargo bench --bench queue -- crowd          claims among 1,000 tenants: no Chromium
//! cargo bench --bench queue -- fair           a flood beside somebody who waits, and weights
//! cargo bench --bench queue -- fair 20000     the same with a smaller flood
//! ```
//!
//! *alone* and *crowd* run workers with the null renderer in this process, *fair* runs
//! the release binary with Chromium. Each part has a `redis-server` of its own on
//! a unix socket of this machine, with an append-only file, `appendfsync everysec`.
//! Rates are medians of several rounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark stops at the first mistake, prints what it saw and measures real time"
)]

mod alone;
mod crowd;
mod fair;
mod info;
mod report;
mod rig;
#[path = "../common/server.rs"]
#[allow(dead_code, reason = "each benchmark needs its part of it")]
mod server;

use report::Report;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|arg| arg == part);
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, appendfsync {}", server::FSYNC);
    let mut report = Report::default();
    if is_wanted("alone") {
        alone::measure(&mut report);
    }
    if is_wanted("crowd") {
        crowd::measure(&mut report);
    }
    if is_wanted("fair") {
        fair::measure(&mut report, wanted.iter().find_map(|arg| arg.parse().ok()));
    }
    report.write();
}
