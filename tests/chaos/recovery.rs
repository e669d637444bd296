//! How long the jobs of a killed worker wait until they run elsewhere.

use std::time::Duration;

use redis::{Commands, Connection};
use rustix::process::Signal;

use crate::at_length;
use crate::fencing::{id_of, leased_by, push_slow, wait_leased_by};
use crate::producer::{name, plain};
use crate::redis_server::RedisServer;
use crate::storm::verdict;
use crate::support::{PREFIX, Worker, connect};
use crate::watch::Watch;

#[test]
fn jobs_of_a_killed_worker_run_elsewhere_after_a_short_lease() {
    recover(3, "1s");
}

/// The defaults take half a minute, so only where there is time.
#[test]
fn jobs_of_a_killed_worker_run_elsewhere_after_the_default_lease() {
    if at_length() {
        recover(30, "5s");
    } else {
        println!("recovery with a lease of 30 s: measured from TILLROLL_CHAOS_SECONDS=300 on");
    }
}

/// Found by the storm: each round of housekeeping looks at so many silent workers.
#[test]
fn an_element_in_a_dead_hand_is_adopted_however_many_died_before() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let at = now_ms(&mut redis);
    for number in 0..500_u64 {
        let _: () = redis
            .zadd(format!("{PREFIX}workers"), format!("dead-{number}"), at - 60_000 + number)
            .unwrap();
    }
    let (_, element) = plain(1);
    redis.lpush::<_, _, ()>(format!("{PREFIX}stage:dead-499"), element).unwrap();
    let _worker = Worker::start(&server.url(), &["--concurrency", "1"]);
    let pushed = [name(1)];
    assert_eq!(watch.wait_ended(&pushed, Duration::from_secs(20)), Ok(()));
    verdict(watch, &server.url(), &pushed).assert_sound();
}

fn recover(lease: u64, heartbeat: &str) {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let (lease_set, heartbeat_set) =
        (format!("queue.lease={lease}s"), format!("queue.heartbeat={heartbeat}"));
    let settings = ["--set", &lease_set, "--set", &heartbeat_set, "--concurrency"];
    let start = |slots: &str| Worker::start(&server.url(), &[&settings[..], &[slots]].concat());
    // The other one has room for all.
    let (killed, _other) = (start("2"), start("6"));
    let pushed = push_slow(&mut redis, 0..4);
    let id = id_of(&killed);
    wait_leased_by(&mut redis, &id);
    killed.signal(Signal::KILL);
    let at = now_ms(&mut redis);
    let held = leased_by(&mut redis, &id);
    drop(killed);
    let longest = Duration::from_secs(lease + 20);
    assert_eq!(watch.wait_ended(&pushed, longest), Ok(()));
    let reaped = watch.so_far().count("reaped");
    for job in &held {
        let claimed: u64 = redis.hget(format!("{PREFIX}job:{job}"), "claimed").unwrap();
        let after = claimed.saturating_sub(at);
        println!("lease {lease} s: {job} ran elsewhere {after} ms after the kill");
        assert!(after < lease * 1000 + 3000, "{after} ms");
    }
    println!("lease {lease} s: {reaped} jobs of the killed worker taken over");
    assert!(reaped > 0, "the killed worker held nothing: nothing was shown");
    verdict(watch, &server.url(), &pushed).assert_sound();
}

/// Redis' clock.
fn now_ms(redis: &mut Connection) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(redis).unwrap();
    seconds * 1000 + micros / 1000
}
