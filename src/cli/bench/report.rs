//! What a run says: one JSON object, and the same for people, alone or beside an
//! earlier one. Pure.

use std::path::Path;

use serde_json::{Value, json};

use super::documents::Jobs;
use super::figures::{Figures, Times, fell_behind};
use super::guard::Ground;
use super::load::{Arrived, End, millis};
use super::options::{Common, Latency, Throughput, Until};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{counted, table};
use crate::config::units::{show_bytes_rounded, show_duration};

/// A sender that is later than this tells its own times, not the workers'.
const LATE_MS: f64 = 20.0;
const PERCENTILES: [&str; 5] = ["p50", "p90", "p95", "p99", "max"];

/// What both kinds of run know at their end.
pub(super) struct Run<'a> {
    pub(super) queue: &'a str,
    pub(super) common: &'a Common,
    pub(super) priority: &'a str,
    pub(super) bound: usize,
    pub(super) jobs: &'a Jobs,
    pub(super) pushed: u64,
    pub(super) figures: &'a Figures,
    pub(super) ground: &'a Ground,
    pub(super) end: &'a End,
}

impl Run<'_> {
    fn json(&self, kind: &str) -> Value {
        let mut object = self.figures.json();
        object["v"] = json!(1);
        object["bench"] = json!(kind);
        object["queue"] = json!(self.queue);
        object["run"] = json!(self.jobs.run());
        object["stopped"] = json!(self.end.code());
        object["pushed"] = json!(self.pushed);
        object["workers"] = self.ground.json();
        object["notes"] = json!(self.ground.notes);
        object["load"] = json!({
            "documents": self.jobs.json(),
            "tenants": self.common.tenants,
            "tenant_prefix": self.common.tenant_prefix,
            "priority": self.priority,
            "in_flight": self.bound,
            "warm_up": self.common.warm_up,
        });
        object
    }

    /// As fast as it went.
    pub(super) fn throughput(&self, given: &Throughput) -> Value {
        let mut object = self.json("throughput");
        let (jobs, length) = match given.until() {
            Until::Jobs(jobs) => (Some(jobs), None),
            Until::After(length) => (None, Some(millis(length))),
        };
        object["load"]["jobs"] = json!(jobs);
        object["load"]["duration_ms"] = json!(length);
        object["receipts_per_s_middle"] = json!(self.figures.middle_rate());
        object["push_to_reply_ms"] = self.figures.took.json();
        object
    }

    /// At a rate.
    pub(super) fn latency(&self, given: &Latency, arrived: Arrived) -> Value {
        let sent = arrived.scheduled - arrived.not_sent;
        let behind = fell_behind(sent, arrived.flying, self.ground.slots());
        let mut object = self.json("latency");
        object["load"]["rate_per_s"] = json!(given.rate);
        object["load"]["duration_ms"] = json!(millis(given.duration));
        object["load"]["arrivals"] = json!(given.arrivals);
        object["carried"] = json!(arrived.not_sent == 0 && !behind);
        object["arrivals"] = json!({
            "scheduled": arrived.scheduled,
            "sent": sent,
            "not_sent": arrived.not_sent,
            "under_way_at_end": arrived.flying,
        });
        object["latency_ms"] = self.figures.took.json();
        object["sender_lag_ms"] = self.figures.lag.json();
        if let (Some(note), Value::Array(notes)) = (late(&self.figures.lag), &mut object["notes"]) {
            notes.push(Value::from(note));
        }
        object
    }
}

/// What is to be known of a sender that did not keep its own schedule.
fn late(lag: &Times) -> Option<String> {
    let worst = lag.ms(0.99).filter(|ms| *ms >= LATE_MS)?;
    Some(format!(
        "one of a hundred jobs was pushed {worst} ms late or more: this machine was too busy to \
         keep the schedule, and the times have that in them; run it on another one"
    ))
}

/// A number as people read it; `-` where there is none.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(number) => format!("{number}"),
        None => "-".to_owned(),
    }
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn list<'a>(value: &'a Value, show: impl Fn(&'a Value) -> String) -> String {
    let items: Vec<String> = value.as_array().into_iter().flatten().map(show).collect();
    items.join(", ")
}

