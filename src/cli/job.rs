//! `tillroll job`: what the queue knows about one job, without its content; stop
//! it; try it again.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::exit::{Exit, Failure, print};
use super::{Session, dead, parts};
use crate::client::{Client, Held, Name, Past, Record, Reply, State, Warning};
use crate::config::units::show_bytes_rounded;
use crate::queue::Cancelled;

/// A job that is being stopped is looked at after so long, even if nothing was heard.
const LOOK: Duration = Duration::from_secs(1);

/// What to do with a job.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show a job's record, its failed attempts, and where its reply and PDF are
    ///
    /// Nothing is taken, and no content is shown. Exit code 65 where the queue knows
    /// no job of this name.
    Show {
        /// The job: TENANT/ID, or ID for the tenant `default`
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Stop jobs: one that waits ends at once, one that runs is stopped by its worker
    ///
    /// Its producer gets a reply with the status `cancelled`. Exit code 65 where the
    /// queue knows no job of this name; one that had ended before is no failure.
    Cancel {
        /// The jobs: TENANT/ID, or ID for the tenant `default`
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Wait until they have ended
        #[arg(long)]
        wait: bool,
        /// How long to wait at most
        #[arg(
            long,
            default_value = "60s",
            value_name = "DURATION",
            allow_hyphen_values = true,
            requires = "wait"
        )]
        timeout: String,
    },
    /// Render dead letters once more; the same as `tillroll dead retry`
    Retry {
        /// The jobs: TENANT/ID, or ID for the tenant `default`
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, the name is none, or nothing is known of the job.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match &args.action {
        Action::Show { name } => show(session, &read_name(name)?),
        Action::Cancel { names, wait, timeout } => {
            let names: Result<Vec<Name>, Failure> =
                names.iter().map(|name| read_name(name)).collect();
            let timeout = parts::duration("--timeout", timeout)?;
            cancel(session, &names?, wait.then_some(timeout))
        }
        Action::Retry { names } => dead::retry_named(names, session),
    }
}

/// The name of a job as people write it.
///
/// # Errors
/// Where it is none.
pub(super) fn read_name(text: &str) -> Result<Name, Failure> {
    let full = if text.contains('/') { text.to_owned() } else { format!("default/{text}") };
    Name::parse(&full).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "reading the name",
            format!("{text:?} is no name of a job"),
            "write it as TENANT/ID, as `tillroll enqueue` prints it",
        )
    })
}

fn client(session: &Session) -> Result<Client, Failure> {
    let redis = session.redis()?;
    Client::new(redis, session.loaded.config.queue.name.as_str(), 1)
        .map_err(|error| parts::unavailable(&error))
}

fn show(session: &Session, name: &Name) -> Result<(), Failure> {
    let client = client(session)?;
    let seen = super::runtime()?.block_on(Seen::look(&client, name))?;
    print(&if session.json { format!("{}\n", seen.json()) } else { seen.text() })?;
    if seen.record.state == State::Unknown {
        return Err(unknown(&[name.to_string()]));
    }
    Ok(())
}

fn unknown(names: &[String]) -> Failure {
    Failure::new(
        Exit::Document,
        format!("looking for {}", names.join(", ")),
        "the queue knows no such job",
        "check name and --queue; it may still wait in an inbox for a worker, or its record \
         and reply may be over (retain_ms, reply_ttl_ms)",
    )
}

/// What became of one job that was to be cancelled.
struct Stopped {
    job: String,
    outcome: &'static str,
    worker: Option<String>,
    /// Its state, where it has ended.
    state: Option<String>,
}

impl Stopped {
    fn new(name: &Name, cancelled: Cancelled) -> Self {
        let (outcome, worker, state) = match cancelled {
            Cancelled::Ended => ("cancelled", None, Some("cancelled".to_owned())),
            Cancelled::Stopping { worker } => ("stopping", Some(worker), None),
            Cancelled::Before(state) => ("ended", None, Some(state)),
            Cancelled::Unknown => ("unknown", None, None),
        };
        Self { job: name.to_string(), outcome, worker, state }
    }

