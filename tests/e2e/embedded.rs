//! `--redis embedded`: a worker that brings its own Redis.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Duration;

use redis::Commands;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{PREFIX, Worker, connect, element, receipt, tillroll};

/// A state directory; a Redis that a failed test leaves in it is killed.
struct State {
    dir: tempfile::TempDir,
    set: String,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let set = format!("state.dir={}", dir.path().display());
        Self { dir, set }
    }

    fn worker(&self) -> Worker {
        Worker::start("embedded", &["--set", &self.set])
    }

    fn run(&self, args: &[&str]) -> Output {
        tillroll().args(args).args(["--redis", "embedded", "--set", &self.set]).output().unwrap()
    }

    fn file(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("redis").join(name));
        text.unwrap().trim().to_owned()
    }

    fn server(&self) -> i32 {
        let record: Value = serde_json::from_str(&self.file("server.json")).unwrap();
        record["process"][0].as_i64().unwrap().try_into().unwrap()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.run(&["status"]).status.success() {
            let pid = rustix::process::Pid::from_raw(self.server()).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

#[test]
fn jobs_outlive_the_worker_that_started_the_redis() {
    let state = State::new();
    let worker = state.worker();
    let document = state.dir.path().join("a.html");
    std::fs::write(&document, receipt("a")).unwrap();
    let output = state.run(&["enqueue", "--wait", document.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    worker.signal(Signal::KILL);
    worker.wait(Duration::from_secs(10));
    let mut redis = connect(&state.file("url"));
    let () = redis.lpush(format!("{PREFIX}in"), element("acme", "r-1", "b")).unwrap();
    let worker = state.worker();
    assert!(worker.log().contains("came=\"adopted\""), "{}", worker.log());
    let reply: Option<(String, Vec<u8>)> =
        redis.blpop(format!("{PREFIX}reply:acme/r-1"), 30.0).unwrap();
    assert!(reply.unwrap().1.windows(5).any(|window| window == b"%PDF-"));

    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(30)).success());
    let output = state.run(&["status"]);
    assert_eq!(output.status.code(), Some(69), "the last worker has stopped it");
}

#[test]
fn a_worker_that_cannot_start_takes_its_redis_with_it() {
    let state = State::new();
    let output = state.run(&["worker", "--set", "renderer.path=/nowhere/chromium"]);
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("embedded Redis started: REDIS_URL=redis://:"), "{said}");
    let logged = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!logged.contains(&state.file("password")), "the password was logged");
    assert_eq!(state.run(&["status"]).status.code(), Some(69));
}
