//! What operators do: stop jobs, look after dead letters, pause and drain the
//! queue, set tenants and limits, scale workers. Text, JSON, exit codes, errors.

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use serde_json::Value;

use crate::command_line::{assert_fails, file, run, stderr};
use crate::json::{assert_schema, json};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, element, receipt, take, tillroll};

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

/// A job that no attempt can print: it has one page.
fn hopeless(tenant: &str, id: &str) -> String {
    let header = format!(
        r#"{{"id":"{id}","tenant":"{tenant}","max_attempts":1,"options":{{"pages":"7"}}}}"#
    );
    format!("{header}\n{}", receipt("Hopeless"))
}

/// A job that renders for seconds.
fn heavy(id: &str) -> String {
    let rows: String =
        (0..40_000).map(|row| format!("<tr><td>{row}</td><td>{row}.00</td></tr>")).collect();
    let header = format!(r#"{{"id":"{id}","tenant":"slow","options":{{"timeout_ms":30000}}}}"#);
    format!("{header}\n<table>{rows}</table>")
}

#[test]
fn dead_letters_are_listed_shown_fetched_retried_and_purged() {
    let mut operator = Operator::new();
    let empty = operator.json(&["dead", "ls"]);
    operator.text(&["dead", "ls"], &["no dead letter"]);
    let worker = Worker::start(&operator.url, &["--concurrency", "1"]);
    for (tenant, id) in [("acme", "a"), ("acme", "b"), ("cafe", "c"), ("cafe", "d")] {
        operator.push(hopeless(tenant, id));
        let (reply, _) = take(&mut operator.redis, &format!("{tenant}/{id}"), 30).unwrap();
        assert_eq!(reply["status"], "dead", "{reply}");
    }
    operator.push(element("acme", "fine", "Fine"));
    take(&mut operator.redis, "acme/fine", 30).unwrap();

    let all = operator.json(&["dead", "ls"]);
    assert_eq!(all["dead"].as_array().unwrap().len(), 4, "{all}");
    assert_schema("dead ls", &[empty, all]);
    let some = operator.json(&["dead", "ls", "--tenant", "cafe", "--code", "page_range"]);
    assert_eq!(some["dead"].as_array().unwrap().len(), 2, "{some}");
    let one = operator.json(&["dead", "ls", "--limit", "1"]);
    assert_eq!((one["dead"].as_array().unwrap().len(), &one["more"]), (1, &true.into()));
    let none = operator.json(&["dead", "ls", "--code", "other"]);
    assert!(none["dead"].as_array().unwrap().is_empty(), "{none}");
    operator.text(&["dead", "ls", "--limit", "1"], &["page_range", "more than these 1"]);

    // Why, attempt by attempt; and the document.
    let dir = tempfile::tempdir().unwrap();
    let back = dir.path().join("a.html");
    let back = back.to_str().unwrap();
    let shown = operator.json(&["dead", "show", "acme/a", "--document", back]);
    assert_eq!(shown["history"][0]["code"], "page_range", "{shown}");
    assert_eq!(shown["code"], "page_range");
    assert_eq!((&shown["fetched"]["assets"], &shown["fetched"]["file"]), (&0.into(), &back.into()));
    assert_schema("job show", &[operator.json(&["job", "show", "acme/a"])]);
    assert_schema("dead show", &[serde_json::json!({"fetched": shown["fetched"]})]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), receipt("Hopeless"));
    let piped = operator.run(&["dead", "show", "acme/a", "--document", "-"]);
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), receipt("Hopeless"));
    let why = ["dead", "attempt 1", "page_range", "ask for pages that are there", "last code"];
    operator.text(&["dead", "show", "acme/a"], &why);
    operator.text(&["job", "show", "acme/a"], &why);
    operator.fails(&["dead", "show", "acme/fine"], 65, &["it is none", "`done`"]);
    operator.fails(&["dead", "show", "acme/never"], 65, &["`unknown`"]);

    // Nobody may retry or purge everything by leaving the names out.
    for verb in ["retry", "purge"] {
        operator.misused(&["dead", verb], "--all");
        operator.misused(&["dead", verb, "acme/a", "--all"], "cannot be used with");
        operator.misused(&["dead", verb, "acme/a", "--tenant", "acme"], "cannot be used with");
        operator.misused(&["dead", verb, "--tenant", "acme"], "--all");
    }
    operator.misused(&["job", "retry"], "NAME");
    operator.fails(&["dead", "retry", "a/b/c"], 2, &["a/b/c", "TENANT/ID"]);

    // Retried ones are rendered again, and die again.
    let retried = operator.json(&["job", "retry", "acme/a"]);
    assert_eq!(retried["revived"], 1, "{retried}");
    take(&mut operator.redis, "acme/a", 30).unwrap();
    let history = operator.json(&["job", "show", "acme/a"])["history"].clone();
    assert_eq!(history.as_array().unwrap().len(), 2, "its past is kept: {history}");
    let output = operator.run(&["dead", "retry", "acme/fine", "acme/never", "--json"]);
    let mixed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&mixed["not_dead"][0], &mixed["unknown"][0]),
        (&"acme/fine".into(), &"acme/never".into())
    );
    assert_fails(&output, 65, &["acme/fine: it is no dead letter", "acme/never", "dead ls"]);
    let _: i64 = operator.redis.del(format!("{PREFIX}doc:acme/b")).unwrap();
    let output = operator.run(&["dead", "retry", "acme/b", "--json"]);
    assert_fails(&output, 65, &["acme/b: its document is no longer in Redis"]);
    let lost: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_schema("dead retry", &[retried, mixed, lost]);
    operator.fails(&["dead", "show", "acme/b", "--document", back], 65, &["no longer has it"]);
    operator.text(&["dead", "retry", "--all", "--tenant", "cafe"], &["2 of 2 dead letters"]);
    for job in ["cafe/c", "cafe/d"] {
        take(&mut operator.redis, job, 30).unwrap();
    }

    let output = operator.run(&["dead", "purge", "acme/a", "acme/fine", "--json"]);
    assert_fails(&output, 65, &["acme/fine: it is no dead letter"]);
    let purged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(purged["purged"], 1, "{purged}");
    assert_schema("dead purge", &[purged]);
    operator.text(&["dead", "purge", "--all", "--code", "page_range"], &["3 of 3 dead letters"]);
    operator.text(&["dead", "ls"], &["no dead letter"]);
    drop(worker);
}

