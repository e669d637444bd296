//! Commands that wait while Redis is restarted; and what a reply advises.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::Value;

use super::{Killed, Operator};
use crate::command_line::{assert_fails, file, run, stderr};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, element, receipt, tillroll};

/// Waits until a client is blocked: it has pushed, and waits for the reply.
fn until_it_waits(url: &str) {
    let (mut redis, give_up) = (connect(url), Instant::now() + Duration::from_secs(30));
    loop {
        let clients: String = redis::cmd("INFO").arg("clients").query(&mut redis).unwrap();
        if clients.contains("blocked_clients:1") {
            return;
        }
        assert!(Instant::now() < give_up, "nobody waits: {clients}");
    }
}

#[test]
fn a_wait_for_a_reply_outlives_a_restart_of_redis() {
    let mut server = RedisServer::durable();
    let url = server.url();
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", receipt("Patient"));
    let waiting = tillroll()
        .args(["enqueue", &html, "--id", "a", "--wait", "--timeout", "60s", "--json"])
        .args(["--redis", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_waits(&url);
    server.restart();
    let _worker = Worker::start(&url, &["--renderer", "null"]);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let replies: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(replies["replies"][0]["status"], "done", "{replies}");
}

#[test]
fn a_redis_that_stays_away_leaves_the_names_of_what_was_pushed() {
    let mut server = RedisServer::volatile();
    let url = server.url();
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", receipt("Lost"));
    let waiting = tillroll()
        .args(["enqueue", &html, "--id", "a", "--wait", "--timeout", "5s", "--json"])
        .args(["--redis", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_waits(&url);
    server.kill();
    let output = waiting.wait_with_output().unwrap();
    assert_fails(&output, 69, &["default/a: pushed, no reply so far", "check that Redis runs"]);
    let replies: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(replies["silent"][0], "default/a", "{replies}");
}

#[test]
fn events_go_on_when_redis_is_back_but_need_one_to_begin() {
    let mut server = RedisServer::durable();
    let url = server.url();
    let events = ["events", "--since", "all", "--json", "--redis"];
    let away = run(tillroll().args(events).arg("redis://127.0.0.1:1"));
    assert_fails(&away, 69, &["redis is not available"]);

    let mut worker = Some(Worker::start(&url, &["--renderer", "null"]));
    let child = tillroll().args(events).arg(&url).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = Killed(child);
    let mut lines = BufReader::new(events.0.stdout.take().unwrap()).lines();
    let mut heard = |job: &str| {
        let give_up = Instant::now() + Duration::from_secs(60);
        for line in lines.by_ref() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["event"] == "done" && line["job"] == job {
                return;
            }
            assert!(Instant::now() < give_up, "{job} was not heard of");
        }
        panic!("the events ended before {job}");
    };
    let push = |id: &str| {
        let _: i64 = connect(&url).lpush(format!("{PREFIX}in"), element("acme", id, "x")).unwrap();
    };
    push("before");
    heard("acme/before");
    drop(worker.take());
    server.restart();
    let _worker = Worker::start(&url, &["--renderer", "null"]);
    push("after");
    heard("acme/after");
}

#[test]
fn a_refused_job_is_told_with_the_remedy_of_its_reply() {
    let operator = Operator::new();
    let _worker = Worker::start(&operator.url, &["--renderer", "null"]);
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", receipt("Refused"));
    operator.text(&["queue", "drain"], &["is draining (was open): "]);
    let refused = operator.run(&["enqueue", &html, "--wait", "--timeout", "30s"]);
    assert_fails(&refused, 65, &["is rejected", "draining", "try again in "]);
    let told = stderr(&refused);
    let (_, fix) = told.split_once("fix: ").unwrap();
    assert!(fix.contains("try again in ") && !fix.contains("mend"), "{told}");
}
