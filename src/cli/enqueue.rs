//! `tillroll enqueue`: push documents as jobs, and wait for their PDFs if asked.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::options::PrintFlags;
use super::{Session, table};
use crate::job::{MAX_ELEMENT_BYTES, Name, Priority};
use crate::queue::{Answer, Client};

/// Pushes receipts to the queue.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// HTML files; - is stdin
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
    #[arg(long, default_value = "60s", value_name = "DURATION", requires = "wait")]
    timeout: String,
    /// Write the PDFs here, as ID.pdf; implies --wait
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    print: PrintFlags,
}

struct Pushed {
    name: Name,
    file: String,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, a document is refused or dead, or a PDF cannot be written.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let url = session.redis_url()?;
    let duration = |flag: &str, text: &str| {
        crate::config::units::parse_duration(text).map_err(|why| {
            Failure::new(Exit::Usage, format!("reading {flag}"), why, "write it like 10s or 5m")
        })
    };
    let delay = args.delay.as_deref().map(|text| duration("--delay", text)).transpose()?;
    let timeout = duration("--timeout", &args.timeout)?;
    if args.id.is_some() && args.files.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "reading --id",
            format!("one id cannot name {} documents", args.files.len()),
            "leave --id out, or push one file at a time",
        ));
    }
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).map_err(|error| {
            Failure::new(
                Exit::Unexpected,
                format!("making {}", dir.display()),
                error,
                "choose a directory that you may write to",
            )
        })?;
    }
    let options = args.print.object()?;
    let priority = Priority::from_name(&args.priority).unwrap_or(Priority::Interactive);
    let mut jobs = Vec::with_capacity(args.files.len());
    for path in &args.files {
        jobs.push(element(args, &Input::new(path), delay, &options)?);
    }
    let client = Client::new(url.expose(), session.loaded.config.queue.name.as_str(), 4)
        .map_err(|error| unavailable("reading the Redis URL", &error))?;
    super::runtime()?.block_on(async {
        for (_, element) in &jobs {
            client
                .push(priority, element)
                .await
                .map_err(|error| unavailable("pushing to Redis", &error))?;
        }
        let pushed: Vec<Pushed> = jobs.into_iter().map(|(pushed, _)| pushed).collect();
        if args.wait || args.out.is_some() {
            wait(args, session, &client, &pushed, timeout).await
        } else {
            report(session, &pushed)
        }
    })
}

/// The element of one document: header line, document.
fn element(
    args: &Args,
    input: &Input,
    delay: Option<Duration>,
    options: &Map<String, Value>,
) -> Result<(Pushed, Vec<u8>), Failure> {
    let html = input.read()?;
    let id = args.id.clone().unwrap_or_else(|| made_id(&input.stem()));
    let name = Name::parse(&format!("{}/{id}", args.tenant)).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "naming the job",
            format!("tenant {:?} or id {id:?} is not allowed", args.tenant),
            "use 1 to 64 (tenant) or 128 (id) characters of A-Z a-z 0-9 . _ : -",
        )
    })?;
    let mut header = Map::new();
    header.insert("id".to_owned(), json!(name.id()));
    header.insert("tenant".to_owned(), json!(name.tenant()));
    if let Some(delay) = delay {
        header.insert(
            "delay_ms".to_owned(),
            json!(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        );
    }
    if !options.is_empty() {
        header.insert("options".to_owned(), Value::Object(options.clone()));
    }
    let mut element = Value::Object(header).to_string().into_bytes();
    element.push(b'\n');
    element.extend_from_slice(html.as_bytes());
    if element.len() > MAX_ELEMENT_BYTES {
        return Err(Failure::new(
            Exit::Document,
            format!("enqueueing {}", input.shown()),
            format!("header and document together are larger than {MAX_ELEMENT_BYTES} bytes"),
            "shrink inline images, or split the document",
        ));
    }
    Ok((Pushed { name, file: input.shown() }, element))
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

fn report(session: &Session, pushed: &[Pushed]) -> Result<(), Failure> {
    if session.json {
        let jobs: Vec<Value> =
            pushed.iter().map(|p| json!({"job": p.name.to_string(), "file": p.file})).collect();
        return print(&format!("{}\n", json!({ "pushed": jobs })));
    }
    print(&pushed.iter().map(|p| format!("{}  {}\n", p.name, p.file)).collect::<String>())
}

/// Waits for every reply; says which jobs had none, or a bad one.
async fn wait(
    args: &Args,
    session: &Session,
    client: &Client,
    pushed: &[Pushed],
    timeout: Duration,
) -> Result<(), Failure> {
    let give_up = tokio::time::Instant::now() + timeout;
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    for job in pushed {
        let left = give_up
            .saturating_duration_since(tokio::time::Instant::now())
            .max(Duration::from_millis(1));
        let answer = client
            .take(&job.name, left)
            .await
            .map_err(|error| unavailable("waiting for replies", &error))?;
        let Some(answer) = answer else {
            bad.push(format!("{}: no reply within {}", job.name, args.timeout));
            continue;
        };
        let reply: Value = serde_json::from_str(&answer.line).unwrap_or_default();
        if reply["status"] == "done" {
            if let Some(dir) = &args.out {
                files::write(
                    &dir.join(format!("{}.pdf", job.name.id())),
                    &pdf_of(client, &reply, answer).await?,
                )?;
            }
        } else {
            let text = |field: &str| reply["error"][field].as_str().unwrap_or("?").to_owned();
            bad.push(format!(
                "{} is {}: {} ({}); {}",
                job.name,
                reply["status"].as_str().unwrap_or("unknown"),
                text("message"),
                text("code"),
                text("remedy")
            ));
        }
        rows.push(reply);
    }
    if session.json {
        print(&format!("{}\n", json!({ "replies": rows })))?;
    } else {
        print(&table(
            &["job", "status", "pages", "bytes", "queued ms", "rendered ms"],
            &rows_of(&rows),
        ))?;
    }
    if bad.is_empty() {
        return Ok(());
    }
    let silent = bad.iter().all(|line| line.contains("no reply within"));
    Err(Failure::new(
        if silent { Exit::Unavailable } else { Exit::Document },
        format!("waiting for {} jobs", pushed.len()),
        bad.join("\n"),
        if silent {
            "start a worker on this Redis and queue (tillroll status shows those that live)"
        } else {
            "mend the document or its options and push it again"
        },
    ))
}

async fn pdf_of(client: &Client, reply: &Value, answer: Answer) -> Result<Vec<u8>, Failure> {
    let Some(key) = reply["output"]["key"].as_str() else { return Ok(answer.body) };
    let pdf = client.stored(key).await.map_err(|error| unavailable("fetching a PDF", &error))?;
    pdf.ok_or_else(|| {
        Failure::new(
            Exit::Unavailable,
            "fetching a PDF",
            format!("{key} has expired"),
            "raise output.ttl_ms",
        )
    })
}

fn rows_of(replies: &[Value]) -> Vec<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    replies
        .iter()
        .map(|reply| {
            vec![
                format!("{}/{}", text(&reply["tenant"]), text(&reply["id"])),
                text(&reply["status"]),
                text(&reply["pages"]),
                text(&reply["bytes"]),
                text(&reply["timings"]["queued_ms"]),
                text(&reply["timings"]["rendered_ms"]),
            ]
        })
        .collect()
}

fn unavailable(what: &str, error: &crate::queue::QueueError) -> Failure {
    Failure::new(Exit::Unavailable, what, crate::worker::chain(error), error.remedy())
}