#[test]
fn the_document_comes_back_without_its_assets_and_says_so() {
    let mut operator = Operator::new();
    let _worker = Worker::start(&operator.url, &["--concurrency", "1"]);
    let header = r#"{"id":"a","max_attempts":1,"options":{"pages":"7"},"assets":[{"name":"a.css","length":4}]}"#;
    operator.push(format!("{header}\n<p>Shortp{{}}\n"));
    let (reply, _) = take(&mut operator.redis, "default/a", 30).unwrap();
    assert_eq!(reply["status"], "dead", "{reply}");
    let dir = tempfile::tempdir().unwrap();
    let back = file(dir.path(), "a.html", "old");
    operator.text(&["dead", "show", "a", "--document", &back], &["without the asset that came"]);
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "<p>Short");
    let piped = operator.run(&["dead", "show", "a", "--document", "-"]);
    assert_eq!(piped.stdout, b"<p>Short");
    assert!(stderr(&piped).contains("assets"), "{}", stderr(&piped));
    operator.fails(&["dead", "show", "a", "--document", "/nonexistent/a"], 1, &["/nonexistent/a"]);
}

#[test]
fn jobs_are_cancelled_where_they_wait_and_where_they_run() {
    let mut operator = Operator::new();
    let _worker = Worker::start(&operator.url, &["--concurrency", "1"]);
    operator.push(heavy("runs"));
    operator.heard("admitted", "slow/runs");
    while operator.json(&["job", "show", "slow/runs"])["state"] == "ready" {}
    operator.push(element("acme", "waits", "Waits"));
    operator.heard("admitted", "acme/waits");

    let jobs = ["acme/waits", "slow/runs", "acme/waits"];
    let cancelled = operator.json(&[&["job", "cancel", "--wait"][..], &jobs].concat());
    let outcomes: Vec<_> = cancelled["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["outcome"].as_str().unwrap(), job["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [("cancelled", "cancelled"), ("stopping", "cancelled"), ("ended", "cancelled")]
    );
    for job in ["acme/waits", "slow/runs"] {
        let (reply, _) = take(&mut operator.redis, job, 30).unwrap();
        assert_eq!(
            (&reply["status"], &reply["error"]["code"]),
            (&"cancelled".into(), &"cancelled".into())
        );
    }
    operator.text(&["job", "show", "acme/waits"], &["cancelled (its reply was taken"]);

    operator.text(&["job", "cancel", "slow/runs"], &["had ended before: cancelled"]);
    let output = operator.run(&["job", "cancel", "slow/runs", "acme/never", "--json"]);
    assert_fails(&output, 65, &["acme/never", "no such job", "inbox"]);
    let unknown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_schema("job cancel", &[cancelled, unknown]);
    operator.misused(&["job", "cancel"], "NAME");
    operator.fails(&["job", "cancel", "a/b/c"], 2, &["a/b/c", "TENANT/ID"]);
    operator.fails(&["job", "cancel", "a", "--wait", "--timeout", "5"], 2, &["--timeout", "10s"]);
}

