//! The worker's own memory under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cgroup::Group;
use crate::documents::{Document, Kind, long_receipt};
use crate::report::{figure, goal, section};
use crate::rig::{Worker, out};
use crate::server::{Keeps, Redis};

const LIMIT: u64 = 1 << 30;
const GOAL: u64 = 30;
const JOBS: usize = 1_500;
const TENANTS: usize = 5;
const BYTES: usize = 10_000;

pub(crate) fn measure(settings: &[&str]) {
    section("the worker's own memory, documents of 10 KB");
    let group = Group::new(LIMIT).unwrap();
    let redis = Redis::start(Keeps::Nothing);
    let worker =
        Worker::start(&group, &redis, "receipts", settings, &out().join("rss.log")).unwrap();
    let pid = worker.pid();
    let idle = resident(pid);
    let stop = Arc::new(AtomicBool::new(false));
    let peak = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut peak = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let now = resident(pid);
                peak = (now.0.max(peak.0), now.1.max(peak.1));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        }
    });
    let documents: Vec<Document> = (0..JOBS)
        .map(|number| {
            let short = Document::new(Kind::Receipt, number, TENANTS);
            Document { html: long_receipt(number, BYTES), ..short }
        })
        .collect();
    let rate = worker.rate(&mut redis.connect(), &documents);
    stop.store(true, Ordering::Relaxed);
    let (all, private) = peak.join().unwrap();
    figure("before any job", &format!("{} MB resident, {} MB private", idle.0, idle.1));
    figure("meanwhile", &format!("{rate:.0} receipts/s, {JOBS} pushed at once"));
    figure("private at its peak", &format!("{private} MB"));
    goal("resident at its peak", &format!("{all} MB"), &format!("at most {GOAL} MB"), all <= GOAL);
}

/// Resident memory of a process in MB: all, and what is its own alone.
fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kb.unwrap_or(0).div_ceil(1000)
    };
    (field("VmRSS:"), field("RssAnon:"))
}
