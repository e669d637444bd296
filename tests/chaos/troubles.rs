//! Redis in trouble while jobs run: full, emptied, without its scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use redis::{Commands, Connection, cmd};

use crate::fleet::has_ended;
use crate::history::{History, Reply};
use crate::producer::{framed, header, name, push};
use crate::redis_server::RedisServer;
use crate::storm::verdict;
use crate::support::{PREFIX, Worker, connect, receipt};
use crate::watch::Watch;
use crate::{collect, fencing::push_slow};

const PATIENCE: Duration = Duration::from_secs(40);

/// A receipt of 100 KB.
fn large(number: usize) -> Vec<u8> {
    let padding = format!("<!-- {} -->", "x".repeat(100_000));
    framed(&header(number), &format!("{}{padding}", receipt(&name(number))))
}

/// Pushes receipts of 100 KB until Redis refuses one: the names of those it took,
/// and what it said.
fn push_until_refused(redis: &mut Connection, first: usize) -> (Vec<String>, String) {
    let mut pushed = Vec::new();
    for number in first..first + 2000 {
        match redis.lpush::<_, _, i64>(format!("{PREFIX}in"), large(number)) {
            Ok(_) => pushed.push(name(number)),
            Err(error) => return (pushed, error.to_string()),
        }
    }
    panic!("Redis took 200 MB");
}

