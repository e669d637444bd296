//! Health, metrics and status of a running worker, over plain HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::Value;

use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, element, take};

/// Status code and body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Asks until the page says so: the snapshot is published each second.
pub fn wait_for(address: &str, path: &str, right: impl Fn(u16, &str) -> bool) -> String {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, body) = get(address, path);
        if right(code, &body) {
            return body;
        }
        assert!(Instant::now() < give_up, "{path}: {code} {body}");
    }
}

#[test]
fn a_worker_shows_its_health_metrics_and_status() {
    let mut server = RedisServer::durable();
    let worker = Worker::start(&server.url(), &["--set", "http.listen=127.0.0.1:19464"]);
    let log = worker.log();
    let address = log.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let mut redis = connect(&server.url());
    let _: i64 = redis.lpush(format!("{PREFIX}in"), element("acme", "r-1", "Seen")).unwrap();
    let _: i64 = redis.lpush(format!("{PREFIX}in"), "{\"id\":\"bad\"}").unwrap();
    take(&mut redis, "acme/r-1", 30).unwrap();
    take(&mut redis, "default/bad", 30).unwrap();

    assert_eq!(get(&address, "/healthz").0, 200);
    wait_for(&address, "/readyz", |code, _| code == 200);
    let status = wait_for(&address, "/status", |_, body| {
        let status: Value = serde_json::from_str(body).unwrap();
        status["totals"]["done"] == 1 && status["memory"]["used_bytes"].as_u64() > Some(50_000_000)
    });
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["phase"], "running", "{status}");
    assert!(status["browser"]["pid"].as_u64().unwrap() > 0, "{status}");
    // One more may have been made ready ahead.
    let contexts = status["memory"]["governor"]["contexts"].as_array().unwrap();
    let of_tenants = contexts.iter().filter(|context| context["tenant"] != "");
    assert_eq!(of_tenants.count(), 1, "{status}");

    let metrics = wait_for(&address, "/metrics", |_, body| body.contains("tillroll_contexts 2"));
    for line in [
        "tillroll_jobs_total{outcome=\"done\",priority=\"interactive\"} 1",
        "tillroll_intake_total{inbox=\"interactive\",result=\"admitted\"} 1",
        "tillroll_intake_total{inbox=\"interactive\",result=\"rejected\"} 1",
        "tillroll_failures_total{class=\"input\",code=\"no_document\"} 1",
        "tillroll_browser_starts_total 1",
    ] {
        assert!(metrics.contains(line), "no {line:?} in:\n{metrics}");
    }

    // Without Redis the worker is alive but not ready, and says why.
    server.kill();
    let why = wait_for(&address, "/readyz", |code, _| code == 503);
    assert!(why.contains("redis"), "{why}");
    assert_eq!(get(&address, "/healthz").0, 200);
    server.restart();
    wait_for(&address, "/readyz", |code, _| code == 200);
}
