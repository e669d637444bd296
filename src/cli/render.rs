//! `tillroll render`: PDFs from files, without any Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::backend::Backend;
use super::exit::{Exit, Failure, print};
use super::files::{self, Input};
use super::options::PrintFlags;
use super::{Session, parts};
use crate::failure;
use crate::job::assets::Asset;
use crate::job::{RenderOptions, Rules};
use crate::memory::Governor;
use crate::renderer::{RenderRequest, Warning};

/// Turns HTML files into PDFs, without any Redis
#[derive(Debug, clap::Args)]
pub struct Args {
    /// HTML files, or directories of .html files; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The PDF, - for stdout, or with several files a directory
    /// [default: beside each file, as .pdf; stdout for stdin]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Images, fonts and style sheets that the documents name by relative URL:
    /// with --assets static, logo.png and /static/logo.png are static/logo.png
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
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
    let inputs = Input::all(&args.files)?;
    let targets = targets(&inputs, args.output.as_deref())?;
    let mut documents = Vec::with_capacity(inputs.len());
    for (input, target) in inputs.into_iter().zip(targets) {
        documents.push(Document { html: input.read()?.into(), file: input.shown(), target });
    }
    let assets: Arc<[Asset]> = match &args.assets {
        Some(dir) => super::assets::read(dir)?.into(),
        None => Arc::default(),
    };
    let governor = parts::plain_governor(session)?;
    super::runtime()?.block_on(async {
        let backend = Backend::start(session, (governor.plan().slots, 0), None)?;
        let result = match backend.ready().await {
            Ok(()) => all(&backend, &governor, documents, &options, &assets).await,
            Err(failure) => Err(failure),
        };
        backend.close().await;
        report(session, result?)
    })
}

/// One document, and where its PDF goes.
struct Document {
    file: String,
    target: Target,
    html: Arc<str>,
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
    document: Document,
    ms: u64,
    outcome: Result<Done, Bad>,
}

/// What is told of a PDF that was written.
struct Done {
    pages: u32,
    bytes: usize,
    warnings: Vec<Warning>,
}

/// A document without a PDF.
struct Bad {
    /// What the renderer says; `None` where only the writing failed.
    refusal: Option<failure::Failure>,
    failure: Failure,
}

/// Renders all documents, as many at once as memory allows.
async fn all(
    backend: &Backend,
    governor: &Governor,
    documents: Vec<Document>,
    options: &Arc<RenderOptions>,
    assets: &Arc<[Asset]>,
) -> Result<Vec<Line>, Failure> {
    // Whoever asks for scripts here is the operator too.
    let rules = Rules { scripts: Some(true), ..Rules::default() };
    let bar = progress(documents.len());
    let mut running = JoinSet::new();
    let mut lines: Vec<Option<Line>> = (0..documents.len()).map(|_| None).collect();
    let mut waiting = documents.into_iter().enumerate();
    loop {
        while running.len() < governor.slots() {
            let Some((index, document)) = waiting.next() else { break };
            let (renderer, options) = (backend.renderer(), Arc::clone(options));
            let assets = Arc::clone(assets);
            running.spawn(async move {
                let request = RenderRequest {
                    job: 0,
                    tenant: "cli".into(),
                    rules,
                    html: Arc::clone(&document.html),
                    assets,
                    options,
                    date: OffsetDateTime::now_utc(),
                };
                let started = tokio::time::Instant::now();
                let outcome = renderer.render(request).await;
                let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                (index, document, ms, outcome)
            });
        }
        let Some(ended) = running.join_next().await else { break };
        let (index, document, ms, outcome) = ended.map_err(|error| {
            Failure::new(Exit::Bug, "rendering", error, "this is a bug: please report it")
        })?;
        bar.inc(1);
        let outcome = match outcome {
            Ok(rendered) => write(&document.target, &rendered.pdf)
                .map(|()| Done {
                    pages: rendered.pages,
                    bytes: rendered.pdf.len(),
                    warnings: rendered.warnings,
                })
                .map_err(|failure| Bad { refusal: None, failure }),
            Err(refusal) => {
                let failure = refused(&document.file, &refusal);
                Err(Bad { refusal: Some(refusal), failure })
            }
        };
        if let Some(line) = lines.get_mut(index) {
            *line = Some(Line { document, ms, outcome });
        }
    }
    bar.finish_and_clear();
    Ok(lines.into_iter().flatten().collect())
}

fn refused(file: &str, failure: &crate::failure::Failure) -> Failure {
    let why = format!("{} ({})", failure.message, failure.code);
    Failure::new(Exit::Document, format!("rendering {file}"), why, failure.remedy.clone())
}

fn write(target: &Target, pdf: &[u8]) -> Result<(), Failure> {
    match target {
        Target::Stdout => files::write_stdout(pdf),
        Target::File(path) => files::write(path, pdf),
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
    let to_stdout = lines.iter().any(|line| line.document.target == Target::Stdout);
    let shown = |target: &Target| match target {
        Target::Stdout => "-".to_owned(),
        Target::File(path) => path.display().to_string(),
    };
    let mut text = String::new();
    let mut objects = Vec::new();
    let mut failed = Vec::new();
    for Line { document, ms, outcome } in lines {
        match outcome {
            Ok(done) => {
                for warning in &done.warnings {
                    tracing::warn!(file = %document.file, code = warning.code, remedy = %warning.remedy, "{}", warning.message);
                }
                text.push_str(&format!(
                    "{}  {} page{}, {} KB, {} ms\n",
                    shown(&document.target),
                    done.pages,
                    if done.pages == 1 { "" } else { "s" },
                    done.bytes.div_ceil(1024),
                    ms
                ));
                objects.push(json!({
                    "file": document.file, "output": shown(&document.target), "status": "done",
                    "pages": done.pages, "bytes": done.bytes, "rendered_ms": ms,
                    "warnings": done.warnings,
                }));
            }
            Err(Bad { refusal, failure }) => {
                let warnings = refusal.as_ref().map_or(&[][..], |refusal| &refusal.warnings[..]);
                for warning in warnings {
                    tracing::warn!(file = %document.file, code = warning.code, remedy = %warning.remedy, "{}", warning.message);
                }
                let noticed = json!(warnings);
                let (class, code) = refusal
                    .map_or((None, "not_written"), |refusal| (Some(refusal.class), refusal.code));
                objects.push(json!({
                    "file": document.file, "status": "failed", "warnings": noticed,
                    "error": {
                        "class": class, "code": code,
                        "message": failure.why, "remedy": failure.fix,
                    },
                }));
                failed.push(failure);
            }
        }
    }
    // With the PDF itself on stdout, the report would break it.
    if session.json && !to_stdout {
        print(&format!("{}\n", json!({"v": 1, "documents": objects})))?;
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