/// Pushes a large receipt again while Redis is full: the workers make room.
fn push_patiently(redis: &mut Connection, number: usize) {
    let give_up = Instant::now() + PATIENCE;
    while let Err(error) = redis.lpush::<_, _, i64>(format!("{PREFIX}in"), large(number)) {
        assert!(error.to_string().contains("OOM") && Instant::now() < give_up, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What patient producers were answered.
#[derive(Default)]
struct Answers {
    replies: BTreeMap<String, Vec<Reply>>,
    /// Answers that told them to come again.
    rejected: usize,
}

/// Does what producers do: takes every reply as it comes, which makes room, and
/// pushes again what is rejected, until all these jobs have ended.
fn take_all(redis: &mut Connection, watch: &Watch, pushed: &[String]) -> Answers {
    let mut answers = Answers::default();
    let mut seen = vec![0; pushed.len()];
    let mut waiting: BTreeSet<usize> = (0..pushed.len()).collect();
    while !waiting.is_empty() {
        let is_news = |heard: &History, number: usize| {
            heard.has_ended(&pushed[number]) || heard.rejections(&pushed[number]) > seen[number]
        };
        let news = watch.wait(PATIENCE, |heard| {
            let news = waiting.iter().copied().filter(|number| is_news(heard, *number));
            Some(news.collect::<Vec<_>>()).filter(|news| !news.is_empty())
        });
        let Some(news) = news else { panic!("no answer to jobs {waiting:?}") };
        for number in news {
            let job = &pushed[number];
            let answer: Option<(String, Vec<u8>)> =
                redis.blpop(format!("{PREFIX}reply:{job}"), 5.0).unwrap();
            let answer = answer.unwrap_or_else(|| panic!("no reply to {job}")).1;
            let reply = collect::reply(redis, job, &answer);
            if reply.status == "rejected" {
                seen[number] += 1;
                answers.rejected += 1;
                push_patiently(redis, number);
            } else {
                answers.replies.entry(job.clone()).or_default().push(reply);
                waiting.remove(&number);
            }
        }
    }
    answers
}

#[test]
fn a_full_redis_refuses_pushes_and_the_jobs_that_it_has_all_end() {
    let server = RedisServer::start(&[
        "--appendonly",
        "no",
        "--maxmemory",
        "24mb",
        "--maxmemory-policy",
        "noeviction",
    ]);
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let _workers = [(); 2].map(|()| Worker::start(&server.url(), &["--concurrency", "2"]));
    let (mut pushed, said) = push_until_refused(&mut redis, 0);
    let at_once = pushed.len();
    let mut answers = take_all(&mut redis, &watch, &pushed);
    // And there is room again.
    let more = push(&mut redis, 5000..5010);
    assert_eq!(watch.wait_ended(&more, PATIENCE), Ok(()));
    pushed.extend(more);
    for (job, held) in collect::replies(&mut redis, &pushed) {
        answers.replies.entry(job).or_default().extend(held);
    }
    let verdict = watch.finish().judge(&pushed, &collect::records(&mut redis), &answers.replies);
    println!(
        "maxmemory: push {} was refused ({said}); {at_once} jobs were rejected {} times and pushed again; \
         with 10 more {} are done in {} attempts, {} lost, {} twice",
        at_once + 1,
        answers.rejected,
        verdict.count("done"),
        verdict.attempts,
        verdict.lost(),
        verdict.accepted_twice(),
    );
    verdict.assert_sound();
}

#[test]
fn workers_get_over_an_emptied_redis_by_themselves() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let workers = [(); 2].map(|()| Worker::start(&server.url(), &["--concurrency", "2"]));
    // Commands that scripts call count as well.
    let (usual, _) = idle_for_two_seconds(&mut redis, &workers);
    push_slow(&mut redis, 0..4);
    push(&mut redis, 10..60);
    let some = |heard: &History| (heard.count("done") >= 5).then_some(());
    assert!(watch.wait(PATIENCE, some).is_some());
    cmd("FLUSHDB").exec(&mut redis).unwrap();
    drop(watch);

    // A new stream begins; what ran then may still have its say.
    let watch = Watch::of(&server.url());
    let pushed = push(&mut redis, 100..140);
    assert_eq!(watch.wait_ended(&pushed, PATIENCE), Ok(()), "pushed after FLUSHDB");
    assert!(!workers.iter().any(has_ended), "a worker ended");
    let (calls, lines) = idle_for_two_seconds(&mut redis, &workers);
    println!(
        "FLUSHDB: 40 jobs pushed afterwards are done; idle workers then make {calls} commands and {lines} log \
         lines in 2 s ({usual} commands before)"
    );
    assert!(calls < 2 * usual + 100, "{calls} commands by two idle workers in 2 s, {usual} before");
    assert!(lines < 20, "{lines} log lines by two idle workers in 2 s");
    verdict(watch, &server.url(), &pushed).assert_sound();
    assert_eq!(collect::left_behind(&mut redis), Vec::<String>::new());
}

/// What workers without work do: commands and log lines. A measurement, not a wait.
fn idle_for_two_seconds(redis: &mut Connection, workers: &[Worker]) -> (u64, usize) {
    let mut look = || {
        let info: String = cmd("INFO").arg("stats").query(redis).unwrap();
        let calls = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        let calls: u64 = calls.unwrap().trim().parse().unwrap();
        let lines: usize = workers.iter().map(|worker| worker.log().lines().count()).sum();
        (calls, lines)
    };
    let (calls, lines) = look();
    std::thread::sleep(Duration::from_secs(2));
    let (more_calls, more_lines) = look();
    (more_calls - calls, more_lines - lines)
}

#[test]
fn forgotten_scripts_cost_no_attempt() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let _workers = [(); 2].map(|()| Worker::start(&server.url(), &["--concurrency", "2"]));
    let pushed = push(&mut redis, 0..150);
    let mut flushes = 0;
    while watch.wait_ended(&pushed, Duration::from_millis(20)).is_err() {
        cmd("SCRIPT").arg("FLUSH").exec(&mut redis).unwrap();
        flushes += 1;
        assert!(flushes < 2000, "{:?}", watch.so_far().waiting(&pushed));
    }
    let verdict = verdict(watch, &server.url(), &pushed);
    println!(
        "SCRIPT FLUSH: {flushes} times under {} jobs: {} done in {} attempts, {} lost, {} twice",
        pushed.len(),
        verdict.count("done"),
        verdict.attempts,
        verdict.lost(),
        verdict.accepted_twice(),
    );
    verdict.assert_sound();
    assert_eq!(verdict.attempts, 150);
}
