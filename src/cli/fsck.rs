//! `tillroll queue fsck`: finds what something else broke in the queue, and mends it.

use serde_json::{Value, json};

use super::exit::{Exit, Failure, print};
use super::{Session, counted, parts, table};
use crate::queue::{Counters, FsckReport};

/// Examples of a finding on a terminal.
const SHOWN: usize = 3;

/// What to do about what is found.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Mend what can be mended; without it nothing is changed
    #[arg(long)]
    repair: bool,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, or something is broken and was not mended.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let report = super::runtime()?.block_on(async {
        let queue = parts::queue(session, "fsck").await?;
        queue.fsck(args.repair).await.map_err(|error| parts::unavailable(&error))
    })?;
    let name = session.loaded.config.queue.name.as_str();
    print(&if session.json {
        format!("{}\n", object(name, &report))
    } else {
        text(name, &report)
    })?;
    let left = report.unmended();
    if left == 0 {
        return Ok(());
    }
    let fix = if args.repair {
        "see the remedies above; what was mended stays mended"
    } else {
        "run `tillroll queue fsck --repair`; it is safe while the queue is in use"
    };
    let why = format!("{left} thing{} broken", if left == 1 { " is" } else { "s are" });
    Err(Failure::new(Exit::Unexpected, format!("checking the queue {name}"), why, fix))
}

fn object(name: &str, report: &FsckReport) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|(kind, finding)| {
            json!({
                "code": kind.as_str(), "what": kind.what(), "remedy": kind.remedy(),
                "found": finding.found, "mended": finding.mended, "examples": finding.examples,
            })
        })
        .collect();
    json!({
        "v": 1, "queue": name, "repair": report.repair, "jobs": report.jobs,
        "tenants": report.tenants, "counters": report.counters.as_str(), "findings": findings,
    })
}

fn text(name: &str, report: &FsckReport) -> String {
    let mut text = format!(
        "queue {name}: {}, {}",
        counted(report.jobs, "job"),
        counted(report.tenants, "tenant")
    );
    if report.is_clean() {
        text.push_str(": nothing is broken\n");
    } else {
        text.push_str("\n\n");
        let rows: Vec<Vec<String>> = report
            .findings
            .iter()
            .map(|(kind, finding)| {
                let shown = finding.examples.len().min(SHOWN);
                let more = if finding.found > shown as u64 { ", …" } else { "" };
                let counted = [finding.found, finding.mended].map(|number| number.to_string());
                let [found, mended] = counted;
                let examples = format!("{}{more}", finding.examples[..shown].join(", "));
                vec![kind.as_str().to_owned(), found, mended, examples]
            })
            .collect();
        text.push_str(&table(&["damage", "found", "mended", "where"], &rows));
        text.push('\n');
        for kind in report.findings.keys() {
            text.push_str(&format!("{}: {}.\n  {}.\n", kind.as_str(), kind.what(), kind.remedy()));
        }
    }
    match report.counters {
        Counters::Compared => {}
        Counters::Busy => text.push_str(
            "\nThe counters could not be compared: too much happened meanwhile. Pause the queue \
             (`tillroll queue pause`) and run this again when no job runs and nothing is pushed.\n",
        ),
        Counters::Unseen => {
            text.push_str("\nNothing else was looked at: keys of a wrong type stand in the way.\n")
        }
    }
    text
}
