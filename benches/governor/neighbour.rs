//! Two neighbours in the worker's own group: one that grows to 60 % of it, and one that
//! has a little to do every ten milliseconds. Both are this program, started again.

use std::io::{BufRead, BufReader, Lines};
use std::process::{ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::Connection;

use crate::cgroup::{Entry, Group};
use crate::documents::{Document, Kind};
use crate::report::{figure, goal, quantile, section};
use crate::rig::{Worker, out, reply_line};
use crate::server::{Keeps, Redis, Server};
use crate::watch::{Point, Watch};

const LIMIT: u64 = 1 << 30;
const MB: u64 = 1_000_000;
/// The neighbour takes so much a second, up to this, for so long.
const GROWTH: u64 = 20 * MB;
const MOST: u64 = LIMIT / 10 * 6;
const HOLD: Duration = Duration::from_secs(10);
/// Before it begins, and after it has let go.
const BEFORE: Duration = Duration::from_secs(8);
const AFTER: Duration = Duration::from_secs(14);
/// What `memory.reserve` is here: 12 % of the limit. Half of it must be free.
const ROOM: u64 = LIMIT / 100 * 12 / 2;
/// Receipts in flight.
const FLYING: usize = 40;
const TENANTS: usize = 5;
/// Full speed is this part of the speed before.
const FULL: f64 = 0.9;
const WINDOW: Duration = Duration::from_secs(1);

/// Of the one in a hurry: a millisecond of work in each ten, for so long.
const PERIOD: Duration = Duration::from_millis(10);
const WORK: Duration = Duration::from_millis(1);
const HURRY: Duration = Duration::from_secs(15);

pub(crate) fn measure(settings: &[&str]) {
    growing(settings);
    hurried(settings);
}

/// What this program does when it is started as a neighbour.
pub(crate) fn be(words: &[String]) {
    match words.first().map(String::as_str) {
        Some("grow") => grow(),
        Some("hurry") => hurry(),
        _ => panic!("a neighbour either grows or hurries"),
    }
}

fn neighbour(entry: &Entry, what: &str) -> (Server, Lines<BufReader<ChildStdout>>) {
    let mut command = entry.command(std::env::current_exe().unwrap());
    let child = command.args(["neighbour-itself", what]).stdout(Stdio::piped()).spawn();
    let mut server = Server(child.unwrap());
    let lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    (server, lines)
}

fn grow() {
    const STEP: Duration = Duration::from_millis(50);
    let chunk = (GROWTH as u128 * STEP.as_millis() / 1000) as usize;
    let began = Instant::now();
    let mut held: Vec<Vec<u8>> = Vec::new();
    while (held.len() * chunk) < MOST as usize {
        held.push(vec![1; chunk]);
        let next = began + STEP * u32::try_from(held.len()).unwrap();
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("there");
    std::thread::sleep(HOLD);
    drop(std::hint::black_box(held));
    println!("let go");
    std::thread::sleep(AFTER);
}

fn growing(settings: &[&str]) {
    section("a neighbour that grows 20 MB/s to 60 % of 1 GiB, holds it 10 s, and lets go");
    let group = Group::new(LIMIT).unwrap();
    let redis = Redis::start(Keeps::Nothing);
    let log = out().join("neighbour.log");
    let worker = Worker::start(&group, &redis, "receipts", settings, &log).unwrap();
    let entry = group.entry();
    let watch = Watch::start(group, Some(worker.status_address()), std::sync::Arc::default());
    let watched = Instant::now();
    let stop = AtomicBool::new(false);
    let (ended, marks, survived) = std::thread::scope(|scope| {
        let flow = scope.spawn(|| flow(&worker, &mut redis.connect(), &stop));
        std::thread::sleep(BEFORE);
        let begins = Instant::now();
        let (mut server, mut said) = neighbour(&entry, "grow");
        // Nothing is said by one that was killed.
        let there = said.next().map(|_| Instant::now());
        let gone = said.next().map(|_| Instant::now());
        let survived = server.0.wait().unwrap().success();
        stop.store(true, Ordering::Relaxed);
        (flow.join().unwrap(), (begins, there, gone), survived)
    });
    let (group, points) = watch.stop();
    drop(worker);
    drop(group);
    goal("the neighbour", if survived { "lived" } else { "was killed" }, "lives", survived);
    let kills = points.last().map_or(0, |point| point.kills.outer);
    goal("OOM kills", &kills.to_string(), "none", kills == 0);
    let (begins, Some(_), Some(gone)) = marks else { return };
    room(&points);
    speed(&ended, watched, begins, gone);
}

/// How long the neighbour had little room.
fn room(points: &[Point]) {
    let free = |point: &Point| LIMIT.saturating_sub(point.memory);
    let (mut longest, mut since) = (0.0_f64, None);
    for point in points {
        if free(point) >= ROOM {
            since = None;
        } else {
            longest = longest.max(point.at - *since.get_or_insert(point.at));
        }
    }
    let least = points.iter().map(free).min().unwrap_or(0);
    figure("least that was free", &format!("{} MB", least / MB));
    let what = format!("less than {} MB were free for at most {longest:.1} s", ROOM / MB);
    goal("room for it", &what, "made within 2 s", longest <= 2.0);
}

/// Receipts a second before, while it held most, and how soon all was as before.
fn speed(ended: &Flow, watched: Instant, begins: Instant, gone: Instant) {
    let rate = |from: Instant, long: Duration| {
        let count = ended.done.iter().filter(|at| **at >= from && **at < from + long).count();
        count as f64 / long.as_secs_f64()
    };
    // The first seconds are those of cold contexts.
    let warm = watched + Duration::from_secs(3);
    let before = rate(warm, begins.saturating_duration_since(warm));
    figure("before", &format!("{before:.0} receipts/s"));
    figure("while it held most", &format!("{:.0} receipts/s", rate(gone - HOLD, HOLD)));
    let full = (0..130)
        .map(|step| Duration::from_millis(100) * step)
        .find(|after| rate(gone + *after, WINDOW) >= FULL * before);
    let what = full.map_or("never".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
    let reached = full.is_some_and(|after| after <= Duration::from_secs(10));
    goal("full speed again after it let go", &what, "within 10 s", reached);
    let failed = ended.failed;
    goal("receipts that were not done", &failed.to_string(), "none", failed == 0);
}

/// When receipts were done, and how many were not.
struct Flow {
    done: Vec<Instant>,
    failed: usize,
}

/// Keeps so many receipts in flight until it is stopped.
fn flow(worker: &Worker, redis: &mut Connection, stop: &AtomicBool) -> Flow {
    let mut flow = Flow { done: Vec::new(), failed: 0 };
    let mut flying: Vec<Document> = Vec::new();
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let missing = next..next + FLYING - flying.len();
        next = missing.end;
        let fresh: Vec<_> =
            missing.map(|number| Document::new(Kind::Receipt, number, TENANTS)).collect();
        worker.push(redis, &fresh);
        flying.extend(fresh);
        let mut takes = redis::pipe();
        for receipt in &flying {
            takes.lpop(worker.key(&format!("reply:{}", receipt.name())), None);
        }
        let replies: Vec<Option<Vec<u8>>> = takes.query(redis).unwrap();
        let mut replies = replies.iter();
        flying.retain(|_| {
            let Some(element) = replies.next().unwrap() else { return true };
            match reply_line(element)["status"].as_str() {
                Some("done") => flow.done.push(Instant::now()),
                _ => flow.failed += 1,
            }
            false
        });
        std::thread::sleep(Duration::from_millis(10));
    }
    flow
}

fn hurried(settings: &[&str]) {
    section("a neighbour with 1 ms of work every 10 ms, beside a flood of receipts");
    let group = Group::new(LIMIT).unwrap();
    let redis = Redis::start(Keeps::Nothing);
    let log = out().join("hurried.log");
    let worker = Worker::start(&group, &redis, "receipts", settings, &log).unwrap();
    let times = || {
        let (_server, said) = neighbour(&group.entry(), "hurry");
        let times: Vec<f64> = said.map(|line| line.unwrap().parse().unwrap()).collect();
        times
    };
    let alone = times();
    let stop = AtomicBool::new(false);
    let (beside, ended) = std::thread::scope(|scope| {
        let flow = scope.spawn(|| flow(&worker, &mut redis.connect(), &stop));
        let beside = times();
        stop.store(true, Ordering::Relaxed);
        (beside, flow.join().unwrap())
    });
    let text = |times: &[f64]| {
        format!("p50 {:.2} ms, p99 {:.2} ms", quantile(times, 0.5), quantile(times, 0.99))
    };
    figure("from when it is due to its end, alone", &text(&alone));
    let rate = ended.done.len() as f64 / HURRY.as_secs_f64();
    figure("beside the flood", &format!("{}; {rate:.0} receipts/s", text(&beside)));
    let times = quantile(&beside, 0.99) / quantile(&alone, 0.99);
    goal("p99, beside over alone", &format!("{times:.1} times"), "at most twice", times <= 2.0);
}

/// Prints how long each piece of work took from when it was due, in milliseconds.
fn hurry() {
    let mut times = Vec::new();
    let began = Instant::now();
    let mut due = began + PERIOD;
    while due < began + HURRY {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let work = Instant::now();
        while work.elapsed() < WORK {
            std::hint::spin_loop();
        }
        times.push(due.elapsed().as_secs_f64() * 1e3);
        due += PERIOD;
    }
    for time in times {
        println!("{time:.3}");
    }
}
