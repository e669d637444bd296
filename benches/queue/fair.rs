//! Fairness, with Chromium: somebody who waits beside a flood, and weights.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};

use crate::report::Report;
use crate::rig::{counter, key, reached};
use crate::server::{Keeps, Redis, Server, await_line};

/// Bulk jobs of one tenant, pushed at once, if no number is given.
const FLOOD: usize = 200_000;
/// Another tenant's interactive jobs: one each so often, whether or not the last is back.
const EVERY: Duration = Duration::from_millis(200);
const ALONE: usize = 150;
const BESIDE: usize = 300;
/// Jobs of each of three tenants, and how many ends are looked at.
const BACKLOG: usize = 900;
const ENDS: usize = 1_200;
const WEIGHTS: [(&str, u32); 3] = [("one", 1), ("another", 1), ("double", 2)];

pub(crate) fn measure(report: &mut Report, flood_jobs: Option<usize>) {
    flood(report, flood_jobs.unwrap_or(FLOOD));
    weights(report);
}

/// One reply: how long it took from push to reply, and what of it the worker says it
/// waited for a turn and rendered.
struct Waited {
    total: Duration,
    queued: Duration,
    rendered: Duration,
}

impl Report {
    fn waited(&mut self, what: &str, waited: &[Waited]) {
        let times = |of: fn(&Waited) -> Duration| waited.iter().map(of).collect::<Vec<_>>();
        let parts = [
            ("push to reply", times(|waited| waited.total)),
            ("its turn", times(|waited| waited.queued)),
            ("its render", times(|waited| waited.rendered)),
        ];
        for (part, times) in parts {
            self.quantiles(&format!("{what}, {part}"), &times, "");
        }
    }
}

/// The release binary, ready.
fn worker(redis: &Redis) -> Server {
    let worker = Command::new(env!("CARGO_BIN_EXE_tillroll"))
        .args(["worker", "--redis", &redis.url, "--set", "http.listen="])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut worker = Server(worker);
    await_line(worker.0.stderr.take().unwrap(), " ready ");
    worker
}

fn flood(report: &mut Report, jobs: usize) {
    report.section("fairness: an interactive job every 200 ms beside a flood of bulk");
    let server = Redis::start(Keeps::EveryWrite);
    let mut redis = server.connect();
    let _worker = worker(&server);
    let waiting = receipt("waiting");
    every(&server, &waiting, "warm", 15);
    let alone = every(&server, &waiting, "alone", ALONE);
    report.waited("alone", &alone);
    let began = Instant::now();
    let pushing = std::thread::spawn({
        let mut redis = server.connect();
        move || {
            let at = Instant::now();
            push_flood(&mut redis, jobs);
            at.elapsed()
        }
    });
    let done = counter(&mut redis, "ended:done");
    let beside = every(&server, &waiting, "beside", BESIDE);
    let spent = began.elapsed();
    let ended = counter(&mut redis, "ended:done") - done - BESIDE;
    let left: usize = redis.llen(key("in:bulk")).unwrap();
    let (early, late) = beside.split_at(BESIDE / 4);
    report.waited("beside the flood", &beside);
    report.waited("of it the first quarter", early);
    report.waited("of it the rest", late);
    let bulk = ended as f64 / spent.as_secs_f64();
    let note = format!(
        "pushed within {:.1} s; {left} not yet admitted at the end",
        pushing.join().unwrap().as_secs_f64()
    );
    report.figure("bulk jobs meanwhile", bulk, "jobs/s", &note);
}

/// Small receipts, so that all of them are within the queue's limits.
fn push_flood(redis: &mut Connection, jobs: usize) {
    for first in (0..jobs).step_by(1000) {
        let mut pushes = redis::pipe();
        for number in first..jobs.min(first + 1000) {
            let element = format!(
                "{{\"id\":\"b-{number}\",\"tenant\":\"flood\",\"options\":{{\"paper\":\"80mm\"}}}}\n\
                 <h3>Statement {number}</h3><table><tr><td>Espresso<td>2.40<tr><td>Total<td>2.40</table>"
            );
            pushes.lpush(key("in:bulk"), element).ignore();
        }
        pushes.exec(redis).unwrap();
    }
}