    fn json(&self) -> Value {
        json!({
            "job": self.job, "outcome": self.outcome, "worker": self.worker, "state": self.state,
        })
    }

    fn text(&self) -> String {
        let Self { job, outcome, worker, state } = self;
        let worker = worker.as_deref().unwrap_or("its worker");
        match (*outcome, state.as_deref()) {
            ("cancelled", _) => format!("{job}: was waiting, and has ended: cancelled\n"),
            ("stopping", None) => format!("{job}: runs on {worker} and is being stopped\n"),
            ("stopping", Some(state)) => {
                format!("{job}: ran on {worker}, and has ended: {state}\n")
            }
            (_, Some(state)) => format!("{job}: had ended before: {state}\n"),
            (_, None) => format!("{job}: the queue knows no such job\n"),
        }
    }
}

fn cancel(session: &Session, names: &[Name], wait: Option<Duration>) -> Result<(), Failure> {
    let client = client(session)?;
    let stopped = super::runtime()?.block_on(async {
        let queue = parts::queue(session, "job").await?;
        let unavailable = |error| parts::unavailable(&error);
        let before = client.newest_event().await.map_err(unavailable)?;
        let mut stopped = Vec::with_capacity(names.len());
        for name in names {
            let cancelled = queue.cancel(name).await.map_err(unavailable)?;
            stopped.push(Stopped::new(name, cancelled));
        }
        if let Some(wait) = wait {
            let give_up = Instant::now() + wait;
            for (name, one) in names.iter().zip(&mut stopped) {
                if one.outcome == "stopping" {
                    one.state = ended(&client, name, &before, give_up).await?;
                }
            }
        }
        Ok::<_, Failure>(stopped)
    })?;
    print(&if session.json {
        let jobs: Vec<Value> = stopped.iter().map(Stopped::json).collect();
        format!("{}\n", json!({"v": 1, "jobs": jobs}))
    } else {
        stopped.iter().map(Stopped::text).collect()
    })?;
    let those = |outcome: &str| {
        let those = stopped.iter().filter(|one| one.outcome == outcome && one.state.is_none());
        those.map(|one| one.job.clone()).collect::<Vec<_>>()
    };
    let (nowhere, running) = (those("unknown"), those("stopping"));
    if !nowhere.is_empty() {
        return Err(unknown(&nowhere));
    }
    if wait.is_some() && !running.is_empty() {
        return Err(Failure::new(
            Exit::Unavailable,
            "waiting for jobs to stop",
            format!("still running: {}", running.join(", ")),
            "`tillroll status` shows whether their worker lives; if it does not, another one ends \
             them once the lease is over",
        ));
    }
    Ok(())
}

