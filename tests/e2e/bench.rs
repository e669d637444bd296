//! `tillroll bench`: what it measures, when it refuses, and that it leaves nothing.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command_line::{assert_fails, file, run, stderr};
use crate::json::{assert_schema, json};
use crate::mending::everything;
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, element, keys, tillroll};

/// A queue of the test's own, with a worker that needs no Chromium.
struct Rig {
    worker: Worker,
    url: String,
    redis: Connection,
    server: RedisServer,
}

impl Rig {
    fn new() -> Self {
        let server = RedisServer::volatile();
        let url = server.url();
        Self::at(server, url)
    }

    fn at(server: RedisServer, url: String) -> Self {
        // Nobody shall take a worker for dead that a busy machine makes slow.
        let worker = Worker::start(&url, &["--renderer", "null", "--set", "queue.lease=30s"]);
        let mut redis = connect(&server.url());
        // Ready, it says so in its log first, and a moment later in Redis.
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let says: Vec<Option<String>> = keys(&mut redis, "worker:*")
                .into_iter()
                .map(|key| redis.get(key).unwrap())
                .collect();
            if says.iter().flatten().any(|says| says.contains(r#""phase":"running""#)) {
                return Self { worker, redis, url, server };
            }
            assert!(Instant::now() < give_up, "it never ran: {says:?}");
        }
    }

    fn verb(&self, args: &[&str]) -> Command {
        let mut verb = tillroll();
        verb.args(args).args(["--redis", &self.url]);
        verb
    }

    fn bench(&self, args: &[&str]) -> Command {
        self.verb(&[&["bench"], args].concat())
    }

    /// Succeeds; what it says.
    fn says(&self, args: &[&str]) -> String {
        let output = run(&mut self.bench(args));
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn operate(&self, args: &[&str]) {
        let output = run(&mut self.verb(args));
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }

    /// No key, field, member or event of a benchmark is there.
    fn assert_nothing_left(&mut self) {
        let left = everything(&mut self.redis);
        assert!(!left.contains("bench"), "{left}");
        for inbox in ["in", "in:bulk"] {
            assert_eq!(self.redis.llen::<_, u64>(format!("{PREFIX}{inbox}")).unwrap(), 0);
        }
        let jobs: Option<i64> = self.redis.hget(format!("{PREFIX}state"), "jobs").unwrap();
        assert_eq!(jobs.unwrap_or(0), 0);
    }

    /// Blocks until so many jobs of a benchmark are done.
    fn wait_until_done(&mut self, mut count: u32) {
        let mut after = "0".to_owned();
        loop {
            let read: redis::streams::StreamReadReply = redis::cmd("XREAD")
                .arg("BLOCK")
                .arg(30_000)
                .arg("STREAMS")
                .arg(format!("{PREFIX}events"))
                .arg(&after)
                .query(&mut self.redis)
                .unwrap();
            assert!(!read.keys.is_empty(), "{count} jobs too few are done");
            for entry in read.keys.into_iter().flat_map(|key| key.ids) {
                let is = |field: &str, text: &str| {
                    entry.get::<String>(field).is_some_and(|value| value.starts_with(text))
                };
                count -= u32::from(is("event", "done") && is("job", "bench-"));
                if count == 0 {
                    return;
                }
                after.clone_from(&entry.id);
            }
        }
    }

    /// Redis has no event for a queue in which nothing moves: ask until so many jobs wait
    /// and none runs.
    fn wait_until_all_wait(&mut self, jobs: u64) {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let alive: u64 = self.redis.hget(format!("{PREFIX}state"), "jobs").unwrap();
            let runs: u64 = self.redis.zcard(format!("{PREFIX}leased")).unwrap();
            if (alive, runs) == (jobs, 0) {
                return;
            }
            assert!(Instant::now() < give_up, "{alive} jobs, {runs} of them run");
        }
    }
}

