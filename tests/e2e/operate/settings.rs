//! What is changed at once: limits of the queue, settings of workers; and what
//! status says of both.

use std::time::{Duration, Instant};

use redis::Commands;

use super::Operator;
use crate::command_line::run;
use crate::json::{assert_schema, json};
use crate::support::{PREFIX, Worker, element, take, tillroll};

#[test]
fn a_tenant_whose_attempts_all_fail_is_named_by_status() {
    let mut operator = Operator::new();
    let _: i64 = operator.redis.sadd(format!("{PREFIX}broken"), "acme").unwrap();
    let status = operator.json(&["status"]);
    assert_eq!(status["broken_tenants"][0], "acme", "{status}");
    // Before there is a worker: that one would find that it is not true.
    operator.text(&["status"], &["one job at a time", "acme"]);
    operator.json(&["tenant", "set", "cafe", "--state", "paused"]);
    operator.json(&["tenant", "set", "bistro", "--state", "draining"]);
    let closed = operator.json(&["status"]);
    assert_eq!(closed["closed_tenants"].as_array().unwrap().len(), 2, "{closed}");
    operator.text(&["status"], &["not started: cafe", "refused: bistro"]);
    assert_schema(
        "status",
        &[status, closed, {
            let _worker = Worker::start(&operator.url, &["--renderer", "null"]);
            operator.json(&["queue", "pause"]);
            operator.json(&["status"])
        }],
    );
}

#[test]
fn a_redis_that_takes_no_writes_is_told_by_status() {
    let mut operator = Operator::new();
    let well = operator.json(&["status"]);
    assert!(well["redis_refuses_writes"].is_null(), "{well}");
    let mut set = |name: &str, value: &str| {
        let mut set = redis::cmd("CONFIG");
        let _: () = set.arg("SET").arg(name).arg(value).query(&mut operator.redis).unwrap();
    };
    set("maxmemory", "1");
    let full = json(tillroll().args(["status", "--redis", &operator.url]));
    set("maxmemory", "0");
    let full = full["redis_refuses_writes"].as_str().unwrap();
    assert!(full.contains("redis is full") && full.contains("raise maxmemory"), "{full}");
    set("min-replicas-to-write", "1");
    operator.text(&["status"], &["TAKES NO WRITES", "fewer replicas", "fix: bring its replicas"]);
    let mut replica = redis::cmd("REPLICAOF");
    let _: () = replica.arg("127.0.0.1").arg("1").query(&mut operator.redis).unwrap();
    operator.text(&["status"], &["TAKES NO WRITES", "is a replica here"]);
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
    operator.text(&["status"], &["1 of 1000000 jobs", "of 8.4 MB in results"]);
    operator.text(&["config", "get", "limits.held"], &["limits.held = \"8MiB\"  # redis"]);
    for (key, default) in [("limits.held", "auto"), ("limits.tenant_jobs", "default")] {
        operator.text(&["config", "set", key, default], &["own configuration holds again"]);
    }
    assert_eq!(operator.json(&["config", "get", "limits.held"])["value"], "256MiB");
    let concurrency = operator.json(&["config", "get", "worker.concurrency"]);
    assert_eq!(concurrency["workers"][0]["configured"], "auto", "{concurrency}");
    assert_schema("config get", &[own, auto, got, concurrency]);
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

    // And back, each to its own; what a null renderer has no use for is refused.
    operator.json(&["config", "set", "worker.concurrency", "default"]);
    slots(&operator, &[(ids[0], 3), (ids[1], 3)]);
    operator.fails(&["config", "set", "memory.limit", "2GB"], 2, &["memory.governor", "restart"]);
    operator.fails(&["config", "set", "worker.concurrency", "none"], 2, &["or default for"]);

    operator.fails(&["scale", "0"], 2, &["\"0\"", "1 to 512"]);
    operator.fails(&["scale", "-1"], 2, &["\"-1\"", "1 to 512"]);
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
