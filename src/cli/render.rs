//! `tillroll render`: PDFs from files, without any Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::backend::Backend;
use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::options::PrintFlags;
use super::{Session, parts};
use crate::job::RenderOptions;
use crate::memory::Governor;
use crate::renderer::{RenderRequest, Rendered};

/// Turns HTML files into PDFs, without any Redis
#[derive(Debug, clap::Args)]
pub struct Args {
    /// HTML files; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The PDF, - for stdout, or with several files a directory
    /// [default: beside each file, as .pdf; stdout for stdin]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    print: PrintFlags,
}

/// Where one PDF goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Stdout,
    File(PathBuf),
}

/// Runs the verb.
///
/// # Errors
/// Where Chromium is missing, a document fails, or a PDF cannot be written.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let options = Arc::new(args.print.parsed()?);
    let inputs: Vec<Input> = args.files.iter().map(|path| Input::new(path)).collect();
    let targets = targets(&inputs, args.output.as_deref())?;
    let documents: Vec<Arc<str>> =
        inputs.iter().map(|input| input.read().map(Into::into)).collect::<Result<_, _>>()?;
    let governor = parts::governor(session)?;
    super::runtime()?.block_on(async {
        let backend = Backend::start(session, governor.plan().slots)?;
        let result = match backend.ready().await {
            Ok(()) => all(&backend, &governor, &documents, &options, &inputs, &targets).await,
            Err(failure) => Err(failure),
        };
        backend.close().await;
        report(session, result?)
    })
}

/// Which PDF goes where: decided, and refused, before anything is rendered.
fn targets(inputs: &[Input], output: Option<&Path>) -> Result<Vec<Target>, Failure> {
    let usage = |why: &str, fix: &str| Failure::new(Exit::Usage, "reading --output", why, fix);
    match (inputs, output) {
        ([input], None) => Ok(vec![beside(input)]),
        (_, None) => Ok(inputs.iter().map(beside).collect()),
        ([_], Some(path)) if path.as_os_str() == "-" => Ok(vec![Target::Stdout]),
        (_, Some(path)) if path.as_os_str() == "-" => Err(usage(
            "several PDFs cannot go to one stdout",
            "give a directory, or one file at a time",
        )),
        ([_], Some(path)) if !path.is_dir() => Ok(vec![Target::File(path.to_owned())]),
        (_, Some(dir)) => {
            std::fs::create_dir_all(dir).map_err(|error| {
                let fix = "several files need a directory to write to: choose one that you may make or write";
                Failure::new(Exit::Unexpected, format!("making {}", dir.display()), error, fix)
            })?;
            let files: Vec<PathBuf> =
                inputs.iter().map(|input| dir.join(format!("{}.pdf", input.stem()))).collect();
            let mut sorted = files.clone();
            sorted.sort();
            if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
                return Err(usage(
                    "two of the files have the same name and would overwrite each other's PDF",
                    "rename one, or render them into different directories",
                ));
            }
            Ok(files.into_iter().map(Target::File).collect())
        }
    }
}

fn beside(input: &Input) -> Target {
    match input {
        Input::Stdin => Target::Stdout,
        Input::File(path) => Target::File(path.with_extension("pdf")),
    }
}

/// One line of the report: a file and its PDF, or what went wrong with it.
struct Line {
    file: String,
    target: Target,
    ms: u128,
    outcome: Result<Rendered, Failure>,
}

