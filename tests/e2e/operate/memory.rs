//! The memory governor in a real worker, with real Chromium.

use std::time::{Duration, Instant};

use redis::Commands;
use rustix::process::Signal;
use serde_json::Value;

use super::Operator;
use crate::support::{PREFIX, Worker, element, take};

/// A table of so many rows: 5,000 take several hundred MB.
fn invoice(tenant: &str, id: &str, rows: usize) -> Vec<u8> {
    let header = serde_json::json!({"id": id, "tenant": tenant,
        "options": {"paper": "A4", "timeout_ms": 30_000}});
    let rows: String = (0..rows)
        .map(|row| format!("<tr><td>{row}</td><td>Something that has a name</td><td>1</td><td>{row}.50</td></tr>"))
        .collect();
    format!(
        "{header}\n<!doctype html><style>td{{border:1px solid #000}}</style><table>{rows}</table>"
    )
    .into_bytes()
}

/// The worker's ledger, as its heartbeat tells it.
fn ledger(operator: &Operator) -> Value {
    operator.json(&["status"])["workers"][0]["says"]["memory"].clone()
}

#[test]
fn what_outgrows_the_budget_ends_with_figures_while_receipts_go_on() {
    const LIMIT: u64 = 420_000_000;
    let mut operator = Operator::new();
    let limit = format!("memory.limit={LIMIT}B");
    let small = ["--set", &limit, "--set", "memory.reserve=32MB"];
    let worker = Worker::start(&operator.url, &small);
    operator.push(invoice("heavy", "h-1", 6_000));
    let receipts: Vec<String> = (0..20).map(|number| format!("r-{number}")).collect();
    for id in &receipts {
        operator.push(element("cafe", id, "A receipt"));
    }
    for id in &receipts {
        let (reply, _) = take(&mut operator.redis, &format!("cafe/{id}"), 60).unwrap();
        assert_eq!(reply["status"], "done", "{reply}\n{}", worker.log());
    }
    let (reply, _) = take(&mut operator.redis, "heavy/h-1", 60).unwrap();
    let error = &reply["error"];
    assert_eq!(error["code"], "memory_exceeded", "{reply}\n{}", worker.log());
    assert_eq!(error["class"], "resource", "{reply}");
    let message = error["message"].as_str().unwrap();
    for part in ["used", "predicted", "budget", "MiB"] {
        assert!(message.contains(part), "{message}");
    }
    let history = operator.json(&["job", "show", "heavy/h-1"]);
    let used = history["history"][0]["memory_bytes"].as_u64().unwrap();
    assert!(used < LIMIT, "{used} of {LIMIT}");

    // The worker learned: the same document is not rendered again, and receipts are.
    operator.push(invoice("heavy", "h-2", 6_000));
    let (again, _) = take(&mut operator.redis, "heavy/h-2", 60).unwrap();
    assert_eq!(again["error"]["code"], "memory_exceeded", "{again}");
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(60)).success());

    // Nor by another worker, with less memory.
    let less = format!("memory.limit={}B", LIMIT - 40_000_000);
    let worker = Worker::start(&operator.url, &["--set", &less, "--set", "memory.reserve=32MB"]);
    operator.push(invoice("heavy", "h-3", 6_000));
    let (again, _) = take(&mut operator.redis, "heavy/h-3", 60).unwrap();
    let message = again["error"]["message"].as_str().unwrap();
    assert!(message.contains("not rendered"), "{again}\n{}", worker.log());
    operator.push(element("cafe", "last", "A receipt"));
    let (last, _) = take(&mut operator.redis, "cafe/last", 60).unwrap();
    assert_eq!(last["status"], "done", "{last}\n{}", worker.log());
}

#[test]
fn the_budget_moves_while_it_runs_and_what_was_learned_is_kept() {
    let mut operator = Operator::new();
    let worker = Worker::start(&operator.url, &[]);
    let ready = worker.log().lines().find(|l| l.contains("slots=")).unwrap_or_default().to_owned();
    assert!(ready.contains("contexts.most=256"), "{ready}");
    assert!(ready.contains("contexts.expected="), "{ready}");
    operator.push(element("cafe", "one", "A receipt"));
    assert_eq!(take(&mut operator.redis, "cafe/one", 60).unwrap().0["status"], "done");
    operator.json(&["config", "set", "memory.reserve", "100MB"]);
    operator.json(&["config", "set", "memory.limit", "600MB"]);
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        let memory = ledger(&operator);
        if memory["bounds"]["limit_bytes"] == 600_000_000 {
            // What is free for it is less than that on this machine.
            let budget = memory["budget_bytes"].as_u64().unwrap();
            assert!((590_000_000..=600_000_000).contains(&budget), "{memory}");
            let free = memory["governor"]["free_bytes"].as_u64().unwrap();
            let used = memory["used_bytes"].as_u64().unwrap();
            assert!(free + used <= 600_000_000, "{memory}");
            assert!(memory["governor"]["outstanding_bytes"].as_u64().unwrap() <= free, "{memory}");
            let governor = &memory["governor"];
            assert!(governor["reserve_bytes"].as_u64().unwrap() > 0, "{memory}");
            assert_eq!(governor["contexts"], serde_json::json!([]), "names stay out of Redis");
            break;
        }
        assert!(Instant::now() < give_up, "{memory}\n{}", worker.log());
    }
    let shown = ["memory.limit 600 MB, memory.reserve 100 MB, budget now"];
    operator.text(&["status"], &shown);

    // What cannot work is refused, in the words of `config check`, and nothing changes.
    let words = "memory.limit = \"150MB\" cannot be: memory.reserve (100MB) and one render (96MB)";
    operator.fails(&["config", "set", "memory.limit", "150MB"], 2, &[words, "at least 196MB"]);
    let check = ["config", "check", "--set", "memory.reserve=100MB", "--set", "memory.limit=150MB"];
    operator.fails(&check, 78, &[words]);
    operator.fails(&["config", "set", "memory.reserve", "2GB"], 2, &["do not fit", "600MB"]);
    let small = ["no memory for one renderer", "within memory.limit", "raise memory.limit"];
    operator.fails(&["config", "set", "memory.limit", "220MB"], 2, &small);
    let get = |key: &str| operator.json(&["config", "get", key])["workers"][0].clone();
    assert_eq!(get("memory.limit")["value"], "600MB");
    operator.text(&["config", "get", "memory.limit"], &["\"600MB\" until it ends", "\"auto\""]);

    // And back to what it started with.
    operator.text(&["config", "set", "memory.limit", "default"], &["holds again in worker"]);
    operator.json(&["config", "set", "memory.reserve", "default"]);
    let give_up = Instant::now() + Duration::from_secs(30);
    while get("memory.limit")["value"] != "auto" || get("memory.reserve")["value"] != "256MB" {
        assert!(Instant::now() < give_up, "{}", worker.log());
    }
    assert!(ledger(&operator)["bounds"]["limit_bytes"].is_null());
    assert!(!worker.log().contains("was not changed"), "{}", worker.log());
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(60)).success());
    let known: String = operator.redis.get(format!("{PREFIX}predictions")).unwrap();
    assert!(known.starts_with("tillroll-footprints 1\n") && !known.contains("cafe"), "{known}");
}