/// The object, for people.
pub(super) fn text(report: &Value) -> String {
    let load = &report["load"];
    let latency = report["bench"] == "latency";
    let mut text = format!(
        "{} of queue {}, run {}\n\n",
        report["bench"].as_str().unwrap_or_default(),
        report["queue"].as_str().unwrap_or_default(),
        report["run"].as_str().unwrap_or_default()
    );
    text += &facts(report, latency);
    text.push('\n');
    let first = if latency { "arrival → reply" } else { "push → reply" };
    let key = if latency { "latency_ms" } else { "push_to_reply_ms" };
    let mut rows = vec![(first, key), ("queued", "queued_ms"), ("rendered", "rendered_ms")];
    if latency {
        rows.push(("sent late by", "sender_lag_ms"));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, key)| {
            let times = PERCENTILES.map(|percentile| number(&report[key][percentile]));
            std::iter::once(name.to_owned()).chain(times).collect()
        })
        .collect();
    let headings: Vec<&str> = std::iter::once("ms").chain(PERCENTILES).collect();
    text += &table(&headings, &rows);
    let failures = report["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !failures.is_empty() {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows: Vec<Vec<String>> = failures
            .iter()
            .map(|kind| {
                let count = whole(&kind["count"]).to_string();
                vec![word(&kind["status"]), word(&kind["code"]), count, word(&kind["remedy"])]
            })
            .collect();
        text += &format!("\n{}", table(&["failed", "code", "jobs", "remedy"], &rows));
    }
    if latency && report["carried"] == false {
        text += &overload(report, load);
    }
    for note in report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text += &format!("\nnote: {note}\n");
    }
    text
}