/// Renders all documents, as many at once as memory allows.
async fn all(
    backend: &Backend,
    governor: &Governor,
    documents: &[Arc<str>],
    options: &Arc<RenderOptions>,
    inputs: &[Input],
    targets: &[Target],
) -> Result<Vec<Line>, Failure> {
    let bar = progress(documents.len());
    let mut running = JoinSet::new();
    let mut waiting = documents.iter().enumerate();
    let mut lines: Vec<Option<Line>> = (0..documents.len()).map(|_| None).collect();
    loop {
        while running.len() < governor.slots() {
            let Some((index, html)) = waiting.next() else { break };
            let (renderer, html, options) =
                (backend.renderer(), Arc::clone(html), Arc::clone(options));
            running.spawn(async move {
                let request = RenderRequest {
                    tenant: "cli".into(),
                    html,
                    options,
                    date: OffsetDateTime::now_utc(),
                };
                let started = tokio::time::Instant::now();
                let outcome = renderer.render(request).await;
                (index, started.elapsed().as_millis(), outcome)
            });
        }
        let Some(ended) = running.join_next().await else { break };
        let (index, ms, outcome) = ended.map_err(|error| {
            Failure::new(Exit::Bug, "rendering", error, "this is a bug: please report it")
        })?;
        bar.inc(1);
        let (Some(input), Some(target)) = (inputs.get(index), targets.get(index)) else { continue };
        let outcome = match outcome {
            Ok(rendered) => write(target, &rendered).map(|()| rendered),
            Err(failure) => Err(refused(&input.shown(), &failure)),
        };
        if let Some(line) = lines.get_mut(index) {
            *line = Some(Line { file: input.shown(), target: target.clone(), ms, outcome });
        }
    }
    bar.finish_and_clear();
    Ok(lines.into_iter().flatten().collect())
}

fn refused(file: &str, failure: &crate::failure::Failure) -> Failure {
    let why = format!("{} ({})", failure.message, failure.code);
    Failure::new(Exit::Document, format!("rendering {file}"), why, failure.remedy.clone())
}

fn write(target: &Target, rendered: &Rendered) -> Result<(), Failure> {
    match target {
        Target::Stdout => files::write_stdout(&rendered.pdf),
        Target::File(path) => files::write(path, &rendered.pdf),
    }
}

/// On a terminal only, and only where there is something to wait for.
fn progress(count: usize) -> ProgressBar {
    if count < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {elapsed}");
    ProgressBar::new(count as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Says what was written; fails with the first document that failed.
fn report(session: &Session, lines: Vec<Line>) -> Result<(), Failure> {
    let to_stdout = lines.iter().any(|line| line.target == Target::Stdout);
    let shown = |target: &Target| match target {
        Target::Stdout => "-".to_owned(),
        Target::File(path) => path.display().to_string(),
    };
    let mut text = String::new();
    let mut objects = Vec::new();
    let mut failed = Vec::new();
    for line in lines {
        match line.outcome {
            Ok(rendered) => {
                for warning in &rendered.warnings {
                    tracing::warn!(file = %line.file, code = warning.code, remedy = %warning.remedy, "{}", warning.message);
                }
                text.push_str(&format!(
                    "{}  {} page{}, {} KB, {} ms\n",
                    shown(&line.target),
                    rendered.pages,
                    if rendered.pages == 1 { "" } else { "s" },
                    rendered.pdf.len().div_ceil(1024),
                    line.ms
                ));
                objects.push(json!({
                    "file": line.file, "output": shown(&line.target), "status": "done",
                    "pages": rendered.pages, "bytes": rendered.pdf.len(), "rendered_ms": line.ms,
                    "warnings": rendered.warnings,
                }));
            }
            Err(failure) => {
                objects.push(json!({
                    "file": line.file, "status": "failed",
                    "error": {"message": failure.why, "remedy": failure.fix},
                }));
                failed.push(failure);
            }
        }
    }
    // With the PDF itself on stdout, the report would break it.
    if session.json && !to_stdout {
        print(&format!("{}\n", Value::from(objects)))?;
    } else if !to_stdout {
        print(&text)?;
    }
    let others = failed.len().saturating_sub(1);
    match failed.into_iter().next() {
        None => Ok(()),
        Some(failure) if others == 0 => Err(failure),
        Some(mut failure) => {
            failure.why = format!("{} (and {others} more documents failed)", failure.why);
            Err(failure)
        }
    }
}