fn started(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn tell(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn throughput_is_that_of_all_jobs_and_nothing_is_left_of_them() {
    let mut rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let small = file(dir.path(), "small.html", "<p>Small");
    let mix = format!("{small}=3");
    let args = ["throughput", &small, "--mix", &mix, "--jobs", "200", "--in-flight", "16"];
    let first = json(&mut rig.bench(&args));
    assert_eq!((&first["pushed"], &first["done"]), (&200.into(), &200.into()), "{first:#}");
    assert_eq!((&first["failed"], &first["pages"]), (&0.into(), &200.into()), "{first:#}");
    assert_eq!(first["warnings"][0]["code"], "null_renderer");
    assert_eq!(first["workers"][0]["renderer_kind"], "null", "{first:#}");
    assert!(first["notes"][0].as_str().unwrap().contains("null renderer"), "{first:#}");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{first:#}"));
    assert!(
        number(&first["receipts_per_s"]) > 1.0 && number(&first["receipts_per_s_middle"]) > 1.0
    );
    let times = ["p50", "p90", "p95", "p99", "max"].map(|p| number(&first["push_to_reply_ms"][p]));
    assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");
    assert_eq!(first["load"]["documents"][1]["weight"], 3);
    rig.assert_nothing_left();

    // A tenant that an operator knows, and whose documents are too large: rejected, and
    // what comes after it waits as long as the rejection asks.
    rig.operate(&["tenant", "set", "bench-0", "--bytes", "100B"]);
    let rejected = ["throughput", "--jobs", "2", "--tenants", "2", "--in-flight", "1"];
    let second = json(&mut rig.bench(&[&rejected[..], &["--warm-up", "0"]].concat()));
    let failure = &second["failures"][0];
    assert_eq!((&failure["status"], &failure["code"]), (&"rejected".into(), &"tenant_full".into()));
    assert!(failure["remedy"].as_str().unwrap().contains("tenant set"), "{second:#}");
    assert_eq!((&second["done"], &second["failed"]), (&1.into(), &1.into()), "{second:#}");
    assert!(second["seconds"].as_f64().unwrap() > 4.9, "it pushed on at once: {second:#}");
    let notes = second["notes"].to_string();
    assert!(notes.contains("knew the tenant bench-0"), "{notes}");
    let kept = json(&mut rig.verb(&["tenant", "show", "bench-0"]));
    assert_eq!((&kept["bytes_cap"], &kept["jobs"]), (&100.into(), &0.into()), "{kept}");
    assert!(!run(&mut rig.verb(&["tenant", "show", "bench-1"])).status.success());
    assert_schema("bench throughput", &[first, second]);
}

#[test]
fn one_run_stands_beside_an_earlier_one() {
    let mut rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let args = ["throughput", "--jobs", "20", "--tenants", "1"];
    let before = file(dir.path(), "before.json", json(&mut rig.bench(&args)).to_string());
    let more = ["--compare", &before, "--in-flight", "5", "--priority", "bulk", "--paper", "A5"];
    let text = rig.says(&[&args[..], &more].concat());
    for part in [
        "throughput of queue receipts",
        "20 of 20 in",
        "thermal-80mm.html (built in)",
        "push → reply",
        "beside run",
        "The loads differ: in_flight, priority.",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let other = rig.bench(&["latency", "--rate", "5/s", "--compare", &before]).output().unwrap();
    assert_fails(&other, 2, &["before.json", "bench throughput", "bench latency --json"]);
    rig.assert_nothing_left();
}

#[test]
fn latency_counts_from_the_schedule_and_says_what_was_not_sent() {
    let mut rig = Rig::new();
    let report = json(&mut rig.bench(&["latency", "--rate", "50/s", "--duration", "2s"]));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{report:#}"));
    let arrivals = &report["arrivals"];
    assert_eq!(number(&arrivals["scheduled"]), 100);
    assert_eq!(number(&arrivals["sent"]) + number(&arrivals["not_sent"]), 100);
    assert_eq!((&report["done"], &report["failed"]), (&arrivals["sent"], &0.into()), "{report:#}");
    assert!(report["seconds"].as_f64().unwrap() > 1.9, "all at once: {report:#}");
    assert!(report["latency_ms"]["p50"].as_f64() <= report["latency_ms"]["max"].as_f64());
    assert_eq!(report["load"]["priority"], "interactive");
    let text = rig.says(&["latency", "--rate", "5000/s", "--duration", "1s", "--in-flight", "1"]);
    assert!(text.contains("The workers cannot carry this rate"), "{text}");
    assert!(text.contains("of 5000 arrivals were not sent, since 1 job was under way;"), "{text}");
    let poisson = ["latency", "--rate", "40/s", "--duration", "1s", "--arrivals", "poisson"];
    assert!(rig.says(&poisson).contains("40/s for 1s, poisson arrivals"));
    rig.assert_nothing_left();

    // The first is rejected, and what arrives while that asks to wait is not sent.
    rig.operate(&["tenant", "set", "bench-0", "--bytes", "100B"]);
    let slow = ["latency", "--rate", "2/s", "--duration", "1s", "--tenants", "1", "--warm-up", "0"];
    let rejected = json(&mut rig.bench(&slow));
    assert_eq!((&rejected["failed"], &rejected["carried"]), (&1.into(), &false.into()));
    assert_eq!(rejected["arrivals"]["not_sent"], 1, "{rejected:#}");
    assert_schema("bench latency", &[report, rejected]);
    assert_fails(&run(&mut rig.bench(&slow)), 65, &["not one receipt was done"]);
}

/// A closed loop would have met the stall once for each job under way; here it is met by
/// all who come in it.
#[test]
fn a_stall_of_the_workers_counts_for_all_who_would_have_come() {
    let mut rig = Rig::new();
    rig.worker.signal(Signal::STOP);
    let args = ["latency", "--rate", "50/s", "--duration", "2s", "--in-flight", "200"];
    let child = started(&mut rig.bench(&[&args[..], &["--warm-up", "0", "--json"]].concat()));
    let give_up = Instant::now() + Duration::from_secs(30);
    while rig.redis.llen::<_, u64>(format!("{PREFIX}in")).unwrap() < 50 {
        assert!(Instant::now() < give_up, "it waits for those before");
    }
    rig.worker.signal(Signal::CONT);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["done"], &report["arrivals"]["not_sent"]), (&100.into(), &0.into()));
    let of = |percentile: &str| report["latency_ms"][percentile].as_f64().unwrap();
    assert!(of("max") > 900.0 && of("p90") > 500.0, "{report:#}");
}

#[test]
fn a_stall_of_the_sender_counts_too() {
    let mut rig = Rig::new();
    let args = ["latency", "--rate", "50/s", "--duration", "3s", "--warm-up", "0", "--json"];
    let child = started(&mut rig.bench(&args));
    rig.wait_until_done(5);
    tell(&child, Signal::STOP);
    // The stall itself: half a second of Redis' clock.
    let nothing: Option<Vec<String>> = rig.redis.blpop("nothing", 0.5).unwrap();
    assert_eq!(nothing, None);
    tell(&child, Signal::CONT);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["arrivals"]["scheduled"], 150, "{report:#}");
    assert!(report["notes"].to_string().contains("late"), "{report:#}");
    for late in ["latency_ms", "sender_lag_ms"] {
        assert!(report[late]["max"].as_f64().unwrap() > 400.0, "{late}: {report:#}");
        // A sixth of all were due in that half second.
        assert!(report[late]["p95"].as_f64().unwrap() > 100.0, "{late}: {report:#}");
    }
    rig.assert_nothing_left();
}

#[test]
fn a_queue_that_is_not_to_be_measured_is_left_alone() {
    let empty = RedisServer::volatile();
    let url = empty.url();
    let nobody = run(tillroll().args(["bench", "throughput", "--jobs", "5", "--redis", &url]));
    assert_fails(&nobody, 69, &["no worker lives on the queue receipts", "tillroll worker"]);
    assert!(!everything(&mut connect(&url)).contains("bench"));

    let mut rig = Rig::new();
    let small = ["throughput", "--jobs", "5"];
    for (state, says) in [("pause", "is paused"), ("drain", "being drained")] {
        rig.operate(&["queue", state]);
        assert_fails(&run(&mut rig.bench(&small)), 69, &[says, "tillroll queue resume"]);
        rig.operate(&["queue", "resume"]);
    }
    // 101 jobs of somebody else, who waits.
    rig.operate(&["tenant", "set", "shop", "--state", "paused"]);
    for number in 0..=100 {
        let job = element("shop", &format!("r-{number}"), "Real");
        let _: u64 = rig.redis.lpush(format!("{PREFIX}in"), job).unwrap();
    }
    rig.wait_until_all_wait(101);
    let says = ["101 jobs of others wait", "--beside-others"];
    assert_fails(&run(&mut rig.bench(&small)), 69, &says);
    let text = rig.says(&[&small[..], &["--beside-others"]].concat());
    assert!(text.contains("5 of 5") && text.contains("101 jobs of others were"), "{text}");
    let left = everything(&mut rig.redis);
    assert!(!left.contains("bench") && left.contains("job:shop/r-100"), "{left}");
    rig.wait_until_all_wait(101);

    let dir = tempfile::tempdir().unwrap();
    let bad = file(dir.path(), "bad.html", "<p>\0");
    assert_fails(&run(&mut rig.bench(&["throughput", &bad])), 65, &["bad.html", "NUL"]);
}

#[test]
fn an_interrupted_one_takes_back_what_waits_and_says_what_it_knows() {
    let mut rig = Rig::new();
    let args = ["throughput", "--duration", "1h", "--in-flight", "8", "--json"];
    let child = started(&mut rig.bench(&args));
    // Three of them warmed it up, and do not count.
    rig.wait_until_done(5);
    rig.operate(&["queue", "pause"]);
    rig.wait_until_all_wait(8);
    tell(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(stderr(&output).contains("it was interrupted"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["stopped"], &report["taken_back"]), (&"interrupted".into(), &8.into()));
    assert_eq!(report["pushed"].as_u64(), Some(report["done"].as_u64().unwrap() + 8), "{report:#}");
    rig.operate(&["queue", "resume"]);
    rig.assert_nothing_left();
}

#[test]
fn what_no_worker_has_read_is_taken_back_too() {
    let mut rig = Rig::new();
    let args = ["throughput", "--duration", "1h", "--in-flight", "8", "--warm-up", "0", "--json"];
    // It cannot take more than it asked for before; that it lives was heard just now.
    rig.worker.signal(Signal::STOP);
    let child = started(&mut rig.bench(&args));
    let give_up = Instant::now() + Duration::from_secs(30);
    while rig.redis.llen::<_, u64>(format!("{PREFIX}in")).unwrap() < 7 {
        assert!(Instant::now() < give_up, "seven do not lie in the inbox");
    }
    tell(&child, Signal::INT);
    // Until all of it has been withdrawn; what the worker has in hand is another matter.
    while rig.redis.llen::<_, u64>(format!("{PREFIX}in")).unwrap() > 0 {
        assert!(Instant::now() < give_up, "the inbox is not empty");
    }
    rig.worker.signal(Signal::CONT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["taken_back"].as_u64().unwrap() >= 7, "{report:#}");
    rig.assert_nothing_left();
}

#[test]
fn a_redis_that_goes_away_ends_it_with_what_is_known() {
    let mut rig = Rig::new();
    let args = ["throughput", "--duration", "1h", "--in-flight", "4", "--timeout", "1s"];
    let child = started(&mut rig.bench(&args));
    rig.wait_until_done(5);
    rig.server.kill();
    let output = child.wait_with_output().unwrap();
    assert_fails(&output, 69, &["measuring throughput", "erasing the benchmark's jobs"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("stopped      before its end: redis"), "{text}");
}

#[test]
fn it_needs_no_more_permissions_than_a_worker() {
    let manual = include_str!("../../docs/operations.md");
    let (_, after) = manual.split_once("<!-- acl: worker -->\n```\nredis-cli ").unwrap();
    let (command, _) = after.split_once("```").unwrap();
    let command = command.replace(['\'', '\\'], "");
    let mut words = command.split_whitespace();
    let mut allow = redis::cmd(words.next().unwrap());
    for word in words {
        allow.arg(word);
    }
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let () = allow.query(&mut redis).unwrap();
    let url = server.url().replace("redis://", "redis://tillroll:WORKER-PASSWORD@");
    let rig = Rig::at(server, url);
    assert!(rig.says(&["throughput", "--jobs", "20"]).contains("20 of 20 in"));
    assert!(rig.says(&["latency", "--rate", "20/s", "--duration", "1s"]).contains("20 of 20 in"));
    let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut redis).unwrap();
    assert_eq!(refused, [], "nothing was refused on the way");
}

/// `script` gives it a terminal of its own.
#[test]
fn a_terminal_sees_how_far_it_is() {
    let rig = Rig::new();
    let program = env!("CARGO_BIN_EXE_tillroll");
    let line = format!("{program} bench latency --rate 20/s --duration 1s --redis {}", rig.url);
    let output =
        run(Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("measuring") && shown.contains("under way"), "{shown}");
    let plain = run(Command::new("sh").args(["-c", &line]));
    assert!(!stderr(&plain).contains("measuring"), "{}", stderr(&plain));
}
