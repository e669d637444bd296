//! `tillroll demo`: renders a directory of sample receipts through the queue and
//! prints what came back. Hidden: `make demo` calls it, with a Redis and a worker
//! already running.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::{Session, table};
use crate::job::{Name, Priority};
use crate::queue::Client;

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
    name: Name,
    paper: String,
    element: Vec<u8>,
}

/// Runs the verb.
///
/// # Errors
/// Where a sample cannot be read, Redis is away, or a receipt does not come back as a PDF.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let url = session.redis_url()?;
    let samples = samples(&args.fixtures)?;
    let unavailable = |error: crate::queue::QueueError| {
        Failure::new(
            Exit::Unavailable,
            "talking to Redis",
            crate::worker::chain(&error),
            error.remedy(),
        )
    };
    let client = Client::new(url.expose(), session.loaded.config.queue.name.as_str(), 2)
        .map_err(unavailable)?;
    super::runtime()?.block_on(async {
        let elements = samples.iter().map(|sample| sample.element.as_slice());
        client.push_many(Priority::Interactive, elements).await.map_err(unavailable)?;
        let bar = progress(samples.len());
        let mut rows = Vec::with_capacity(samples.len());
        let mut failed = Vec::new();
        for sample in &samples {
            let answer = client.take(&sample.name, PATIENCE).await.map_err(unavailable)?;
            bar.inc(1);
            let Some(answer) = answer else {
                failed.push(format!("{}: no reply within {} s", sample.name, PATIENCE.as_secs()));
                continue;
            };
            let reply: Value = serde_json::from_str(&answer.line).unwrap_or_default();
            if reply["status"] == "done" {
                let dir = args.out.join(sample.name.tenant());
                std::fs::create_dir_all(&dir).map_err(|error| {
                    let fix = "choose a directory that you may write to";
                    Failure::new(Exit::Unexpected, format!("making {}", dir.display()), error, fix)
                })?;
                files::write(&dir.join(format!("{}.pdf", sample.name.id())), &answer.body)?;
            } else {
                failed.push(format!("{}: {}", sample.name, reply["error"]["message"]));
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

fn row(sample: &Sample, reply: &Value) -> Vec<String> {
    let kilobytes = reply["bytes"].as_u64().unwrap_or(0).div_ceil(1024);
    vec![
        sample.name.tenant().to_owned(),
        sample.name.id().to_owned(),
        sample.paper.clone(),
        reply["pages"].to_string(),
        kilobytes.to_string(),
        reply["timings"]["rendered_ms"].to_string(),
        reply["warnings"].as_array().map_or(0, Vec::len).to_string(),
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
        let html = Input::File(path.clone()).read()?;
        let tenant = about_value["tenant"].as_str().unwrap_or("demo");
        let name = Name::parse(&format!("{tenant}/{}", Input::File(path.clone()).stem()))
            .ok_or_else(|| failed(&path, "its name or tenant is not allowed".to_owned()))?;
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
        samples.push(Sample { element: element(&name, options, &html), name, paper });
    }
    Ok(samples)
}

fn element(name: &Name, options: Map<String, Value>, html: &str) -> Vec<u8> {
    let header = json!({"id": name.id(), "tenant": name.tenant(), "options": options});
    format!("{header}\n{html}").into_bytes()
}