/// Waits until a job has ended: its state then. Events after `after` are taken as
/// hints to look.
async fn ended(
    client: &Client,
    name: &Name,
    after: &str,
    give_up: Instant,
) -> Result<Option<String>, Failure> {
    let unavailable = |error| parts::unavailable(&error);
    let mut last = after.to_owned();
    loop {
        let state = client.status(name).await.map_err(unavailable)?.state;
        let living = matches!(state, State::Ready | State::Leased | State::Delayed);
        if !living {
            return Ok(Some(state.as_str().to_owned()));
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let events = client.events_after(&last, left.min(LOOK)).await.map_err(unavailable)?;
        last = events.into_iter().last().map_or(last, |event| event.id);
    }
}

/// What is known of a job.
pub(super) struct Seen {
    /// Its record.
    pub(super) record: Record,
    outcome: Option<Reply>,
    history: Vec<Past>,
}

impl Seen {
    /// Looks at it.
    ///
    /// # Errors
    /// Where Redis is away.
    pub(super) async fn look(client: &Client, name: &Name) -> Result<Self, Failure> {
        let unavailable = |error| parts::unavailable(&error);
        let record = client.status(name).await.map_err(unavailable)?;
        let outcome = client.outcome(name, &record).await.map_err(unavailable)?;
        let history = client.history(name).await.map_err(unavailable)?;
        Ok(Self { record, outcome, history })
    }

    /// One object.
    pub(super) fn json(&self) -> Value {
        let outcome = self.outcome.as_ref().map(|reply| {
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
        let mut object = json!(self.record);
        object["v"] = json!(1);
        object["outcome"] = json!(outcome);
        let history = self.history.iter().map(|past| {
            json!({
                "at_ms": past.at, "attempt": past.attempt, "worker": past.worker,
                "class": past.class, "code": past.code, "message": past.message,
                "remedy": past.remedy, "duration_ms": past.duration_ms,
                "memory_bytes": past.memory_bytes, "counted": past.counted,
                "warnings": past.warnings,
            })
        });
        object["history"] = history.collect();
        object
    }

    /// A line for each thing that is known.
    pub(super) fn text(&self) -> String {
        text_of(&self.record, self.outcome.as_ref(), &self.history)
    }
}

/// One line for each thing that is known.
fn text_of(record: &Record, outcome: Option<&Reply>, history: &[Past]) -> String {
    let mut lines =
        vec![("job".to_owned(), record.job.clone()), ("state".to_owned(), state(record))];
    let mut line = |label: &str, value: Option<String>| {
        lines.extend(value.map(|text| (label.to_owned(), text)));
    };
    line("priority", record.priority.clone());
    line("bytes", record.bytes.map(|bytes| bytes.to_string()));
    let most = record.max_attempts.map(|most| format!("{} of {most}", record.attempts));
    line("attempts", most);
    line("crashes", (record.crashes > 0).then(|| record.crashes.to_string()));
    line("last code", record.code.clone());
    line("admitted", record.admitted_ms.map(date));
    line("claimed", record.claimed_ms.map(date));
    line("ended", record.ended_ms.map(date));
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
    for past in history {
        line(&format!("attempt {}", past.attempt), Some(attempt(past)));
        for Warning { code, message, remedy } in &past.warnings {
            line("warning", Some(format!("{message} ({code}): {remedy}")));
        }
    }
    // Where the reply was taken, its history still knows what to do.
    if outcome.is_none_or(|reply| reply.error.is_none()) {
        line("remedy", history.last().map(|past| past.remedy.clone()));
    }
    let dead = record.state == State::Dead;
    let long = if dead { "as long as the dead letter" } else { "until the job has ended" };
    line("document", record.document.as_ref().map(|kept| held(kept, long)));
    line("reply", record.reply.as_ref().map(|kept| held(kept, long)));
    line("pdf", record.pdf.as_ref().map(|kept| held(kept, long)));
    line("record", record.record_ttl_ms.map(|ttl| format!("kept for {} s more", ttl / 1000)));
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    lines.iter().map(|(label, value)| format!("{label:width$}  {value}\n")).collect()
}

fn state(record: &Record) -> String {
    use State::{Cancelled, Dead, Done, Expired, Rejected};
    let end = matches!(record.state, Done | Dead | Expired | Cancelled | Rejected);
    let taken = if end && record.reply.is_none() && record.pdf.is_none() {
        " (its reply was taken, or its time is over)"
    } else {
        ""
    };
    format!("{}{taken}", record.state.as_str())
}

/// An attempt that failed, in one line.
fn attempt(past: &Past) -> String {
    let memory = past.memory_bytes.map(|bytes| format!(", {}", show_bytes_rounded(bytes)));
    format!(
        "{} ({}/{}); {}, after {} ms{} on {}{}",
        past.message,
        past.class,
        past.code,
        date(past.at),
        past.duration_ms,
        memory.unwrap_or_default(),
        past.worker,
        if past.counted { "" } else { "; not counted" }
    )
}

/// `long`: for how long, where its key does not say.
fn held(held: &Held, long: &str) -> String {
    let kept =
        held.ttl_ms.map_or_else(|| long.to_owned(), |ttl| format!("for {} s more", ttl / 1000));
    format!("{} ({} KB, {kept})", held.key, held.bytes.div_ceil(1024))
}

/// Milliseconds of Redis' clock as a date.
pub(super) fn date(ms: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{ms} ms"))
}
