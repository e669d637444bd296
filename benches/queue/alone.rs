//! The queue alone: how many a second, how soon, how many round trips and bytes.

use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use tokio::runtime::Runtime;

use crate::info::Info;
use crate::report::{Report, median};
use crate::rig::{self, Workers, key};
use crate::server::{Keeps, Redis};

const ROUNDS: usize = 3;
/// Pushed one by one to idle workers.
const ONE_BY_ONE: usize = 1_000;
/// Claims and settlements are counted between these shares of the jobs, when all
/// workers have noticed that they may and none has run out.
const FROM: f64 = 0.3;
const UNTIL: f64 = 0.9;

pub(crate) fn measure(report: &mut Report) {
    let runtime = Runtime::new().unwrap();
    for (bytes, jobs) in [(5_000, 12_000), (200_000, 1_500)] {
        let rounds: Vec<Round> =
            (0..ROUNDS).map(|_| Round::measure(&runtime, bytes, jobs)).collect();
        report.section(&format!("queue alone, {} KB", bytes / 1000));
        let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        let note = format!("{ROUNDS} rounds of {jobs}");
        report.figure("pushed, many in a round trip", middle(|r| r.pushes), "jobs/s", &note);
        report.figure("admitted, one worker", middle(|r| r.one.admissions), "jobs/s", &note);
        report.figure("admitted, eight workers", middle(|r| r.eight.admissions), "jobs/s", "");
        report.figure("claimed and finished, one worker", middle(|r| r.one.ends), "jobs/s", "");
        report.figure(
            "claimed and finished, eight workers",
            middle(|r| r.eight.ends),
            "jobs/s",
            "",
        );
        let last = rounds.last().unwrap();
        report.figure("Redis' CPU to admit", middle(|r| r.one.admit_cpu), "µs/job", "");
        report.figure("Redis' CPU to claim and finish", middle(|r| r.one.end_cpu), "µs/job", "");
        let called = &last.one.admit_calls;
        report.figure("requests read, admission", middle(|r| r.one.admit_reads), "a job", called);
        let called = &last.one.end_calls;
        report.figure(
            "requests read, claim and finish",
            middle(|r| r.one.end_reads),
            "a job",
            called,
        );
        let memory = "used_memory, less the element's own length";
        report.figure(
            "Redis, a waiting job beyond its element",
            middle(|r| r.waiting),
            "bytes",
            memory,
        );
        let usage = "used_memory, less MEMORY USAGE of the document's key";
        report.figure(
            "Redis, a waiting job beyond its key",
            middle(|r| r.waiting_key),
            "bytes",
            usage,
        );
        let file = "beyond the element itself, from push to reply; the reply's bytes included";
        report.figure("append-only file, a job", middle(|r| r.file), "bytes", file);
        for workers in [1, 8] {
            let times = one_by_one(&runtime, bytes, workers);
            let what = format!("pushed to begun, {workers} idle");
            report.quantiles(&what, &times, &format!("{ONE_BY_ONE} one by one"));
        }
    }
}

/// What some workers did with a backlog.
struct Worked {
    admissions: f64,
    ends: f64,
    admit_reads: f64,
    admit_calls: String,
    admit_cpu: f64,
    end_reads: f64,
    end_calls: String,
    end_cpu: f64,
}

struct Round {
    pushes: f64,
    one: Worked,
    eight: Worked,
    waiting: f64,
    waiting_key: f64,
    file: f64,
}

