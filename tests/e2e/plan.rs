//! `tillroll plan`: what it prints, what it refuses, and that nothing is left of it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command_line::{assert_fails, file, run, stderr};
use crate::json::{assert_schema, json};
use crate::support::{all_gone, chromium_below, handle, tillroll};

fn plan(arguments: &[&str]) -> Command {
    let mut command = tillroll();
    command.arg("plan").args(arguments);
    command
}

/// A measurement to plan with, as an earlier run printed it.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/plan/measured.json");

#[test]
fn it_measures_this_machine_and_the_figures_serve_for_other_sizes() {
    let here = json(&mut plan(&["--quick", "--rate", "10/s", "--price", "24EUR"]));
    assert_schema("plan", std::slice::from_ref(&here));
    let measured = &here["measured"];
    assert!(measured["engine"].as_str().unwrap().contains("Chrom"), "{here:#}");
    let number = |value: &Value| value.as_f64().unwrap();
    for key in ["receipt_ms", "receipts_per_s", "browser_bytes", "context_bytes", "trimmed_bytes"] {
        assert!(number(&measured[key]) > 1.0, "{key}: {here:#}");
    }
    let receipt = number(&measured["receipt_bytes"]);
    assert!((10e6..400e6).contains(&receipt), "a receipt's peak: {receipt}");
    assert!(number(&measured["trimmed_bytes"]) <= number(&measured["context_bytes"]), "{here:#}");
    let documents = measured["documents"].as_array().unwrap();
    assert!(!documents.is_empty() && number(&documents[0]["peak_bytes"]) > 5e6, "{here:#}");
    let basis = here["basis"].as_object().unwrap();
    let capacity = here["capacity"].as_object().unwrap();
    assert!(basis.keys().all(|key| capacity.contains_key(key)), "{here:#}");
    assert!(here["basis"]["receipts_per_s"].as_str().unwrap().contains("measured"), "{here:#}");

    let dir = tempfile::tempdir().unwrap();
    let record = file(dir.path(), "plan.json", here.to_string());
    let twice = (number(&measured["cores"]) * 2.0).to_string();
    let other = json(&mut plan(&["--measured", &record, "--cpus", &twice, "--ram", "64GB"]));
    assert_eq!(&other["measured"], measured);
    assert!(other["basis"]["receipts_per_s"].as_str().unwrap().contains("scaled by cores"));
    let times = number(&other["capacity"]["receipts_per_s"]) / number(&measured["receipts_per_s"]);
    assert!((1.9..2.1).contains(&times), "twice the cores, {times} times the speed");
}

#[test]
fn more_of_a_machine_carries_no_less() {
    let of = |ram: &str| json(&mut plan(&["--measured", RECORD, "--cpus", "2", "--ram", ram]));
    let (small, large) = (of("1200MB"), of("4GB"));
    for key in ["renders_at_once", "warm_tenants", "receipts_per_s", "largest_rows"] {
        let (less, more) = (&small["capacity"][key], &large["capacity"][key]);
        assert!(less.as_f64() <= more.as_f64(), "{key}: {less} and {more}");
    }
    let kept = plan(&["--measured", RECORD, "--ram", "4GB", "--set", "memory.reserve=1GB"])
        .arg("--json")
        .output()
        .unwrap();
    let kept: Value = serde_json::from_slice(&kept.stdout).unwrap();
    let of = |plan: &Value| plan["capacity"]["warm_tenants"].as_u64().unwrap();
    assert!(of(&kept) < of(&large), "what is in force counts");
}

#[test]
fn what_cannot_be_is_refused_with_what_would_be_right() {
    for (arguments, code, parts) in [
        (&["--ram", "4"][..], 2, &["--ram", "no unit", "4GB"][..]),
        (&["--ram", "4G"], 2, &["ambiguous", "write it like 4GB"]),
        (&["--others", "1,5GB"], 2, &["--others", "write it like 1.5GB"]),
        (&["--cpus", "2.5"], 2, &["--cpus", "whole number", "write it like 2"]),
        (&["--rate", "10"], 2, &["--rate", "no unit", "write it like 10/s"]),
        (&["--rate", "1e30/s"], 2, &["--rate", "from 1/day to 1000000/s", "write it like 10/s"]),
        (&["--price", "24,50"], 2, &["--price", "24.50"]),
        (&["--quick", "--measured", "x"], 2, &["--quick", "--measured"]),
    ] {
        let output = run(&mut plan(arguments));
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(parts.iter().all(|part| text.contains(part)), "{arguments:?}: {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut record: Value =
        serde_json::from_str(&std::fs::read_to_string(RECORD).unwrap()).unwrap();
    record["measured"]["receipt_ms"] = 0.into();
    let zero = file(dir.path(), "zero.json", record.to_string());
    for (arguments, code, parts) in [
        (&["--ram", "2GB", "--others", "2GB"][..], 2, &["others take 2GB", "--others less"][..]),
        (&["--ram", "700MB", "--others", "400MB"], 69, &["no memory for one renderer", "--ram"]),
        (&["--ram", "300MB"], 2, &["others take 500MB (assumed, since --ram came without"]),
        (&["--ram", "600MB"], 69, &["no memory for", "the others take 500MB (assumed"]),
        (&["--measured", &zero], 2, &["measured.receipt_ms is 0", "plan --json"]),
        (&["--measured", "/nowhere"], 2, &["/nowhere", "plan --json"]),
        (&["--measured", "/dev/null"], 2, &["/dev/null", "plan --json"]),
        (&["--set", "renderer.path=/nowhere"], 69, &["/nowhere"]),
        (&["--set", "renderer.kind=null"], 78, &["renderer.kind"]),
    ] {
        let output = run(&mut plan(arguments));
        assert_fails(&output, code, parts);
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_interrupted_one_leaves_nothing_running_and_prints_nothing() {
    let mut child = plan(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("browser ready") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it had a browser");
    }
    let chromium = chromium_below(child.id());
    assert!(!chromium.is_empty());
    let handles: Vec<_> = chromium.iter().filter_map(|(pid, _)| handle(*pid)).collect();
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("error: calibrating: it was interrupted"), "{said}");
    assert!(output.stdout.is_empty());
    assert!(all_gone(&handles, Duration::from_secs(10)), "its Chromium lives on");
}

/// `script` gives it a terminal of its own.
#[test]
fn a_terminal_sees_how_far_it_is() {
    let line = format!("{} plan --quick", env!("CARGO_BIN_EXE_tillroll"));
    let output =
        run(Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("calibrating") && shown.contains("several at once"), "{shown}");
    let plain = run(&mut plan(&["--quick"]));
    assert!(plain.status.success(), "{}", stderr(&plain));
    let text = String::from_utf8_lossy(&plain.stdout);
    assert!(!stderr(&plain).contains("calibrating") && !text.contains("calibrating"));
    for name in
        ["renders at once", "warm tenants", "receipts/s", "largest document", "measured here"]
    {
        assert!(text.contains(name), "no {name} in:\n{text}");
    }
}
