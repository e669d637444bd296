//! Fencing: a worker that was stopped past its lease goes on with its renders
//! and offers their results. With fencing they are refused. Without it (debug
//! builds only) they are accepted, and the judge must see that.

use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use rustix::process::Signal;

use crate::history::Verdict;
use crate::producer::{framed, header, name, slow};
use crate::redis_server::RedisServer;
use crate::storm::verdict;
use crate::support::{PREFIX, Worker, connect, tillroll};
use crate::watch::Watch;

/// What switches fencing off in a debug build.
const UNFENCED: &str = "TILLROLL_TEST_UNFENCED";
const SETTINGS: [&str; 6] =
    ["--concurrency", "2", "--set", "queue.lease=2s", "--set", "queue.heartbeat=500ms"];
/// One is enough as a rule.
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn results_of_a_stopped_worker_are_refused() {
    let mut refused = 0;
    let verdict = stopped_and_continued(&[], |watch| {
        let stale = |heard: &crate::history::History| heard.count("stale");
        let now =
            watch.wait(Duration::from_secs(5), |heard| (stale(heard) > 0).then(|| stale(heard)));
        refused = now.unwrap_or(0);
        refused > 0
    });
    println!("fencing on: {refused} stale writes refused, {} reaped", verdict.count("reaped"));
    verdict.assert_sound();
    assert!(refused > 0, "no stale write was ever offered: nothing was shown");
}

#[test]
#[cfg(debug_assertions)]
fn without_fencing_the_judge_finds_results_accepted_twice() {
    let verdict = stopped_and_continued(&[(UNFENCED, "1")], |watch| {
        let twice = |heard: &crate::history::History| (heard.accepted_twice() > 0).then_some(());
        watch.wait(Duration::from_secs(5), twice).is_some()
    });
    println!("fencing off: {} of {} accepted twice", verdict.accepted_twice(), verdict.pushed);
    assert!(verdict.accepted_twice() > 0, "the judge saw nothing:\n{verdict}");
}

/// Stops one of two workers past its lease, in mid-render, and lets it go on
/// once another has ended its jobs: again, until `shown`.
fn stopped_and_continued(
    environment: &[(&str, &str)],
    mut shown: impl FnMut(&Watch) -> bool,
) -> Verdict {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let start = || {
        let mut command = tillroll();
        command.envs(environment.iter().copied());
        Worker::start_by(&mut command, &server.url(), &SETTINGS)
    };
    let (stopped, _other) = (start(), start());
    let id = id_of(&stopped);
    let mut pushed = Vec::new();
    for round in 0..ROUNDS {
        pushed.extend(push_slow(&mut redis, round * 4..round * 4 + 4));
        wait_leased_by(&mut redis, &id);
        stopped.signal(Signal::STOP);
        let held = leased_by(&mut redis, &id);
        let ended = watch.wait_ended(&held, PATIENCE);
        stopped.signal(Signal::CONT);
        assert_eq!(ended, Ok(()), "the other worker did not take over");
        if !held.is_empty() && shown(&watch) {
            break;
        }
        assert_eq!(watch.wait_ended(&pushed, PATIENCE), Ok(()));
    }
    assert_eq!(watch.wait_ended(&pushed, PATIENCE), Ok(()));
    verdict(watch, &server.url(), &pushed)
}

/// Pushes jobs that render for a second.
pub fn push_slow(redis: &mut Connection, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers
        .map(|number| {
            let element = framed(&header(number), &slow(&name(number), 1500, 0));
            redis.lpush::<_, _, ()>(format!("{PREFIX}in"), element).unwrap();
            name(number)
        })
        .collect()
}

/// The id under which a worker is known.
pub fn id_of(worker: &Worker) -> String {
    let log = worker.log();
    let id = log.split(" ready worker=").nth(1).and_then(|rest| rest.split(' ').next());
    id.unwrap_or_else(|| panic!("it does not say who it is:\n{log}")).to_owned()
}

/// The jobs that a worker holds.
pub fn leased_by(redis: &mut Connection, id: &str) -> Vec<String> {
    let leased: Vec<String> = redis.zrange(format!("{PREFIX}leased"), 0, -1).unwrap();
    let mut is_its = |name: &String| {
        let worker: Option<String> = redis.hget(format!("{PREFIX}job:{name}"), "worker").unwrap();
        worker.as_deref() == Some(id)
    };
    leased.into_iter().filter(|name| is_its(name)).collect()
}

/// A claim is no event: asks until the worker holds something.
pub fn wait_leased_by(redis: &mut Connection, id: &str) -> Vec<String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let leased = leased_by(redis, id);
        if !leased.is_empty() {
            return leased;
        }
        assert!(Instant::now() < give_up, "{id} claims nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
}
