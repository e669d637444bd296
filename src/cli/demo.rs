//! `tillroll demo`: renders a directory of sample receipts through the queue and
//! prints what came back. Hidden: `make demo` calls it, with a Redis and a worker
//! already running.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::{Session, table};
use crate::client::{Client, Element, Receipt, Reply, Status};

/// How long one reply may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Renders sample receipts through the queue
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of NAME.html with NAME.json beside it: {"tenant", "options"}
    #[arg(long, default_value = "fixtures/receipts", value_name = "DIR")]
    fixtures: PathBuf,
    /// Where the PDFs go: a directory for each tenant
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    out: PathBuf,
}

struct Sample {
    element: Element,
    paper: String,
}

/// Runs the verb.
///
/// # Errors
/// Where a sample cannot be read, Redis is away, or a receipt does not come back as a PDF.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let redis = session.redis()?;
    let samples = samples(&args.fixtures)?;
    let unavailable =
        |error: crate::queue::QueueError| Failure::of_redis("talking to Redis", &error);
    let client =
        Client::new(redis, session.loaded.config.queue.name.as_str(), 2).map_err(unavailable)?;
    super::runtime()?.block_on(async {
        let elements: Vec<Element> = samples.iter().map(|sample| sample.element.clone()).collect();
        client.send_many(&elements).await.map_err(unavailable)?;
        let bar = progress(samples.len());
        let mut rows = Vec::with_capacity(samples.len());
        let mut failed = Vec::new();
        for sample in &samples {
            let name = sample.element.name();
            let answer = client.take(name, PATIENCE).await.map_err(unavailable)?;
            bar.inc(1);
            let Some(answer) = answer else {
                failed.push(format!("{name}: no reply within {} s", PATIENCE.as_secs()));
                continue;
            };
            let reply = answer.reply().map_err(unavailable)?;
            if reply.status == Status::Done {
                let dir = args.out.join(name.tenant());
                files::make_dir(&dir)?;
                let pdf = client.pdf(answer, &reply).await.map_err(unavailable)?;
                files::write(&dir.join(format!("{}.pdf", name.id())), &pdf.unwrap_or_default())?;
            } else {
                let why = reply.error.as_ref().map_or("no reason", |error| &error.message);
                failed.push(format!("{name}: {why}"));
            }
            rows.push(row(sample, &reply));
        }
        bar.finish_and_clear();
        rows.sort();
        print(&table(&["tenant", "receipt", "paper", "pages", "KB", "ms", "warnings"], &rows))?;
        if failed.is_empty() {
            return print(&format!("\n{} PDFs in {}\n", rows.len(), args.out.display()));
        }
        Err(Failure::new(
            Exit::Document,
            "rendering the samples",
            failed.join("\n"),
            "look at the worker's log; this is a bug if the samples are unchanged",
        ))
    })
}

fn row(sample: &Sample, reply: &Reply) -> Vec<String> {
    vec![
        reply.tenant.clone(),
        reply.id.clone(),
        sample.paper.clone(),
        reply.pages.to_string(),
        reply.bytes.div_ceil(1024).to_string(),
        reply.timings.rendered_ms.to_string(),
        reply.warnings.len().to_string(),
    ]
}

fn progress(count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("rendering {bar:32} {pos}/{len}");
    ProgressBar::new(count as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Every receipt of the directory, in the order of their names.
fn samples(dir: &Path) -> Result<Vec<Sample>, Failure> {
    let failed = |path: &Path, why: String| {
        let fix = "run it in the repository, or give --fixtures DIR";
        Failure::new(Exit::Document, format!("reading {}", path.display()), why, fix)
    };
    let entries = std::fs::read_dir(dir).map_err(|error| failed(dir, error.to_string()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "html"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(failed(dir, "there is no .html file".to_owned()));
    }
    let mut samples = Vec::with_capacity(paths.len());
    for path in paths {
        let about = path.with_extension("json");
        let text =
            std::fs::read_to_string(&about).map_err(|error| failed(&about, error.to_string()))?;
        let about_value: Value =
            serde_json::from_str(&text).map_err(|error| failed(&about, error.to_string()))?;
        let input = Input::File(path.clone());
        let tenant = about_value["tenant"].as_str().unwrap_or("demo");
        let options = about_value["options"].as_object().cloned().unwrap_or_default();
        let paper = match options.get("paper") {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Object(sides)) => format!(
                "{} x {}",
                sides.get("width").and_then(Value::as_str).unwrap_or("?"),
                sides.get("height").and_then(Value::as_str).unwrap_or("?")
            ),
            _ => "@page".to_owned(),
        };
        let element = Receipt::new(input.read()?)
            .tenant(tenant)
            .id(input.stem())
            .options(options)
            .element()
            .map_err(|problem| failed(&path, problem.to_string()))?;
        samples.push(Sample { element, paper });
    }
    Ok(samples)
}