#[test]
fn cancelling_says_which_worker_was_told_and_gives_up_waiting_in_time() {
    let mut operator = Operator::new();
    // Nobody lives who could stop it.
    let fields = [("state", "leased"), ("worker", "gone"), ("token", "t"), ("digest", "")];
    let _: () = operator.redis.hset_multiple(format!("{PREFIX}job:a/b"), &fields).unwrap();
    operator.text(&["job", "cancel", "a/b"], &["a/b: runs on gone and is being stopped"]);
    let begun = Instant::now();
    let output = operator.run(&["job", "cancel", "a/b", "--wait", "--timeout", "300ms"]);
    assert_fails(&output, 69, &["still running: a/b", "tillroll status"]);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(operator.redis.llen::<_, i64>(format!("{PREFIX}ctl:gone")).unwrap(), 2);
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
    operator.text(&["queue", "pause"], &["is paused", "1 job wait", "tillroll queue resume"]);

    operator.text(&["queue", "resume"], &["is open"]);
    take(&mut operator.redis, "acme/one", 30).unwrap();
    operator.text(&["status"], &["state: open", "1 done"]);

    // What is delayed for an hour is not over yet; new ones are refused meanwhile.
    operator.push(r#"{"id":"later","tenant":"acme","delay_ms":3600000,"html":"<p>x"}"#);
    operator.heard("admitted", "acme/later");
    let wait = ["queue", "drain", "--wait", "--timeout", "400ms"];
    operator.fails(&wait, 69, &["1 jobs have not ended", "still refuses"]);
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
    operator.text(&reset, &["open", "1 of the queue's limit", "2.5", "of 1"]);
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
        ("--running", "many", "a number, or default"),
        ("--bytes", "5", "no unit"),
        ("--state", "shut", "open, paused or draining"),
    ] {
        operator.misused(&["tenant", "set", "acme", flag, wrong], expected);
    }
}

#[test]
fn a_tenant_whose_attempts_all_fail_is_named_by_status() {
    let mut operator = Operator::new();
    let _: i64 = operator.redis.sadd(format!("{PREFIX}broken"), "acme").unwrap();
    let status = operator.json(&["status"]);
    assert_eq!(status["broken_tenants"][0], "acme", "{status}");
    assert_schema(
        "status",
        &[status, {
            let _worker = Worker::start(&operator.url, &["--renderer", "null"]);
            operator.json(&["queue", "pause"]);
            operator.json(&["status"])
        }],
    );
    operator.text(&["status"], &["one job at a time", "acme"]);
}

