//! Clocks that are wrong, or jump: only Redis' own counts, and a jump of that
//! loses nothing.
//!
//! `libfaketime` shifts a process' clock by what stands in a file. The
//! monotonic clock stays as it is, as when a real clock is set.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use redis::Commands;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::fencing::{id_of, push_slow, wait_leased_by};
use crate::history::History;
use crate::producer::{framed, header, name};
use crate::redis_server::RedisServer;
use crate::storm::verdict;
use crate::support::{PREFIX, Worker, connect, receipt, take, tillroll};
use crate::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(40);
const HOUR_MS: u64 = 3_600_000;

/// A clock that can be set.
struct Clock {
    directory: TempDir,
}

impl Clock {
    /// That of the machine, and so much: `+3600`.
    fn at(offset: &str) -> Self {
        let clock = Self { directory: tempfile::tempdir().unwrap() };
        clock.set(offset);
        clock
    }

    /// Renamed into place, so that nobody reads half of it.
    fn set(&self, offset: &str) {
        let (new, file) = (self.directory.path().join("new"), self.file());
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// What a process needs in its environment.
    fn environment(&self) -> Vec<(String, OsString)> {
        vec![
            ("LD_PRELOAD".to_owned(), preloaded()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), self.file().into_os_string()),
            ("FAKETIME_NO_CACHE".to_owned(), "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".into()),
        ]
    }
}

/// With the C library's own malloc: Debian's Redis has jemalloc's, which asks for
/// the time while it starts, and libfaketime for memory while it answers.
fn preloaded() -> OsString {
    let mut both = library().into_os_string();
    both.push(":libc.so.6");
    both
}

/// Where Debian puts it: a directory for each architecture.
fn library() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    found
        .find(|path| Path::exists(path))
        .unwrap_or_else(|| panic!("libfaketime is missing: install the package libfaketime"))
}

#[test]
fn a_redis_whose_clock_jumps_by_an_hour_loses_nothing() {
    let clock = Clock::at("+0");
    let settings = ["--appendonly", "yes", "--appendfsync", "always"];
    let server = RedisServer::start_in(&settings, clock.environment());
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let workers = [(); 2].map(|()| Worker::start(&server.url(), &["--concurrency", "2"]));
    let mut pushed = Vec::new();
    for (round, offset) in ["+3600", "+0", "-3600", "+0"].into_iter().enumerate() {
        let before = redis_ms(&mut redis);
        let jobs = push_slow(&mut redis, round * 6..round * 6 + 6);
        // Both are in the middle of something, and most of it still waits.
        for worker in &workers {
            wait_leased_by(&mut redis, &id_of(worker));
        }
        clock.set(offset);
        let jumped = redis_ms(&mut redis).abs_diff(before);
        assert!(jumped > HOUR_MS - 60_000, "Redis' clock moved by {jumped} ms");
        let waited = watch.wait_ended(&jobs, PATIENCE);
        assert_eq!(waited, Ok(()), "after a jump to {offset} s");
        pushed.extend(jobs);
    }
    let verdict = verdict(watch, &server.url(), &pushed);
    println!(
        "Redis' clock: four jumps of an hour, {} jobs: {} done in {} attempts, {} reaped, {} lost, {} twice",
        pushed.len(),
        verdict.count("done"),
        verdict.attempts,
        verdict.count("reaped"),
        verdict.lost(),
        verdict.accepted_twice(),
    );
    verdict.assert_sound();
    assert_eq!(verdict.count("done"), pushed.len() as u64);
    assert_eq!(verdict.count("reaped"), 0, "leases of living workers");
}

#[test]
fn jobs_of_a_worker_that_dies_as_the_clock_goes_back_do_not_wait_for_an_hour() {
    let clock = Clock::at("+0");
    let server = RedisServer::start_in(&["--appendonly", "no"], clock.environment());
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let [dies, _lives] = [(); 2].map(|()| Worker::start(&server.url(), &["--concurrency", "2"]));
    let pushed = push_slow(&mut redis, 0..4);
    wait_leased_by(&mut redis, &id_of(&dies));
    dies.signal(Signal::KILL);
    clock.set("-3600");
    let since = Instant::now();
    assert_eq!(watch.wait_ended(&pushed, PATIENCE), Ok(()));
    println!(
        "Redis' clock went back by an hour as a worker died: its jobs ended {} ms later",
        since.elapsed().as_millis()
    );
    verdict(watch, &server.url(), &pushed).assert_sound();
}

#[test]
fn producers_and_workers_an_hour_off_change_nothing() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let (early, late) = (Clock::at("-3600"), Clock::at("+3600"));
    let start = |clock: &Clock| {
        let mut command = tillroll();
        command.envs(clock.environment());
        Worker::start_by(&mut command, &server.url(), &["--concurrency", "1"])
    };
    let _workers =
        [start(&early), start(&late), Worker::start(&server.url(), &["--concurrency", "1"])];

    let mut pushed = push_slow(&mut redis, 0..6);
    for number in 6..18 {
        let mut header = header(number);
        header["deadline_ms"] = 30_000.into();
        if number % 2 == 0 {
            header["delay_ms"] = 500.into();
        }
        let element = framed(&header, &receipt(&name(number)));
        redis.lpush::<_, _, ()>(format!("{PREFIX}in"), element).unwrap();
        pushed.push(name(number));
    }
    for (clock, id) in [(&early, "early"), (&late, "late")] {
        enqueue(&server.url(), clock, id);
        pushed.push(format!("clocks/{id}"));
    }
    assert_eq!(watch.wait_ended(&pushed, PATIENCE), Ok(()));
    let count = |event: &str| History::count(&watch.so_far(), event);
    assert_eq!((count("done"), count("reaped"), count("expired")), (20, 0, 0));
    let mut longest = 0;
    for job in &pushed {
        let (reply, _) = take(&mut redis, job, 1).unwrap();
        assert_eq!(reply["status"], "done", "{reply}");
        longest = longest.max(reply["timings"]["total_ms"].as_u64().unwrap());
    }
    assert!(longest < 60_000, "{longest} ms");
    println!("clocks of workers and producers ± 1 h: 20 jobs done, none reaped, none expired");
}

/// `tillroll enqueue` with its clock off.
fn enqueue(url: &str, clock: &Clock, id: &str) {
    let file = clock.directory.path().join(format!("{id}.html"));
    std::fs::write(&file, receipt(id)).unwrap();
    let mut command: Command = tillroll();
    command.envs(clock.environment()).arg("enqueue").arg(&file);
    command.args(["--redis", url, "--tenant", "clocks", "--id", id, "--delay", "1s"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn redis_ms(redis: &mut redis::Connection) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(redis).unwrap();
    seconds * 1000 + micros / 1000
}
