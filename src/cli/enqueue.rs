//! `tillroll enqueue`: push documents as jobs, and wait for their PDFs if asked.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::options::PrintFlags;
use super::{Session, parts, table};
use crate::client::{Answer, Client, Element, Name, Priority, Receipt, Status};

/// So many bytes of documents are read before they are pushed.
const MOST_IN_HAND: usize = 64 * 1024 * 1024;

/// Pushes receipts to the queue.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("waits").args(["wait", "out"]).multiple(true))]
pub struct Args {
    /// HTML files, or directories of .html files; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose jobs: isolation and fairness follow it
    #[arg(long, default_value = "default", value_name = "TENANT")]
    tenant: String,
    /// Which inbox: interactive, or bulk for what nobody waits for
    #[arg(long, default_value = "interactive", value_parser = ["interactive", "bulk"], value_name = "PRIORITY")]
    priority: String,
    /// The job's id, for one file only: pushing the same id and document again is the same job
    /// [default: the file's name and a random part]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Start no sooner than this after admission, like 10s
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// Wait for the replies
    #[arg(long)]
    wait: bool,
    /// How long to wait for all replies, like 60s
    #[arg(long, default_value = "60s", value_name = "DURATION", requires = "waits")]
    timeout: String,
    /// Write the PDFs here, as ID.pdf; implies --wait
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    print: PrintFlags,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, a document is refused or dead, or a PDF cannot be written.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let redis = session.redis()?;
    let delay = args.delay.as_deref().map(|text| parts::duration("--delay", text)).transpose()?;
    let timeout = parts::duration("--timeout", &args.timeout)?;
    let inputs = Input::all(&args.files)?;
    if args.id.is_some() && inputs.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "reading --id",
            format!("one id cannot name {} documents", inputs.len()),
            "leave --id out, or push one file at a time",
        ));
    }
    if let Some(dir) = &args.out {
        files::make_dir(dir)?;
    }
    let options = args.print.object()?;
    let client = Client::new(redis, session.loaded.config.queue.name.as_str(), 4)
        .map_err(|error| unavailable("reading the Redis URL", &error))?;
    super::runtime()?.block_on(async {
        let jobs = push(args, &client, &inputs, delay, &options).await?;
        if args.wait || args.out.is_some() {
            wait(args, session, &client, &jobs, timeout).await
        } else {
            report(session, &jobs)
        }
    })
}

/// A job that was pushed.
struct Job {
    name: Name,
    file: String,
}

/// Pushes every document. All are read and checked before the first is pushed,
/// unless they are more than fit into memory comfortably.
async fn push(
    args: &Args,
    client: &Client,
    inputs: &[Input],
    delay: Option<Duration>,
    options: &Map<String, Value>,
) -> Result<Vec<Job>, Failure> {
    let mut jobs = Vec::with_capacity(inputs.len());
    let mut waiting: Vec<Element> = Vec::new();
    let mut bytes = 0;
    for input in inputs {
        let element = element(args, input, delay, options).map_err(|mut failure| {
            let pushed = jobs.len() - waiting.len();
            if pushed > 0 {
                failure.why += &format!(" (the {pushed} documents before it were pushed)");
            }
            failure
        })?;
        bytes += element.bytes().len();
        jobs.push(Job { name: element.name().clone(), file: input.shown() });
        waiting.push(element);
        if bytes >= MOST_IN_HAND {
            send(client, &waiting).await?;
            waiting.clear();
            bytes = 0;
        }
    }
    send(client, &waiting).await?;
    Ok(jobs)
}

async fn send(client: &Client, elements: &[Element]) -> Result<(), Failure> {
    client.send_many(elements).await.map_err(|error| unavailable("pushing to Redis", &error))
}

/// The element of one document.
fn element(
    args: &Args,
    input: &Input,
    delay: Option<Duration>,
    options: &Map<String, Value>,
) -> Result<Element, Failure> {
    let id = args.id.clone().unwrap_or_else(|| made_id(&input.stem()));
    let mut receipt = Receipt::new(input.read()?)
        .tenant(&args.tenant)
        .id(id)
        .priority(Priority::from_name(&args.priority).unwrap_or(Priority::Interactive))
        .options(options.clone());
    if let Some(delay) = delay {
        receipt = receipt.delay(delay);
    }
    receipt.element().map_err(|problem| {
        let exit = match problem.code {
            "invalid_field" | "unknown_field" | "missing_field" | "conflicting_fields" => {
                Exit::Usage
            }
            _ => Exit::Document,
        };
        Failure::new(exit, format!("enqueueing {}", input.shown()), problem.message, problem.remedy)
    })
}