/// A document of 3 KB for `tenant`, after its id.
fn receipt(tenant: &str) -> impl Fn(&str) -> String + use<> {
    let html = include_str!("../../fixtures/receipts/thermal-80mm.html");
    let tenant = tenant.to_owned();
    move |id| {
        format!(
            "{{\"id\":\"{id}\",\"tenant\":\"{tenant}\",\"options\":{{\"paper\":\"80mm\"}}}}\n{html}"
        )
    }
}

/// Pushes a job each [`EVERY`] and waits for each reply on its own; from the moment at
/// which each should have been pushed to its reply.
fn every(
    server: &Redis,
    document: &impl Fn(&str) -> String,
    run: &str,
    jobs: usize,
) -> Vec<Waited> {
    let times = Arc::new(Mutex::new(Vec::with_capacity(jobs)));
    let began = Instant::now() + EVERY;
    let waiting: Vec<_> = (0..jobs)
        .map(|number| {
            let id = format!("{run}-{number}");
            let element = document(&id);
            let mut redis = server.connect();
            let at = began + EVERY * u32::try_from(number).unwrap();
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let times = Arc::clone(&times);
            std::thread::spawn(move || {
                let _: i64 = redis.lpush(key("in"), element).unwrap();
                let reply = key(&format!("reply:waiting/{id}"));
                let reply: Option<(String, Vec<u8>)> = redis.blpop(reply, 60.0).unwrap();
                let (_, reply) = reply.expect("no reply within 60 s");
                let total = at.elapsed();
                let line = reply.split(|byte| *byte == b'\n').next().unwrap();
                let reply: serde_json::Value = serde_json::from_slice(line).unwrap();
                assert_eq!(reply["status"], "done", "{reply}");
                let part = |name| Duration::from_millis(reply["timings"][name].as_u64().unwrap());
                let (queued, rendered) = (part("queued_ms"), part("rendered_ms"));
                times.lock().unwrap().push((number, Waited { total, queued, rendered }));
            })
        })
        .collect();
    waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    let mut times = Arc::into_inner(times).unwrap().into_inner().unwrap();
    times.sort_by_key(|(number, _)| *number);
    times.into_iter().map(|(_, time)| time).collect()
}

/// Three tenants with a permanent backlog share by weight.
fn weights(report: &mut Report) {
    report.section("fairness: weights of 1, 1 and 2");
    let server = Redis::start(Keeps::EveryWrite);
    let mut redis = server.connect();
    let mut pushes = redis::pipe();
    for (tenant, weight) in WEIGHTS {
        pushes.hset(key(&format!("tenant:{tenant}")), "weight", weight).ignore();
        let document = receipt(tenant);
        for number in 0..BACKLOG {
            pushes.lpush(key("in"), document(&format!("r-{number}"))).ignore();
        }
    }
    pushes.exec(&mut redis).unwrap();
    // All of it is admitted before anything is claimed, so that everybody waits all the time.
    crate::rig::pause(&mut redis, true);
    let _worker = worker(&server);
    reached(&mut redis, "jobs", BACKLOG * WEIGHTS.len());
    crate::rig::pause(&mut redis, false);
    reached(&mut redis, "ended:done", ENDS);
    let ended = ended(&mut redis);
    let all: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    for (tenant, weight) in WEIGHTS {
        let share =
            ended.iter().filter(|ended| *ended == tenant).count() as f64 / ended.len() as f64;
        let due = f64::from(weight) / f64::from(all);
        let note = format!("due {:.1} %, off by {:.1} %", due * 100.0, (share / due - 1.0) * 100.0);
        report.figure(&format!("share of weight {weight}, {tenant}"), share * 100.0, "%", &note);
    }
}

/// Whose jobs ended, in order.
fn ended(redis: &mut Connection) -> Vec<String> {
    let events: redis::streams::StreamRangeReply = redis.xrange_all(key("events")).unwrap();
    let tenants = events.ids.iter().filter_map(|event| {
        let field = |name| event.get::<String>(name);
        let done = field("event").as_deref() == Some("done");
        done.then(|| field("job").unwrap().split('/').next().unwrap().to_owned())
    });
    tenants.take(ENDS).collect()
}