#[test]
fn limits_are_changed_for_the_queue_and_hold_at_once() {
    let mut operator = Operator::new();
    let _worker = Worker::start(&operator.url, &["--renderer", "null"]);
    let own = operator.json(&["config", "get", "limits.tenant_jobs"]);
    assert_eq!((&own["value"], &own["source"]), (&"0".into(), &"default".into()));
    let auto = operator.json(&["config", "get", "limits.bytes"]);
    assert_eq!((&auto["value"], &auto["source"]), (&"1GiB".into(), &"default, auto".into()));

    operator.json(&["tenant", "set", "acme", "--state", "paused"]);
    let set = operator.json(&["config", "set", "limits.tenant_jobs", "1"]);
    let got = operator.json(&["config", "get", "limits.tenant_jobs"]);
    assert_eq!((&got["value"], &got["source"]), (&"1".into(), &"redis".into()));
    operator.push(element("acme", "one", "One"));
    operator.heard("admitted", "acme/one");
    operator.push(element("acme", "two", "Two"));
    let (reply, _) = take(&mut operator.redis, "acme/two", 30).unwrap();
    assert_eq!(reply["status"], "rejected", "{reply}");

    operator.text(&["config", "set", "limits.held", "8MiB"], &["\"8MiB\"", "whole queue"]);
    assert_eq!(operator.json(&["status"])["limits"]["held"], 8 << 20);
    operator.text(&["status"], &["of 8.4 MB results"]);
    operator.text(&["config", "get", "limits.held"], &["limits.held = \"8MiB\"  # redis"]);
    for (key, default) in [("limits.held", "auto"), ("limits.tenant_jobs", "default")] {
        operator.text(&["config", "set", key, default], &["own configuration holds again"]);
    }
    assert_eq!(operator.json(&["config", "get", "limits.held"])["value"], "256MiB");
    assert_schema("config get", &[own, auto, got]);
    let scaled = operator.json(&["config", "set", "worker.concurrency", "1"]);
    assert_schema("config set", &[set, scaled]);

    let fails = |args: &[&str], parts: &[&str]| operator.fails(args, 2, parts);
    fails(&["config", "set", "limits.jobs", "5MB"], &["limits.jobs", "5MB", "a number"]);
    fails(&["config", "set", "limits.held", "7"], &["no unit", "512MB"]);
    fails(&["config", "set", "limits.jobs", "5", "--worker", "w"], &["whole queue", "--worker"]);
    fails(&["config", "set", "limits.job", "5"], &["did you mean limits.jobs?", "config show"]);
    fails(&["config", "get", "nothing.such"], &["nothing.such", "config show"]);
    let restart = ["worker.concurrency", "limits.jobs", "TILLROLL_QUEUE__LEASE", "restart"];
    fails(&["config", "set", "queue.lease", "9s"], &restart);
    // Nobody's Redis is needed for what no Redis knows.
    let lease = run(tillroll().args(["config", "get", "queue.lease"]));
    assert!(String::from_utf8_lossy(&lease.stdout).contains("queue.lease = \"30s\"  # default"));
}

