//! The chaos run: everything dies, stops and is cut while jobs are pushed, and
//! the judge finds nothing lost and nothing accepted twice.

use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::cmd;

use crate::collect;
use crate::fleet::Fleet;
use crate::history::Verdict;
use crate::producer::Producer;
use crate::redis_server::RedisServer;
use crate::support::connect;
use crate::watch::{Watch, patient};
use crate::{length, setting};

const WORKERS: usize = 3;
const JOBS_IN_FIVE_MINUTES: u64 = 2000;
/// Longer than the workers' lease of three seconds.
const PAST_THE_LEASE: Duration = Duration::from_millis(4200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    KillWorker,
    StopWorker,
    ResumeWorkers,
    KillChromium,
    KillRedis,
    FlushScripts,
    CutConnections,
}

/// What happens when, for a storm of this length.
fn plan(length: Duration) -> Vec<(Duration, Blow)> {
    let mut plan = Vec::new();
    for (first_ms, every_ms, blow) in [
        (2000, 2000, Blow::KillWorker),
        (3300, 9000, Blow::StopWorker),
        (1500, 5000, Blow::KillChromium),
        (2700, 8000, Blow::FlushScripts),
        (4100, 7000, Blow::CutConnections),
    ] {
        let (mut at, every) = (Duration::from_millis(first_ms), Duration::from_millis(every_ms));
        while at < length {
            plan.push((at, blow));
            if blow == Blow::StopWorker {
                plan.push((at + PAST_THE_LEASE, Blow::ResumeWorkers));
            }
            at += every;
        }
    }
    plan.extend([0.2, 0.5, 0.8].map(|part| (length.mul_f64(part), Blow::KillRedis)));
    plan.sort();
    plan
}

#[derive(Default)]
struct Blows {
    kills: u32,
    stops: u32,
    chromium: u32,
    redis: u32,
    flushes: u32,
    cuts: u32,
}

struct Storm {
    dice: StdRng,
    server: RedisServer,
    fleet: Fleet,
    blows: Blows,
    /// The place whose worker is stopped: it is left in peace until it goes on.
    stopped: Option<usize>,
}

impl Storm {
    fn strike(&mut self, blow: Blow) {
        // Always the same number of throws, so that a seed means the same whatever was struck.
        let (pick, which): (usize, usize) =
            (self.dice.random_range(0..WORKERS), self.dice.random_range(0..64));
        let awake = if self.stopped == Some(pick) { pick + 1 } else { pick };
        match blow {
            Blow::KillWorker => {
                self.fleet.kill(awake);
                self.blows.kills += 1;
            }
            Blow::StopWorker => {
                self.fleet.stop(pick);
                self.stopped = Some(pick);
                self.blows.stops += 1;
            }
            Blow::ResumeWorkers => {
                self.fleet.resume();
                self.stopped = None;
            }
            Blow::KillChromium => {
                self.blows.chromium += u32::from(self.fleet.kill_chromium(awake, which));
            }
            Blow::KillRedis => {
                self.server.kill();
                // Away for a while: calls fail, and workers that start now find nobody.
                std::thread::sleep(Duration::from_millis(100 + 20 * which as u64));
                self.server.restart();
                self.blows.redis += 1;
            }
            Blow::FlushScripts => {
                self.blows.flushes += u32::from(self.command(&["SCRIPT", "FLUSH"]));
            }
            Blow::CutConnections => {
                self.blows.cuts += u32::from(self.command(&["CLIENT", "KILL", "TYPE", "normal"]));
            }
        }
        self.fleet.mend();
    }

    fn command(&self, parts: &[&str]) -> bool {
        let mut command = cmd(parts[0]);
        command.arg(&parts[1..]);
        patient(&self.server.url()).and_then(|mut c| command.exec(&mut c)).is_ok()
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blows { kills, stops, chromium, redis, flushes, cuts } = self.blows;
        for (what, count) in [
            ("workers killed", kills),
            ("workers stopped", stops),
            ("workers ended", self.fleet.ended),
            ("Chromium killed", chromium),
            ("Redis killed", redis),
            ("scripts flushed", flushes),
            ("connections cut", cuts),
        ] {
            writeln!(f, "  {what:<24} {count:>6}")?;
        }
        Ok(())
    }
}

#[test]
fn a_storm_loses_nothing_and_accepts_nothing_twice() {
    let seed = setting("TILLROLL_CHAOS_SEED").unwrap_or_else(|| rand::random_range(0..100_000));
    let length = length();
    let jobs = (JOBS_IN_FIVE_MINUTES * length.as_secs() / 300) as usize;
    println!("storm: TILLROLL_CHAOS_SEED={seed} TILLROLL_CHAOS_SECONDS={}", length.as_secs());

    let server = RedisServer::durable();
    let url = server.url();
    let fleet = Fleet::start(&url, WORKERS, &["--concurrency", "2"]);
    let watch = Watch::of(&url);
    let dice = StdRng::seed_from_u64(seed);
    let mut storm = Storm { dice, server, fleet, blows: Blows::default(), stopped: None };
    let producer = Producer::start(&url, 0, jobs, length);
    let begun = Instant::now();
    for (at, blow) in plan(length) {
        std::thread::sleep((begun + at).saturating_duration_since(Instant::now()));
        storm.strike(blow);
    }
    storm.fleet.resume();
    storm.fleet.mend();
    let pushed = producer.all();
    let over = Instant::now();
    let waited = watch.wait_ended(&pushed, Duration::from_secs(120));
    let rest = over.elapsed();

    let verdict = verdict(watch, &url, &pushed);
    println!("{} s, {jobs} jobs of 10 tenants, {WORKERS} workers, lease 3 s", length.as_secs());
    println!("{storm}{verdict}  all ended {} ms after the last push", rest.as_millis());
    if let Err(waiting) = &waited {
        println!("waiting: {waiting:?}\n{}", storm.fleet.log());
    }
    verdict.assert_sound();
    assert_eq!(waited, Ok(()));
    assert_eq!(collect::left_behind(&mut connect(&url)), Vec::<String>::new());
}

/// Judges these jobs by what is heard, written down and held.
pub fn verdict(watch: Watch, url: &str, pushed: &[String]) -> Verdict {
    let mut redis = connect(url);
    let history = watch.finish();
    let replies = collect::replies(&mut redis, pushed);
    history.judge(pushed, &collect::records(&mut redis), &replies)
}
