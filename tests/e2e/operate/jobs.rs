//! Jobs that are stopped, and those that died.

use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::Value;

use super::Operator;
use crate::command_line::{assert_fails, file, run, stderr};
use crate::json::assert_schema;
use crate::support::{PREFIX, Worker, element, receipt, take};

/// What a job is that no attempt can print: it has one page. And its picture is missing.
fn no_seventh_page() -> String {
    receipt("Hopeless") + "<img src=logo.png>"
}

fn hopeless(tenant: &str, id: &str) -> String {
    let header = format!(
        r#"{{"id":"{id}","tenant":"{tenant}","max_attempts":1,"options":{{"pages":"7"}}}}"#
    );
    format!("{header}\n{}", no_seventh_page())
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
        assert_eq!(reply["warnings"][0]["code"], "image_missing", "{reply}");
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
    // The reply was taken: its warnings are known still.
    let noticed = &shown["history"][0]["warnings"][0];
    assert_eq!(noticed["code"], "image_missing", "{shown}");
    assert!(noticed["remedy"].as_str().unwrap().contains("tillroll asset put"), "{shown}");
    let says = ["warning", "logo.png (image_missing)", "tillroll asset put"];
    operator.text(&["dead", "show", "acme/b"], &says);
    assert_schema("job show", &[operator.json(&["job", "show", "acme/a"])]);
    assert_schema("dead show", &[serde_json::json!({"fetched": shown["fetched"]})]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), no_seventh_page());
    let piped = operator.run(&["dead", "show", "acme/a", "--document", "-"]);
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), no_seventh_page());
    let why =
        ["dead", "attempt 1", "page_range", "ask for pages that are there", "as long as the dead"];
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
    for verb in [&["dead", "ls"][..], &["dead", "retry", "--all"], &["dead", "purge", "--all"]] {
        operator.fails(&[verb, &["--tenant", "a/b"]].concat(), 2, &["a/b", "no name of a tenant"]);
    }
    for none in ["0", "-1"] {
        operator.misused(&["dead", "ls", "--limit", none], "for '--limit <N>'");
    }
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
    operator.text(&["dead", "retry", "--all", "--tenant", "cafe"], &["2 of 2 dead letters are"]);
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
    let old = file(dir.path(), "old.html", "old");
    operator.fails(&["dead", "show", "a", "--document", &old], 1, &["old.html", "a new file"]);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
    let back = dir.path().join("a.html");
    let path = back.to_str().unwrap();
    operator.text(&["dead", "show", "a", "--document", path], &["without the asset that came"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&back.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
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
    let on_a_terminal = |line: &str| {
        let mut script = std::process::Command::new("script");
        run(script.args(["-qec", line, "/dev/null"]).env("TERM", "xterm"))
    };
    // Nobody answers.
    let asked = on_a_terminal(&line);
    let shown = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert_eq!(asked.status.code(), Some(2), "{shown}");
    assert!(shown.contains("Forget 250 dead letters") && shown.contains("--yes"), "{shown}");
    assert_eq!(operator.redis.zcard::<_, i64>(format!("{PREFIX}dead")).unwrap(), 250);
    let output = on_a_terminal(&format!("{line} --yes"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("/250"), "{shown}");
    assert!(shown.contains("250 of 250 dead letters are gone for good"), "{shown}");
    assert_eq!(operator.redis.zcard::<_, i64>(format!("{PREFIX}dead")).unwrap(), 0);
}
