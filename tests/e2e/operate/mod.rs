//! What operators do: stop jobs, look after dead letters, pause and drain the
//! queue, set tenants and limits, scale workers. Text, JSON, exit codes, errors.

mod jobs;
mod memory;
mod restart;
mod rules;
mod settings;

use std::process::{Child, Output, Stdio};

use redis::{Commands, Connection};
use serde_json::Value;

use crate::command_line::{assert_fails, run, stderr};
use crate::json::{assert_schema, json};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, element, take, tillroll};

/// A queue of the test's own, and the verbs on it.
struct Operator {
    url: String,
    redis: Connection,
    _server: RedisServer,
}

impl Operator {
    fn new() -> Self {
        let server = RedisServer::volatile();
        let url = server.url();
        Self { redis: connect(&url), url, _server: server }
    }

    fn run(&self, args: &[&str]) -> Output {
        run(tillroll().args(args).args(["--redis", &self.url]))
    }

    fn json(&self, args: &[&str]) -> Value {
        json(tillroll().args(args).args(["--redis", &self.url]))
    }

    /// Succeeds, and says so.
    fn text(&self, args: &[&str], parts: &[&str]) {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        for part in parts {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
    }

    fn fails(&self, args: &[&str], code: i32, parts: &[&str]) {
        assert_fails(&self.run(args), code, parts);
    }

    /// clap's own errors have a form of their own.
    fn misused(&self, args: &[&str], part: &str) {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }

    fn push(&mut self, element: impl AsRef<[u8]>) {
        let _: i64 = self.redis.lpush(format!("{PREFIX}in"), element.as_ref()).unwrap();
    }

    /// Waits until there is such an event of this job (any, if empty).
    fn heard(&mut self, event: &str, job: &str) {
        let events = tillroll()
            .args(["events", "--json", "--since", "all", "--redis", &self.url])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut events = Killed(events);
        let lines = std::io::BufReader::new(events.0.stdout.take().unwrap());
        for line in std::io::BufRead::lines(lines) {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["event"] == event && (job.is_empty() || line["job"] == job) {
                return;
            }
        }
        panic!("the events ended before {event} of {job}");
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_paused_queue_starts_nothing_and_a_draining_one_takes_nothing() {
    let mut operator = Operator::new();
    let _worker = Worker::start(&operator.url, &["--renderer", "null"]);
    let paused = operator.json(&["queue", "pause"]);
    assert_eq!((&paused["state"], &paused["left"]), (&"paused".into(), &0.into()));
    operator.push(element("acme", "one", "One"));
    operator.heard("admitted", "acme/one");
    let status = operator.json(&["status"]);
    assert_eq!((&status["state"], &status["jobs"]["ready"]), (&"paused".into(), &1.into()));
    assert!(status["claims_paused"].as_str().unwrap().contains("queue resume"), "{status}");
    operator.text(&["status"], &["PAUSED", "no job is started", "1 ready"]);
    operator.text(&["queue", "pause"], &["is paused: ", "1 job waits or", "tillroll queue resume"]);

    operator.text(&["queue", "resume"], &["is open (was paused): "]);
    take(&mut operator.redis, "acme/one", 30).unwrap();
    operator.text(&["status"], &["state: open", "1 done"]);

    // What is delayed for an hour is not over yet; new ones are refused meanwhile.
    operator.push(r#"{"id":"later","tenant":"acme","delay_ms":3600000,"html":"<p>x"}"#);
    operator.heard("admitted", "acme/later");
    let wait = ["queue", "drain", "--wait", "--timeout", "400ms"];
    operator.fails(&wait, 69, &["1 job has not ended: 1 delayed", "still refuses"]);
    operator.push(element("acme", "two", "Two"));
    let (reply, _) = take(&mut operator.redis, "acme/two", 30).unwrap();
    assert_eq!(
        (&reply["status"], &reply["error"]["code"]),
        (&"rejected".into(), &"draining".into())
    );
    operator.text(&["status"], &["DRAINING"]);

    // It waits until the last one has ended.
    let waiting = tillroll()
        .args(["queue", "drain", "--wait", "--json", "--redis", &operator.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    operator.text(&["job", "cancel", "acme/later"], &["was waiting, and has ended"]);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success());
    let drained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&drained["state"], &drained["left"]), (&"draining".into(), &0.into()));
    assert_schema("queue", &[paused, drained]);
    operator.misused(&["queue", "drain", "--timeout", "5s"], "--wait");
    operator.fails(&["queue", "drain", "--wait", "--timeout", "5"], 2, &["--timeout", "10s"]);
}

#[test]
fn a_drain_that_somebody_ends_is_told() {
    let mut operator = Operator::new();
    let fields = [("jobs", "1")];
    let _: () = operator.redis.hset_multiple(format!("{PREFIX}state"), &fields).unwrap();
    let waiting = tillroll()
        .args(["queue", "drain", "--wait", "--redis", &operator.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    operator.heard("configured", "");
    operator.text(&["queue", "resume"], &["is open"]);
    let output = waiting.wait_with_output().unwrap();
    assert_fails(&output, 1, &["open meanwhile", "drain it again"]);
    assert!(stderr(&output).contains("no worker"), "{}", stderr(&output));
}

#[test]
fn tenants_are_listed_shown_and_set() {
    let mut operator = Operator::new();
    operator.text(&["tenant", "ls"], &["no tenant"]);
    operator.fails(&["tenant", "show", "acme"], 65, &["no such tenant", "tenant ls"]);
    let set = ["tenant", "set", "acme", "--weight", "2.5", "--running", "1", "--bytes", "5MB"];
    let set = operator.json(&[&set[..], &["--jobs", "7", "--state", "paused"]].concat());
    assert_eq!((&set["weight"], &set["state"]), (&2.5.into(), &"paused".into()));
    assert_eq!((&set["running_cap"], &set["jobs_cap"]), (&1.into(), &7.into()));
    assert_eq!(set["bytes_cap"], 5_000_000);

    // It holds: its jobs are taken and none is started.
    let _worker = Worker::start(&operator.url, &["--renderer", "null"]);
    operator.push(element("acme", "one", "One"));
    operator.heard("admitted", "acme/one");
    operator.push(element("cafe", "one", "One"));
    take(&mut operator.redis, "cafe/one", 30).unwrap();
    let shown = operator.json(&["tenant", "show", "acme"]);
    assert_eq!((&shown["jobs"], &shown["running"]), (&1.into(), &0.into()));
    operator.text(&["tenant", "show", "acme"], &["paused", "1 of 7", "2.5", "0 of 1", "5 MB"]);
    operator.text(&["tenant", "ls"], &["acme", "cafe", "paused", "1/7"]);
    let listed = operator.json(&["tenant", "ls"]);
    assert_eq!(listed["tenants"].as_array().unwrap().len(), 2, "{listed}");
    // What is not named stays; `default` takes a cap away.
    let reset = ["tenant", "set", "acme", "--state", "open", "--jobs", "default", "--bytes", "0"];
    operator.text(&reset, &["open", "of the queue's limit", "2.5", "of 1"]);
    take(&mut operator.redis, "acme/one", 30).unwrap();
    let reset = operator.json(&["tenant", "show", "acme"]);
    assert!(reset["jobs_cap"].is_null() && reset["bytes_cap"].is_null(), "{reset}");
    assert_schema("tenant show", &[set, shown, reset]);
    assert_schema("tenant ls", &[listed]);

    operator.fails(&["tenant", "set", "a/b", "--weight", "1"], 2, &["a/b", "A-Z"]);
    operator.fails(&["tenant", "show", ""], 2, &["no name of a tenant"]);
    operator.misused(&["tenant", "set", "acme"], "--weight");
    for (flag, wrong, expected) in [
        ("--weight", "0", "0.01 to 100"),
        ("--weight", "-1", "0.01 to 100"),
        ("--running", "-1", "a number, or default"),
        ("--bytes", "-5MB", "a size like"),
        ("--running", "many", "a number, or default"),
        ("--bytes", "5", "no unit"),
        ("--state", "shut", "open, paused or draining"),
        ("--isolation", "machine", "tenant, job, browser or default"),
        ("--scripts", "yes", "on, off or default"),
    ] {
        operator.misused(&["tenant", "set", "acme", flag, wrong], expected);
    }
}

#[test]
fn every_verb_of_operators_needs_a_redis_and_says_how_to_name_it() {
    for verb in [
        &["dead", "ls"][..],
        &["dead", "show", "a"],
        &["dead", "retry", "a"],
        &["dead", "purge", "--all"],
        &["job", "cancel", "a"],
        &["job", "retry", "a"],
        &["queue", "pause"],
        &["tenant", "ls"],
        &["scale", "2"],
        &["config", "get", "limits.jobs"],
        &["config", "set", "limits.jobs", "5"],
        &["config", "set", "log.level", "debug"],
    ] {
        assert_fails(&run(tillroll().args(verb)), 78, &["--redis", "REDIS_URL"]);
        let away = run(tillroll().args(verb).args(["--redis", "redis://127.0.0.1:1"]));
        assert_fails(&away, 69, &["redis is not available", "redis-cli"]);
    }
}

#[test]
fn completions_and_manual_pages_know_the_verbs() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man");
    assert!(run(tillroll().arg("man").arg(&man)).status.success());
    for verb in ["dead-retry", "queue-drain", "tenant-set", "scale", "config-set", "job-cancel"] {
        let page = std::fs::read_to_string(man.join(format!("tillroll-{verb}.1"))).unwrap();
        assert!(page.contains(".SH DESCRIPTION"), "{verb}: {page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(tillroll().args(["completions", shell])).stdout;
        let script = String::from_utf8(script).unwrap();
        for word in ["dead", "purge", "tenant", "drain", "scale"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