/// The lines before the tables.
fn facts(report: &Value, latency: bool) -> String {
    let load = &report["load"];
    let documents = list(&load["documents"], |document| {
        let times = match whole(&document["weight"]) {
            0 | 1 => String::new(),
            weight => format!(" × {weight}"),
        };
        let bytes = show_bytes_rounded(whole(&document["bytes"]));
        format!("{} ({bytes}){times}", document["document"].as_str().unwrap_or_default())
    });
    let workers = list(&report["workers"], |worker| {
        let gone = if worker["alive"] == true { "" } else { ", gone at the end" };
        let id = worker["id"].as_str().unwrap_or_default();
        format!("{id} ({} at once{gone})", whole(&worker["slots"]))
    });
    let what = if latency {
        let length = std::time::Duration::from_millis(whole(&load["duration_ms"]));
        format!(
            "{}/s for {}, {} arrivals",
            number(&load["rate_per_s"]),
            show_duration(length),
            load["arrivals"].as_str().unwrap_or_default()
        )
    } else {
        "as fast as replies come".to_owned()
    };
    let mut rows = vec![
        (
            "load",
            format!(
                "{what}; {}, {}, at most {} under way",
                counted(whole(&load["tenants"]), "tenant"),
                load["priority"].as_str().unwrap_or_default(),
                whole(&load["in_flight"])
            ),
        ),
        ("documents", documents),
        ("workers", workers),
    ];
    if latency {
        let arrivals = &report["arrivals"];
        rows.push((
            "arrivals",
            format!("{}, {} not sent", whole(&arrivals["scheduled"]), whole(&arrivals["not_sent"])),
        ));
    } else {
        rows.push(("receipts/s", number(&report["receipts_per_s"])));
        rows.push(("middle 80 %", number(&report["receipts_per_s_middle"])));
    }
    let back = match whole(&report["taken_back"]) {
        0 => String::new(),
        back => format!(", {back} taken back"),
    };
    rows.push((
        "done",
        format!(
            "{} of {} in {} s, {} failed{back}",
            whole(&report["done"]),
            whole(&report["pushed"]),
            number(&report["seconds"]),
            whole(&report["failed"])
        ),
    ));
    rows.push((
        "bytes",
        format!(
            "{} pushed, {} in PDFs of {}",
            show_bytes_rounded(whole(&report["pushed_bytes"])),
            show_bytes_rounded(whole(&report["pdf_bytes"])),
            counted(whole(&report["pages"]), "page")
        ),
    ));
    if let Some(why) = report["stopped"].as_str() {
        rows.push(("stopped", format!("before its end: {why}")));
    }
    rows.into_iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

fn overload(report: &Value, load: &Value) -> String {
    let arrivals = &report["arrivals"];
    let why = match whole(&arrivals["not_sent"]) {
        0 => format!(
            "{} of {} jobs had not come back when the last one arrived",
            whole(&arrivals["under_way_at_end"]),
            whole(&arrivals["sent"])
        ),
        not_sent => {
            let bound = whole(&load["in_flight"]);
            let were = if bound == 1 { "was" } else { "were" };
            let failures = report["failures"].as_array().into_iter().flatten();
            let rejected = failures.filter(|kind| kind["status"] == "rejected").count() > 0;
            format!(
                "{not_sent} of {} arrivals were not sent, since {} {were} under way{}; the times \
                 above are without them",
                whole(&arrivals["scheduled"]),
                counted(bound, "job"),
                if rejected { ", or a rejection asked to wait" } else { "" },
            )
        }
    };
    format!(
        "\nThe workers cannot carry this rate: {why}.\n  fix: add workers or cores, lower --rate, or \
         see what they can do with `tillroll bench throughput`\n"
    )
}

/// What two runs of one kind are compared by.
fn compared(kind: &str) -> Vec<(&'static str, &'static str)> {
    let mut rows = match kind {
        "throughput" => vec![
            ("receipts/s", "/receipts_per_s"),
            ("middle 80 %", "/receipts_per_s_middle"),
            ("push → reply p50", "/push_to_reply_ms/p50"),
            ("push → reply p95", "/push_to_reply_ms/p95"),
            ("push → reply p99", "/push_to_reply_ms/p99"),
        ],
        _ => vec![
            ("not sent", "/arrivals/not_sent"),
            ("arrival → reply p50", "/latency_ms/p50"),
            ("arrival → reply p95", "/latency_ms/p95"),
            ("arrival → reply p99", "/latency_ms/p99"),
            ("arrival → reply max", "/latency_ms/max"),
        ],
    };
    rows.extend([
        ("queued p50", "/queued_ms/p50"),
        ("rendered p50", "/rendered_ms/p50"),
        ("failed", "/failed"),
    ]);
    rows
}

/// An earlier report, from its file.
///
/// # Errors
/// Where it is none, or of the other kind.
pub(super) fn earlier(file: &Path, kind: &str) -> Result<Value, Failure> {
    let failed = |why: String| {
        let fix = format!("give a file with what `tillroll bench {kind} --json` printed");
        Failure::new(Exit::Usage, format!("reading {}", file.display()), why, fix)
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    let report: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    match (report["v"].as_u64(), report["bench"].as_str()) {
        (Some(1), Some(of)) if of == kind => Ok(report),
        (Some(1), Some(of)) => Err(failed(format!("it is a run of `bench {of}`"))),
        _ => Err(failed("it is no report of a run".to_owned())),
    }
}

/// This run beside an earlier one.
pub(super) fn beside(now: &Value, before: &Value) -> String {
    let kind = now["bench"].as_str().unwrap_or_default();
    let rows: Vec<Vec<String>> = compared(kind)
        .into_iter()
        .map(|(name, pointer)| {
            let of = |report: &Value| report.pointer(pointer).cloned().unwrap_or_default();
            let (now, before) = (of(now), of(before));
            vec![name.to_owned(), number(&before), number(&now), change(&before, &now)]
        })
        .collect();
    let mut text = format!(
        "\nbeside run {}:\n{}",
        before["run"].as_str().unwrap_or("of another time"),
        table(&["", "before", "now", "change"], &rows)
    );
    let fields = now["load"].as_object().into_iter().flatten();
    let others: Vec<&str> = fields
        .filter(|(name, value)| before["load"].get(name.as_str()) != Some(value))
        .map(|(name, _)| name.as_str())
        .collect();
    if !others.is_empty() {
        text += &format!("The loads differ: {}.\n", others.join(", "));
    }
    text
}

fn change(before: &Value, now: &Value) -> String {
    match (before.as_f64(), now.as_f64()) {
        (Some(before), Some(now)) if before != 0.0 => {
            format!("{:+.1} %", (now / before - 1.0) * 100.0)
        }
        (Some(before), Some(now)) if before == now => "+0.0 %".to_owned(),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