/// The file's name, made fit for an id, and a random part.
fn made_id(stem: &str) -> String {
    let fit: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(100)
        .collect();
    format!("{fit}-{:08x}", rand::random::<u32>())
}

fn report(session: &Session, jobs: &[Job]) -> Result<(), Failure> {
    if session.json {
        let jobs: Vec<Value> =
            jobs.iter().map(|p| json!({"job": p.name.to_string(), "file": p.file})).collect();
        return print(&format!("{}\n", json!({"v": 1, "pushed": jobs })));
    }
    print(&jobs.iter().map(|p| format!("{}  {}\n", p.name, p.file)).collect::<String>())
}

/// What came of the jobs that were waited for.
#[derive(Default)]
struct Results {
    rows: Vec<Vec<String>>,
    replies: Vec<Value>,
    silent: Vec<String>,
    bad: Vec<String>,
}

/// Waits for every reply; says which jobs had none, or a bad one.
async fn wait(
    args: &Args,
    session: &Session,
    client: &Client,
    jobs: &[Job],
    timeout: Duration,
) -> Result<(), Failure> {
    let give_up = tokio::time::Instant::now() + timeout;
    let bar = progress(jobs.len());
    let mut results = Results::default();
    for job in jobs {
        let answer = client
            .take_until(&job.name, give_up)
            .await
            .map_err(|error| unavailable("waiting for replies", &error))?;
        match answer {
            Some(answer) => results.take(args, client, job, answer).await?,
            None => results.silent.push(job.name.to_string()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    results.tell(args, session, jobs.len())
}

impl Results {
    async fn take(
        &mut self,
        args: &Args,
        client: &Client,
        job: &Job,
        answer: Answer,
    ) -> Result<(), Failure> {
        let failed = |error| unavailable("reading a reply", &error);
        let reply = answer.reply().map_err(failed)?;
        // As it came, so that nothing that a newer worker says is lost.
        self.replies.push(serde_json::from_str(&answer.line).unwrap_or_default());
        self.rows.push(vec![
            job.name.to_string(),
            reply.status.as_str().to_owned(),
            reply.pages.to_string(),
            reply.bytes.to_string(),
            reply.timings.queued_ms.to_string(),
            reply.timings.rendered_ms.to_string(),
            reply.warnings.len().to_string(),
        ]);
        for warning in &reply.warnings {
            tracing::warn!(job = %job.name, code = warning.code, remedy = warning.remedy, "{}", warning.message);
        }
        if reply.status != Status::Done {
            let (code, message, remedy) = reply.error.as_ref().map_or(("?", "?", "?"), |error| {
                (error.code.as_str(), error.message.as_str(), error.remedy.as_str())
            });
            let status = reply.status.as_str();
            self.bad.push(format!("{} is {status}: {message} ({code}); {remedy}", job.name));
        } else if let Some(dir) = &args.out {
            let pdf = client.pdf(answer, &reply).await.map_err(failed)?.ok_or_else(|| {
                let why = format!("the PDF of {} has expired", job.name);
                Failure::new(Exit::Unavailable, "fetching a PDF", why, "raise output.ttl_ms")
            })?;
            files::write(&dir.join(format!("{}.pdf", job.name.id())), &pdf)?;
        }
        Ok(())
    }

    fn tell(self, args: &Args, session: &Session, count: usize) -> Result<(), Failure> {
        if session.json {
            let (replies, silent) = (&self.replies, &self.silent);
            print(&format!("{}\n", json!({"v": 1, "replies": replies, "silent": silent})))?;
        } else {
            let headings =
                ["job", "status", "pages", "bytes", "queued ms", "rendered ms", "warnings"];
            print(&table(&headings, &self.rows))?;
        }
        let no_reply =
            self.silent.iter().map(|job| format!("{job}: no reply within {}", args.timeout));
        let only_silent = self.bad.is_empty();
        let why: Vec<String> = self.bad.iter().cloned().chain(no_reply).collect();
        if why.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            if only_silent { Exit::Unavailable } else { Exit::Document },
            format!("waiting for {count} job{}", if count == 1 { "" } else { "s" }),
            why.join("\n"),
            if only_silent {
                "start a worker on this Redis and queue (tillroll status shows those that live), \
                 or wait longer with --timeout"
            } else {
                "mend the document or its options and push it again"
            },
        ))
    }
}

/// On a terminal only.
fn progress(count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("waiting {bar:32} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(count as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.tick();
    bar
}

fn unavailable(what: &str, error: &crate::queue::QueueError) -> Failure {
    Failure::of_redis(what, error)
}