#[test]
fn workers_are_told_and_do_it() {
    let operator = Operator::new();
    operator.fails(&["scale", "2"], 69, &["no worker lives", "tillroll worker"]);
    let first = Worker::start(&operator.url, &["--renderer", "null", "--concurrency", "3"]);
    let second = Worker::start(&operator.url, &["--renderer", "null", "--concurrency", "3"]);
    let status = operator.json(&["status"]);
    let ids: Vec<&str> =
        status["workers"].as_array().unwrap().iter().map(|w| w["id"].as_str().unwrap()).collect();
    assert!(
        status["workers"].as_array().unwrap().iter().all(|worker| {
            worker["says"]["lease_ms"] == 3000 && worker["says"]["drain_timeout_ms"] == 30_000
        }),
        "{status}"
    );

    let all = operator.json(&["scale", "1"]);
    assert_eq!(all["workers"].as_array().unwrap().len(), 2, "{all}");
    slots(&operator, &[(ids[0], 1), (ids[1], 1)]);
    let auto = operator.json(&["scale", "auto", "--worker", ids[0]]);
    slots(&operator, &[(ids[0], 3), (ids[1], 1)]);
    assert_schema("scale", &[all, auto]);
    operator.text(&["scale", "2", "--worker", ids[1]], &[ids[1], "at most 2 at once"]);
    slots(&operator, &[(ids[0], 3), (ids[1], 2)]);
    let set = ["config", "set", "worker.concurrency", "2"];
    operator.text(&set, &["worker.concurrency = \"2\" in 2 workers", "until it ends"]);
    slots(&operator, &[(ids[0], 2), (ids[1], 2)]);

    operator.fails(&["scale", "0"], 2, &["\"0\"", "1 to 512"]);
    operator.fails(&["scale", "2", "--worker", "me"], 69, &["\"me\"", "tillroll status"]);
    operator.fails(&["config", "set", "log.level", "loud"], 2, &["log.level", "\"debug\""]);
    operator.fails(&["config", "set", "drain.timeout", "soon"], 2, &["drain.timeout", "30s"]);
    for worker in [first, second] {
        assert!(!worker.log().contains("was not changed"), "{}", worker.log());
    }
}

/// Waits until the heartbeats say so: each worker beats twice a second.
fn slots(operator: &Operator, wanted: &[(&str, u64)]) {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        let status = operator.json(&["status"]);
        let workers = status["workers"].as_array().unwrap();
        let is = |(id, slots): &(&str, u64)| {
            workers.iter().any(|worker| worker["id"] == *id && worker["says"]["slots"] == *slots)
        };
        if wanted.iter().all(is) {
            return;
        }
        assert!(Instant::now() < give_up, "{status}");
    }
}

#[test]
fn a_worker_is_silent_by_the_lease_that_it_runs_with() {
    let mut operator = Operator::new();
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query(&mut operator.redis).unwrap();
    for (id, lease_ms) in [("brief", 3000), ("patient", 600_000)] {
        let _: () = operator
            .redis
            .set(format!("{PREFIX}worker:{id}"), format!(r#"{{"lease_ms":{lease_ms}}}"#))
            .unwrap();
        let beat = (seconds - 60) * 1000;
        let _: i64 = operator.redis.zadd(format!("{PREFIX}workers"), id, beat).unwrap();
    }
    let status = operator.json(&["status"]);
    let alive = |id: &str| {
        let workers = status["workers"].as_array().unwrap();
        workers.iter().find(|worker| worker["id"] == id).unwrap()["alive"] == true
    };
    assert!(!alive("brief") && alive("patient"), "{status}");
    assert_eq!(status["jobs"]["workers"], 1, "{status}");
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

/// `script` gives the verbs a terminal of their own.
#[test]
fn bulk_work_shows_its_progress_on_a_terminal() {
    let mut operator = Operator::new();
    for number in 0..250 {
        let name = format!("acme/{number}");
        let fields = [("state", "dead"), ("code", "x"), ("bytes", "1"), ("priority", "bulk")];
        let _: () = operator.redis.hset_multiple(format!("{PREFIX}job:{name}"), &fields).unwrap();
        let _: i64 =
            operator.redis.zadd(format!("{PREFIX}dead"), &name, 7_258_118_400_000_u64).unwrap();
    }
    let line =
        format!("{} dead purge --all --redis {}", env!("CARGO_BIN_EXE_tillroll"), operator.url);
    let output = run(std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("/250"), "{shown}");
    assert!(shown.contains("250 of 250 dead letters are gone for good"), "{shown}");
    assert_eq!(operator.redis.zcard::<_, i64>(format!("{PREFIX}dead")).unwrap(), 0);
}