impl Round {
    fn measure(runtime: &Runtime, bytes: usize, jobs: usize) -> Self {
        let server = Redis::start(Keeps::EveryWrite);
        let mut redis = server.connect();
        let element = rig::element("tenant-0", jobs, bytes).len() as f64;
        let per_job = |value: f64| value / jobs as f64;
        let before = Info::read(&mut redis);
        let pushing = rig::push(&mut redis, "in", 0..jobs, 5, bytes);
        let mut waiting = (0.0, 0.0);
        let one = Worked::measure(runtime, &server, &mut redis, (1, jobs), |redis| {
            let used = Info::read(redis).data() - before.data();
            let name = format!("tenant-0/r-{}", jobs / 5 * 5 - 5);
            let document: f64 = redis::cmd("MEMORY")
                .arg("USAGE")
                .arg(key(&format!("doc:{name}")))
                .query(redis)
                .unwrap();
            waiting = (per_job(used) - element, per_job(used) - document);
        });
        let after = Info::read(&mut redis);
        let written = after.number("aof_current_size") - before.number("aof_current_size");
        rig::push(&mut redis, "in", jobs..2 * jobs, 5, bytes);
        let eight = Worked::measure(runtime, &server, &mut redis, (8, jobs), |_| {});
        Self {
            pushes: jobs as f64 / pushing.as_secs_f64(),
            one,
            eight,
            waiting: waiting.0,
            waiting_key: waiting.1,
            file: per_job(written) - element,
        }
    }
}

impl Worked {
    /// `count` workers admit what was pushed, and end it once they may; `waiting` looks
    /// at the queue in between.
    fn measure(
        runtime: &Runtime,
        server: &Redis,
        redis: &mut Connection,
        (count, jobs): (usize, usize),
        waiting: impl FnOnce(&mut Connection),
    ) -> Self {
        rig::pause(redis, true);
        let done = rig::counter(redis, "ended:done");
        let before = Info::read(redis);
        let began = Instant::now();
        let workers = Workers::start(runtime, server, count);
        let admitted = rig::reached(redis, "jobs", jobs) - began;
        let between = Info::read(redis);
        waiting(redis);
        rig::pause(redis, false);
        let share = |share: f64| (jobs as f64 * share) as usize;
        let first = rig::reached(redis, "ended:done", done + share(FROM));
        let (ended_first, early) = (rig::counter(redis, "ended:done"), Info::read(redis));
        let last = rig::reached(redis, "ended:done", done + share(UNTIL));
        let (ended_last, late) = (rig::counter(redis, "ended:done"), Info::read(redis));
        rig::reached(redis, "ended:done", done + jobs);
        workers.stop(runtime);
        let ended = (ended_last - ended_first) as f64;
        let jobs = jobs as f64;
        Self {
            admissions: jobs / admitted.as_secs_f64(),
            ends: ended / (last - first).as_secs_f64(),
            admit_reads: (between.reads() - before.reads()) / jobs,
            admit_calls: between.since(&before, jobs),
            admit_cpu: (between.cpu() - before.cpu()) / jobs * 1e6,
            end_reads: (late.reads() - early.reads()) / ended,
            end_calls: late.since(&early, ended),
            end_cpu: (late.cpu() - early.cpu()) / ended * 1e6,
        }
    }
}

/// From just before the push to the start of the render, each time with nothing else to do.
fn one_by_one(runtime: &Runtime, bytes: usize, workers: usize) -> Vec<Duration> {
    let server = Redis::start(Keeps::EveryWrite);
    let mut redis = server.connect();
    let workers = Workers::start(runtime, &server, workers);
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    for number in 0..ONE_BY_ONE + 50 {
        let tenant = format!("tenant-{}", number % 5);
        let element = rig::element(&tenant, number, bytes);
        let at = Instant::now();
        let _: i64 = redis.lpush(key("in"), element).unwrap();
        let begun = workers.asked.recv_timeout(Duration::from_secs(60)).unwrap();
        let reply = key(&format!("reply:{tenant}/r-{number}"));
        let reply: Option<(String, Vec<u8>)> = redis.blpop(reply, 60.0).unwrap();
        reply.expect("no reply within 60 s");
        // The first ones warm up.
        if number >= 50 {
            times.push(begun - at);
        }
    }
    workers.stop(runtime);
    times
}
