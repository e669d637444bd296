//! `tillroll enqueue`: push documents as jobs, and wait for their PDFs if asked.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::options::PrintFlags;
use super::{Session, counted, parts, table};
use crate::client::{Answer, Client, Element, Name, Priority, Receipt, Reply, Status};
use crate::queue::QueueError;

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
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    delay: Option<String>,
    /// Wait for the replies
    #[arg(long)]
    wait: bool,
    /// How long to wait for all replies, like 60s
    #[arg(
        long,
        default_value = "60s",
        value_name = "DURATION",
        allow_hyphen_values = true,
        requires = "waits"
    )]
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
                failure.why += &format!(
                    " (before it, {} had been pushed)",
                    counted(pushed as u64, "document")
                );
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
    bad: Vec<Bad>,
}

/// A job that ended without a PDF.
struct Bad {
    /// Its name, how it ended and why.
    what: String,
    /// What its reply advises.
    remedy: String,
}

impl Bad {
    fn new(name: &Name, reply: &Reply) -> Self {
        let status = reply.status.as_str();
        let Some(error) = &reply.error else {
            return Self { what: format!("{name} is {status}"), remedy: String::new() };
        };
        let remedy = match error.retry_ms {
            Some(ms) => format!("{} (try again in {} s)", error.remedy, ms.div_ceil(1000)),
            None => error.remedy.clone(),
        };
        Self { what: format!("{name} is {status}: {} ({})", error.message, error.code), remedy }
    }
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
    for (at, job) in jobs.iter().enumerate() {
        // Of how many nothing is known if this one's wait or its PDF fails.
        let (ended, known) = match answer(client, &job.name, give_up).await {
            Ok(Some(answer)) => (results.take(args, client, job, answer).await, at + 1),
            Ok(None) => {
                results.silent.push(job.name.to_string());
                (Ok(()), at + 1)
            }
            Err(error) => (Err(unavailable("waiting for replies", &error)), at),
        };
        if let Err(mut failure) = ended {
            bar.finish_and_clear();
            results.silent.extend(jobs.iter().skip(known).map(|job| job.name.to_string()));
            results.show(session)?;
            for job in &results.silent {
                failure.why += &format!("\n{job}: pushed, no reply so far");
            }
            return Err(failure);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    results.tell(args, session, jobs.len())
}

/// A job's reply. A Redis that goes away is waited for until `give_up` too.
async fn answer(
    client: &Client,
    name: &Name,
    give_up: tokio::time::Instant,
) -> Result<Option<Answer>, QueueError> {
    let mut told = false;
    loop {
        match client.take_until(name, give_up).await {
            Err(error) if error.may_pass() && tokio::time::Instant::now() < give_up => {
                if !told {
                    told = true;
                    let why = crate::worker::chain(&error);
                    tracing::warn!(error = %why, "redis went away: the wait goes on until --timeout");
                }
                let next = tokio::time::Instant::now() + parts::REDIS_PAUSE;
                tokio::time::sleep_until(next.min(give_up)).await;
            }
            ended => return ended,
        }
    }
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
            self.bad.push(Bad::new(&job.name, &reply));
        } else if let Some(dir) = &args.out {
            let pdf = client.pdf(answer, &reply).await.map_err(failed)?.ok_or_else(|| {
                let why = format!("the PDF of {} has expired", job.name);
                Failure::new(Exit::Unavailable, "fetching a PDF", why, "raise output.ttl_ms")
            })?;
            files::write(&dir.join(format!("{}.pdf", job.name.id())), &pdf)?;
        }
        Ok(())
    }

    /// What is known, on stdout.
    fn show(&self, session: &Session) -> Result<(), Failure> {
        if session.json {
            let (replies, silent) = (&self.replies, &self.silent);
            return print(&format!("{}\n", json!({"v": 1, "replies": replies, "silent": silent})));
        }
        let headings = ["job", "status", "pages", "bytes", "queued ms", "rendered ms", "warnings"];
        print(&table(&headings, &self.rows))
    }

    fn tell(&self, args: &Args, session: &Session, count: usize) -> Result<(), Failure> {
        self.show(session)?;
        let no_reply =
            self.silent.iter().map(|job| format!("{job}: no reply within {}", args.timeout));
        // What all of them advise is said once.
        let same = self.bad.windows(2).all(|two| matches!(two, [a, b] if a.remedy == b.remedy));
        let bad = self.bad.iter().map(|bad| match (same, bad.remedy.as_str()) {
            (true, _) | (_, "") => bad.what.clone(),
            (false, remedy) => format!("{}; {remedy}", bad.what),
        });
        let why: Vec<String> = bad.chain(no_reply).collect();
        if why.is_empty() {
            return Ok(());
        }
        let (exit, fix) = match self.bad.first() {
            None => (
                Exit::Unavailable,
                "start a worker on this Redis and queue (tillroll status shows those that live), \
                 or wait longer with --timeout",
            ),
            Some(bad) if same => (Exit::Document, bad.remedy.as_str()),
            Some(_) => (Exit::Document, "for each job what stands behind its error"),
        };
        let what = format!("waiting for {}", counted(count as u64, "job"));
        Err(Failure::new(exit, what, why.join("\n"), fix))
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

fn unavailable(what: &str, error: &QueueError) -> Failure {
    Failure::of_redis(what, error)
}
