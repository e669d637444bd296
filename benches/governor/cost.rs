//! What governing costs: the same receipts with and without it, in turns, by two
//! workers of which one is always idle.

use std::fs;

use redis::Connection;

use crate::cgroup::Group;
use crate::documents::{Document, Kind};
use crate::report::{figure, goal, median, section};
use crate::rig::{Worker, out};
use crate::server::{Keeps, Redis};

const LIMIT: u64 = 2 << 30;
const ROUNDS: usize = 24;
const JOBS: usize = 150;
const WARM_UP: usize = 200;
const TENANTS: usize = 5;
/// Of the kernel's clock that counts CPU time.
const TICKS_A_SECOND: f64 = 100.0;

struct Side {
    worker: Worker,
    next: usize,
    rates: Vec<f64>,
    own: f64,
    all: f64,
}

pub(crate) fn measure(settings: &[&str]) {
    section("what governing costs: the same receipts with and without, in turns");
    let group = Group::new(LIMIT).unwrap();
    let redis = Redis::start(Keeps::Nothing);
    let mut connection = redis.connect();
    let start = |queue: &str, governor: &str| {
        let settings = [settings, &[governor, "worker.concurrency=3"]].concat();
        let log = out().join(format!("cost-{queue}.log"));
        let worker = Worker::start(&group, &redis, queue, &settings, &log).unwrap();
        Side { worker, next: 0, rates: Vec::new(), own: 0.0, all: 0.0 }
    };
    let mut sides = [start("on", "memory.governor=on"), start("off", "memory.governor=off")];
    for side in &mut sides {
        side.batch(&mut connection, WARM_UP);
    }
    for round in 0..ROUNDS {
        for step in 0..2 {
            sides[(round + step) % 2].round(&mut connection);
        }
    }
    let jobs = (ROUNDS * JOBS) as f64 / 1000.0;
    for (side, name) in sides.iter().zip(["with", "without"]) {
        let rate = format!("{:.1} receipts/s", median(&side.rates));
        figure(&format!("{name} it, middle of {ROUNDS} rounds"), &rate);
        let cpu = format!("{:.2} s worker, {:.2} s everything", side.own / jobs, side.all / jobs);
        figure(&format!("{name} it, CPU per 1,000 receipts"), &cpu);
    }
    let [on, off] = &sides;
    let ratios: Vec<f64> = on.rates.iter().zip(&off.rates).map(|(on, off)| on / off).collect();
    let loss = (1.0 - median(&ratios)) * 100.0;
    goal("throughput lost", &format!("{loss:.1} %"), "within 3 %", loss <= 3.0);
    let more = (on.all / off.all - 1.0) * 100.0;
    figure("CPU of everything, more by", &format!("{more:.1} %"));
}

impl Side {
    fn batch(&mut self, redis: &mut Connection, jobs: usize) -> f64 {
        let receipts = self.next..self.next + jobs;
        self.next += jobs;
        let receipts: Vec<_> =
            receipts.map(|number| Document::new(Kind::Receipt, number, TENANTS)).collect();
        self.worker.rate(redis, &receipts)
    }

    fn round(&mut self, redis: &mut Connection) {
        let pid = self.worker.pid();
        let (own, all) = (cpu(pid), cpu_of_tree(pid));
        let rate = self.batch(redis, JOBS);
        self.rates.push(rate);
        self.own += cpu(pid) - own;
        self.all += cpu_of_tree(pid) - all;
    }
}

/// Seconds of CPU that a process took, with its children that ended.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in parentheses, and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ').skip(11);
    let ticks: f64 = fields.take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_A_SECOND
}

fn cpu_of_tree(pid: u32) -> f64 {
    let mut open = vec![pid];
    let mut sum = 0.0;
    while let Some(pid) = open.pop() {
        sum += cpu(pid);
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            open.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    sum
}
