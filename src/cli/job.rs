//! `tillroll job show`: what the queue knows about one job, without its content.

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Session;
use super::exit::{Exit, Failure, print};
use crate::client::{Client, Held, Name, Record, Reply, State};

/// What to do with a job.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show a job's record, its timings, and where its reply and PDF are
    ///
    /// Nothing is taken, and no content is shown. Exit code 65 where the queue knows
    /// no job of this name.
    Show {
        /// The job: TENANT/ID, or ID for the tenant `default`
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, the name is none, or nothing is known of the job.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let Action::Show { name: text } = &args.action;
    let full = if text.contains('/') { text.clone() } else { format!("default/{text}") };
    let name = Name::parse(&full).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "reading the name",
            format!("{text:?} is no name of a job"),
            "write it as TENANT/ID, as `tillroll enqueue` prints it",
        )
    })?;
    let redis = session.redis()?;
    let client = Client::new(redis, session.loaded.config.queue.name.as_str(), 1)
        .map_err(|error| unavailable(&error))?;
    let (record, outcome) = super::runtime()?.block_on(async {
        let record = client.status(&name).await.map_err(|error| unavailable(&error))?;
        let outcome = client.outcome(&name, &record).await.map_err(|error| unavailable(&error))?;
        Ok::<_, Failure>((record, outcome))
    })?;
    print(&if session.json {
        let outcome = outcome.as_ref().map(|reply| {
            json!({
                "status": reply.status, "pages": reply.pages, "bytes": reply.bytes,
                "timings": reply.timings,
                "warnings": reply.warnings.iter().map(|warning| &warning.code).collect::<Vec<_>>(),
                "error": reply.error.as_ref().map(|error| json!({
                    "class": error.class, "code": error.code,
                    "message": error.message, "remedy": error.remedy,
                })),
            })
        });
        let mut object = json!(record);
        object["v"] = json!(1);
        object["outcome"] = json!(outcome);
        format!("{object}\n")
    } else {
        text_of(&record, outcome.as_ref())
    })?;
    if record.state == State::Unknown {
        return Err(Failure::new(
            Exit::Document,
            format!("looking for {name}"),
            "the queue knows no such job",
            "check name and --queue; it may still wait in an inbox for a worker, or its record \
             and reply may be over (retain_ms, reply_ttl_ms)",
        ));
    }
    Ok(())
}

fn unavailable(error: &crate::queue::QueueError) -> Failure {
    Failure::of_redis("asking Redis", error)
}

/// One line for each thing that is known.
fn text_of(record: &Record, outcome: Option<&Reply>) -> String {
    let mut lines = vec![("job", record.job.clone()), ("state", state(record))];
    let mut line = |label, value: Option<String>| lines.extend(value.map(|text| (label, text)));
    line("priority", record.priority.clone());
    line("bytes", record.bytes.map(|bytes| bytes.to_string()));
    let most = record.max_attempts.map(|most| format!("{} of {most}", record.attempts));
    line("attempts", most);
    line("crashes", (record.crashes > 0).then(|| record.crashes.to_string()));
    line("admitted", record.admitted_ms.map(date));
    line("claimed", record.claimed_ms.map(date));
    line("deadline", record.deadline_ms.map(date));
    line("due", record.due_ms.map(date));
    line("worker", record.worker.clone());
    line("lease until", record.lease_until_ms.map(date));
    if let Some(reply) = outcome {
        let timings = reply.timings;
        line("pages", Some(reply.pages.to_string()));
        line(
            "timings",
            Some(format!(
                "queued {} ms, rendered {} ms, total {} ms",
                timings.queued_ms, timings.rendered_ms, timings.total_ms
            )),
        );
        line("warnings", Some(reply.warnings.len().to_string()));
        if let Some(error) = &reply.error {
            line("error", Some(format!("{} ({}/{})", error.message, error.class, error.code)));
            line("remedy", Some(error.remedy.clone()));
        }
    }
    line("document", record.document.as_ref().map(held));
    line("reply", record.reply.as_ref().map(held));
    line("pdf", record.pdf.as_ref().map(held));
    line("record", record.record_ttl_ms.map(|ttl| format!("kept for {} s more", ttl / 1000)));
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    lines.iter().map(|(label, value)| format!("{label:width$}  {value}\n")).collect()
}

fn state(record: &Record) -> String {
    let end = matches!(record.state, State::Done | State::Dead | State::Expired | State::Rejected);
    let taken = if end && record.reply.is_none() && record.pdf.is_none() {
        " (its reply was taken, or its time is over)"
    } else {
        ""
    };
    format!("{}{taken}", record.state.as_str())
}

fn held(held: &Held) -> String {
    let kept = held.ttl_ms.map_or_else(
        || "until the job has ended".to_owned(),
        |ttl| format!("for {} s more", ttl / 1000),
    );
    format!("{} ({} KB, {kept})", held.key, held.bytes.div_ceil(1024))
}

/// Milliseconds of Redis' clock as a date.
pub(super) fn date(ms: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{ms} ms"))
}
