//! Receipts only, in 1 GiB: as fast as the best fixed number at once?

use crate::cgroup::Group;
use crate::documents::{Document, Kind};
use crate::report::{figure, goal, median, section};
use crate::rig::{Worker, out};
use crate::server::{Keeps, Redis};

const LIMIT: u64 = 1 << 30;
const MOST: usize = 8;
const ROUNDS: usize = 3;
/// Of each worker, before it counts: contexts are warm and the governor has learned.
const WARM_UP: usize = 120;
const JOBS: usize = 400;
const TENANTS: usize = 5;

pub(crate) fn measure(settings: &[&str]) {
    section("receipts only, 1 GiB: the governor beside fixed numbers at once");
    // The governor is 0 at once. Rounds are told on stderr: all of it takes minutes.
    let mut rates = vec![Vec::new(); MOST + 1];
    for round in 0..ROUNDS {
        for step in 0..=MOST {
            // Nobody is always first.
            let at_once = if round % 2 == 0 { step } else { MOST - step };
            let rate = rate(at_once, settings);
            eprintln!("round {} of {ROUNDS}, {at_once} at once: {rate:.0} receipts/s", round + 1);
            rates[at_once].push(rate);
        }
    }
    let medians: Vec<f64> = rates.iter().map(|rates| median(rates)).collect();
    for (at_once, rate) in medians.iter().enumerate().skip(1) {
        figure(&format!("{at_once} at once"), &format!("{rate:.0} receipts/s"));
    }
    let best = medians[1..].iter().copied().fold(0.0, f64::max);
    let share = medians[0] / best;
    let what = format!("{:.0} receipts/s, {:.2} of the best", medians[0], share);
    goal("governor", &what, "at least 0.90 of the best", share >= 0.90);
}

fn rate(at_once: usize, more: &[&str]) -> f64 {
    let group = Group::new(LIMIT).unwrap();
    let redis = Redis::start(Keeps::Nothing);
    let concurrency = format!("worker.concurrency={at_once}");
    let mut settings = more.to_vec();
    if at_once > 0 {
        let fixed = ["memory.governor=off", "memory.reserve=0", "memory.per_render=1MB"];
        settings.extend(fixed);
        settings.push(&concurrency);
    }
    let log = out().join(format!("sweep-{at_once}.log"));
    let worker = Worker::start(&group, &redis, "receipts", &settings, &log).unwrap();
    let mut connection = redis.connect();
    let receipts = |from: usize, count: usize| -> Vec<Document> {
        (from..from + count).map(|n| Document::new(Kind::Receipt, n, TENANTS)).collect()
    };
    worker.rate(&mut connection, &receipts(0, WARM_UP));
    worker.rate(&mut connection, &receipts(WARM_UP, JOBS))
}
