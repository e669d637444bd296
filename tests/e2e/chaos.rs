//! What dies, and what then must not be lost.

use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use rustix::process::{Pid, Signal, kill_process};

use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, all_gone, connect, element, handle, keys, take};

const TENANTS: usize = 5;

fn push(redis: &mut Connection, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| {
            let (tenant, id) = (format!("tenant-{}", number % TENANTS), format!("r-{number}"));
            let _: i64 = redis
                .lpush(format!("{PREFIX}in"), element(&tenant, &id, &format!("Receipt {number}")))
                .unwrap();
            format!("{tenant}/{id}")
        })
        .collect()
}

/// Every job has its one reply, and nothing is left in the queue.
fn assert_all_done(redis: &mut Connection, names: &[String]) {
    for name in names {
        let (reply, pdf) = take(redis, name, 60).unwrap_or_else(|| panic!("{name} has no reply"));
        assert_eq!(reply["status"], "done", "{reply}");
        assert!(pdf.starts_with(b"%PDF-"), "{name}");
    }
    assert_nothing_left(redis);
}

fn assert_nothing_left(redis: &mut Connection) {
    assert_eq!(keys(redis, "reply:*"), Vec::<String>::new(), "a second reply");
    assert_eq!(keys(redis, "doc:*"), Vec::<String>::new());
    assert_eq!(keys(redis, "out:*"), Vec::<String>::new());
    let jobs: i64 = redis.hget(format!("{PREFIX}state"), "jobs").unwrap();
    let bytes: i64 = redis.hget(format!("{PREFIX}state"), "bytes").unwrap();
    assert_eq!((jobs, bytes), (0, 0));
}

#[test]
fn a_killed_worker_leaves_no_chromium_and_loses_no_job() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let worker = Worker::start(&server.url(), &[]);
    let names = push(&mut redis, 200);
    // In mid-load: some are done, most are not.
    let (first, rest) = names.split_at(20);
    for name in first {
        take(&mut redis, name, 60).unwrap();
    }
    let chromium: Vec<_> =
        worker.chromium().into_iter().filter_map(|(pid, _)| handle(pid)).collect();
    assert!(chromium.len() >= 4, "{} Chromium processes", chromium.len());
    let killed = Instant::now();
    worker.signal(Signal::KILL);
    assert!(all_gone(&chromium, Duration::from_secs(2)), "Chromium outlived its worker");
    println!("no Chromium process left after {} ms", killed.elapsed().as_millis());
    drop(worker);

    let _second = Worker::start(&server.url(), &[]);
    assert_all_done(&mut redis, rest);
    println!("all jobs done {} ms after the kill", killed.elapsed().as_millis());
}

#[test]
fn a_killed_chromium_process_of_any_kind_loses_no_job() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let worker = Worker::start(&server.url(), &[]);
    for kind in ["renderer", "gpu-process", "utility", "zygote", "browser"] {
        let names = push(&mut redis, 60);
        let (first, rest) = names.split_at(10);
        for name in first {
            take(&mut redis, name, 60).unwrap();
        }
        let processes = worker.chromium();
        let Some((pid, _)) = processes.iter().find(|(_, found)| found == kind) else {
            panic!("no {kind} among {processes:?}");
        };
        let killed = Instant::now();
        kill_process(Pid::from_raw((*pid).try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        assert_all_done(&mut redis, rest);
        println!("{kind} killed: 50 jobs done after {} ms", killed.elapsed().as_millis());
    }
}

#[test]
fn a_browser_that_hangs_is_replaced_and_its_job_is_not_blamed() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let worker = Worker::start(&server.url(), &["--set", "renderer.timeout=2s"]);
    let warm = push(&mut redis, TENANTS);
    assert_all_done(&mut redis, &warm);
    let processes = worker.chromium();
    let (pid, _) = processes.iter().find(|(_, kind)| kind == "browser").unwrap();
    let hung = handle(*pid).unwrap();
    kill_process(Pid::from_raw((*pid).try_into().unwrap()).unwrap(), Signal::STOP).unwrap();
    let stopped = Instant::now();
    // Tenants with a warm page, and one for whom a page would have to be opened.
    let mut names = push(&mut redis, TENANTS);
    let _: i64 = redis.lpush(format!("{PREFIX}in"), element("new", "r-1", "New")).unwrap();
    names.push("new/r-1".to_owned());
    for name in &names {
        let (reply, _) = take(&mut redis, name, 60).unwrap();
        assert_eq!((&reply["status"], &reply["attempts"]), (&"done".into(), &1.into()), "{reply}");
    }
    assert!(all_gone(&[hung], Duration::from_secs(1)));
    println!("hung browser: all done {} ms after it stopped", stopped.elapsed().as_millis());
    assert_nothing_left(&mut redis);
}

/// Redis has no event for a client that begins to wait: ask until so many do.
fn wait_until_blocked(redis: &mut Connection, clients: usize) {
    let blocked = format!("blocked_clients:{clients}");
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        let info: String = redis::cmd("INFO").arg("clients").query(redis).unwrap();
        if info.contains(&blocked) {
            return;
        }
        assert!(Instant::now() < give_up, "{info}");
    }
}

#[test]
fn an_element_in_the_hands_of_a_stopped_worker_is_admitted_by_another() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let stopped = Worker::start(&server.url(), &[]);
    // Both inboxes and the bell: from now on its reads wait on the server.
    wait_until_blocked(&mut redis, 3);
    stopped.signal(Signal::STOP);
    // They still wait, and one of them is handed the element.
    let names = push(&mut redis, 1);
    let stages = keys(&mut redis, "stage:*");
    assert_eq!(stages.len(), 1, "{stages:?}");

    let other = Worker::start(&server.url(), &[]);
    assert_all_done(&mut redis, &names);
    stopped.signal(Signal::CONT);
    // Once it has taken part again it has seen that its element is gone.
    let names = push(&mut redis, 20);
    assert_all_done(&mut redis, &names);
    drop((stopped, other));
}

#[test]
fn a_worker_stopped_beyond_its_lease_writes_nothing_afterwards() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let stopped = Worker::start(&server.url(), &["--concurrency", "1"]);
    let names = push(&mut redis, 30);
    take(&mut redis, &names[0], 60).unwrap();
    stopped.signal(Signal::STOP);
    let _other = Worker::start(&server.url(), &[]);
    assert_all_done(&mut redis, &names[1..]);
    stopped.signal(Signal::CONT);
    // It ends cleanly, having had its say: had it written a second reply, it would stand there.
    stopped.signal(Signal::TERM);
    stopped.wait(Duration::from_secs(30));
    assert_nothing_left(&mut redis);
}

#[test]
fn a_drained_worker_finishes_what_runs_and_leaves_the_rest() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let worker = Worker::start(&server.url(), &[]);
    let names = push(&mut redis, 100);
    take(&mut redis, &names[0], 60).unwrap();
    worker.signal(Signal::TERM);
    let status = worker.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    assert_eq!(redis.zcard::<_, i64>(format!("{PREFIX}leased")).unwrap(), 0);
    let _second = Worker::start(&server.url(), &[]);
    assert_all_done(&mut redis, &names[1..]);
}

#[test]
fn a_redis_that_restarts_is_found_again() {
    let mut server = RedisServer::durable();
    let mut redis = connect(&server.url());
    let _worker = Worker::start(&server.url(), &[]);
    let names = push(&mut redis, 100);
    let (first, rest) = names.split_at(10);
    for name in first {
        take(&mut redis, name, 60).unwrap();
    }
    server.restart();
    let mut redis = connect(&server.url());
    assert_all_done(&mut redis, rest);
}
