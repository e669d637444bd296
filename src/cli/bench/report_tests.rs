//! What a run says, for people and beside an earlier one.

use super::*;

fn latency(not_sent: u64, carried: bool) -> Value {
    let times = json!({"p50": 12.5, "p90": 14, "p95": 15, "p99": 21, "max": 80.1});
    json!({
        "v": 1, "bench": "latency", "queue": "receipts", "run": "0badcafe", "stopped": null,
        "load": {
            "documents": [{"document": "a.html", "bytes": 3400, "weight": 9},
                          {"document": "b.html", "bytes": 100, "weight": 1}],
            "tenants": 1, "tenant_prefix": "bench-", "priority": "interactive", "in_flight": 64,
            "warm_up": 1, "rate_per_s": 5.0, "duration_ms": 30000, "arrivals": "poisson"
        },
        "carried": carried,
        "arrivals": {"scheduled": 150, "sent": 150 - not_sent, "not_sent": not_sent,
                     "under_way_at_end": 40},
        "seconds": 30.1, "pushed": 150 - not_sent, "done": 149 - not_sent, "failed": 1, "taken_back": 0,
        "receipts_per_s": 4.9, "pages": 149, "pushed_bytes": 500_000, "pdf_bytes": 2_000_000,
        "failures": [{"status": "dead", "code": "timeout", "count": 1, "remedy": "make it shorter"}],
        "warnings": [], "latency_ms": times, "sender_lag_ms": times, "queued_ms": times,
        "rendered_ms": {"p50": null, "p90": null, "p95": null, "p99": null, "max": null},
        "workers": [{"id": "w1", "slots": 3, "renderer_kind": "chromium", "alive": true},
                    {"id": "w2", "slots": 2, "renderer_kind": "chromium", "alive": false}],
        "notes": ["something to know"]
    })
}

fn throughput(rate: f64) -> Value {
    let mut report = latency(0, true);
    report["bench"] = json!("throughput");
    report["push_to_reply_ms"] = report["latency_ms"].take();
    report["receipts_per_s"] = json!(rate);
    report["receipts_per_s_middle"] = Value::Null;
    report
}

#[test]
fn everything_that_was_found_is_said() {
    let text = text(&latency(0, true));
    for part in [
        "latency of queue receipts, run 0badcafe",
        "5/s for 30s, poisson arrivals; 1 tenant, interactive, at most 64 under way",
        "a.html (3.4 KB) × 9, b.html (100 B)",
        "w1 (3 at once), w2 (2 at once, gone at the end)",
        "149 of 150 in 30.1 s, 1 failed",
        "500 KB pushed, 2 MB in PDFs of 149 pages",
        "dead    timeout  1     make it shorter",
        "note: something to know",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let cells = |name: &str| -> Vec<String> {
        line(name).split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(cells("arrival →"), ["arrival → reply", "12.5", "14", "15", "21", "80.1"]);
    assert_eq!(cells("rendered")[1..], ["-"; 5]);
    assert!(!text.contains("cannot carry") && !text.contains("stopped"), "{text}");
}

#[test]
fn a_rate_that_was_too_high_is_called_so_with_the_reason() {
    let refused = text(&latency(20, false));
    assert!(
        refused.contains("The workers cannot carry this rate: 20 of 150 arrivals"),
        "{refused}"
    );
    assert!(refused.contains("fix: add workers"), "{refused}");
    assert!(refused.contains("since 64 jobs were under way; the"), "{refused}");
    let mut rejected = latency(20, false);
    rejected["failures"][0]["status"] = json!("rejected");
    assert!(text(&rejected).contains("under way, or a rejection asked to wait; the"));
    let behind = text(&latency(0, false));
    assert!(behind.contains("this rate: 40 of 150 jobs had not come back"), "{behind}");
}

#[test]
fn a_run_that_was_stopped_says_what_came_of_it_until_then() {
    let mut report = throughput(150.0);
    report["stopped"] = json!("interrupted");
    report["taken_back"] = json!(12);
    let text = text(&report);
    assert!(text.contains("stopped      before its end: interrupted"), "{text}");
    assert!(text.contains("1 failed, 12 taken back"), "{text}");
    assert!(text.contains("middle 80 %  -"), "{text}");
}

#[test]
fn a_sender_that_was_late_itself_says_so() {
    let mut lag = Times::new().unwrap();
    (0..98).for_each(|_| lag.record(std::time::Duration::from_millis(2)));
    assert_eq!(late(&lag), None);
    (0..2).for_each(|_| lag.record(std::time::Duration::from_millis(300)));
    assert!(late(&lag).is_some_and(|note| note.contains("pushed 300")), "{:?}", late(&lag));
}

#[test]
fn two_runs_stand_beside_each_other_with_what_changed() {
    let (before, mut now) = (throughput(100.0), throughput(125.0));
    now["load"]["tenants"] = json!(9);
    let text = beside(&now, &before);
    let line = text.lines().find(|line| line.starts_with("receipts/s")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["receipts/s", "100", "125", "+25.0", "%"]
    );
    assert!(text.contains("push → reply p95"), "{text}");
    assert!(text.contains("The loads differ: tenants.\n"), "{text}");
    assert!(!beside(&before, &before).contains("differ"));
}

#[test]
fn only_a_report_of_the_same_kind_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("before.json");
    std::fs::write(&file, throughput(1.0).to_string()).unwrap();
    assert_eq!(earlier(&file, "throughput").unwrap()["receipts_per_s"], 1.0);
    let failure = earlier(&file, "latency").unwrap_err();
    assert!(failure.why.contains("bench throughput"), "{failure}");
    assert!(failure.fix.contains("bench latency --json"), "{failure}");
    for wrong in ["{}", "[1]", "no json"] {
        std::fs::write(&file, wrong).unwrap();
        assert_eq!(earlier(&file, "latency").unwrap_err().exit, Exit::Usage);
    }
}
