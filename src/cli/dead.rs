//! `tillroll dead`: look at dead letters, try them again, forget them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::exit::{Exit, Failure, print};
use super::job::{self, Seen};
use super::{Session, files, parts, table};
use crate::client::{Client, Name, Priority, State};
use crate::config::units::show_bytes_rounded;
use crate::queue::dead::{DeadFilter, DeadLetter, Revived};
use crate::queue::{Queue, QueueError};

/// So many are purged in one call.
const PURGED_AT_ONCE: usize = 100;

/// What to do with dead letters.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List dead letters, those that are forgotten first at the top
    Ls {
        #[command(flatten)]
        filter: Filter,
        /// No more than so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show why a job died, attempt by attempt, and fetch its document back
    ///
    /// Exit code 65 where the job is no dead letter.
    Show {
        /// The job: TENANT/ID, or ID for the tenant `default`
        #[arg(value_name = "NAME")]
        name: String,
        /// Write its HTML here, - for stdout (then nothing else is printed there); the
        /// assets that came with it are not in the file
        #[arg(long, value_name = "FILE")]
        document: Option<PathBuf>,
    },
    /// Render dead letters once more, with all their attempts before them
    ///
    /// Exit code 65 where one of those named is no dead letter, or its document is lost.
    Retry(Which),
    /// Forget dead letters for good, with their documents
    ///
    /// Exit code 65 where one of those named is no dead letter.
    Purge(Which),
}

/// Which dead letters are listed.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only those that died of this code, like page_range
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
}

/// Which dead letters are meant.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").args(["names", "all"]).required(true))]
struct Which {
    /// The jobs: TENANT/ID, or ID for the tenant `default`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// All, or all that --tenant and --code leave
    #[arg(long)]
    all: bool,
    /// With --all: only of this tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "names")]
    tenant: Option<String>,
    /// With --all: only those that died of this code, like page_range
    #[arg(long, value_name = "CODE", conflicts_with = "names")]
    code: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, or a job that is named is no dead letter.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match &args.action {
        Action::Show { name, document } => {
            return show(session, &job::read_name(name)?, document.as_deref());
        }
        Action::Retry(which) if !which.all => return retry_named(&which.names, session),
        _ => {}
    }
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "dead").await?;
        match &args.action {
            Action::Ls { filter, limit } => {
                let Filter { tenant, code } = filter;
                let filter = DeadFilter { tenant: tenant.clone(), code: code.clone() };
                ls(session, &queue, &filter, *limit).await
            }
            Action::Retry(which) => {
                let names = which.chosen(&queue).await?;
                retry(session, &queue, &names, false).await
            }
            Action::Purge(which) => {
                let names = which.chosen(&queue).await?;
                purge(session, &queue, &names, !which.all).await
            }
            Action::Show { .. } => Ok(()),
        }
    })
}

/// Brings the dead letters of these names back: `dead retry`, and `job retry`.
///
/// # Errors
/// Where one is no name or no dead letter, or Redis is away.
pub(super) fn retry_named(names: &[String], session: &Session) -> Result<(), Failure> {
    let names = read_names(names)?;
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "dead").await?;
        retry(session, &queue, &names, true).await
    })
}

/// Each once.
fn read_names(names: &[String]) -> Result<Vec<Name>, Failure> {
    let names: Result<BTreeSet<Name>, Failure> =
        names.iter().map(|name| job::read_name(name)).collect();
    Ok(names?.into_iter().collect())
}

impl Which {
    /// Those that are named, or all that match, as they are now.
    async fn chosen(&self, queue: &Queue) -> Result<Vec<Name>, Failure> {
        if !self.all {
            return read_names(&self.names);
        }
        let filter = DeadFilter { tenant: self.tenant.clone(), code: self.code.clone() };
        let (letters, _) = letters(queue, &filter, usize::MAX).await?;
        Ok(letters.iter().filter_map(|letter| Name::parse(&letter.name)).collect())
    }
}

/// At most `most` that match, and whether there are more.
async fn letters(
    queue: &Queue,
    filter: &DeadFilter,
    most: usize,
) -> Result<(Vec<DeadLetter>, bool), Failure> {
    let (mut found, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next
        && found.len() <= most
    {
        let page = queue.dead_letters(from, filter).await;
        let page = page.map_err(|error| parts::unavailable(&error))?;
        found.extend(page.letters);
        next = page.next;
    }
    let more = found.len() > most;
    found.truncate(most);
    Ok((found, more))
}

async fn ls(
    session: &Session,
    queue: &Queue,
    filter: &DeadFilter,
    most: usize,
) -> Result<(), Failure> {
    let (letters, more) = letters(queue, filter, most).await?;
    if session.json {
        let dead: Vec<Value> = letters
            .iter()
            .map(|letter| {
                json!({
                    "job": letter.name, "code": letter.code, "attempts": letter.attempts,
                    "crashes": letter.crashes, "bytes": letter.bytes,
                    "ended_ms": letter.ended_ms, "until_ms": letter.until_ms,
                })
            })
            .collect();
        return print(&format!("{}\n", json!({"v": 1, "dead": dead, "more": more})));
    }
    if letters.is_empty() {
        return print("no dead letter\n");
    }
    let rows = letters.iter().map(|letter| {
        vec![
            letter.name.clone(),
            letter.code.clone(),
            letter.attempts.to_string(),
            show_bytes_rounded(letter.bytes),
            job::date(letter.ended_ms),
            job::date(letter.until_ms),
        ]
    });
    let headings = ["job", "code", "attempts", "bytes", "died", "kept until"];
    let mut text = table(&headings, &rows.collect::<Vec<_>>());
    if more {
        text.push_str(&format!("and more than these {most}: see --limit\n"));
    }
    print(&text)
}

/// What became of the document that was fetched back.
struct Fetched {
    file: String,
    bytes: usize,
    assets: usize,
}

fn show(session: &Session, name: &Name, document: Option<&Path>) -> Result<(), Failure> {
    let url = session.redis_url()?;
    let queue = session.loaded.config.queue.name.as_str();
    let client = Client::new(url.expose(), queue, 1).map_err(|error| parts::unavailable(&error))?;
    let (seen, fetched) = super::runtime()?.block_on(async {
        let seen = Seen::look(&client, name).await?;
        if seen.record.state != State::Dead {
            let state = seen.record.state.as_str();
            return Err(Failure::new(
                Exit::Document,
                format!("looking for {name} among the dead letters"),
                format!("it is none: its state is `{state}`"),
                "`tillroll job show` shows any job, `tillroll dead ls` lists the dead letters",
            ));
        }
        let fetched = match document {
            Some(path) => Some(fetch(session, name, path).await?),
            None => None,
        };
        Ok((seen, fetched))
    })?;
    if let Some(Fetched { assets: assets @ 1.., .. }) = &fetched {
        tracing::warn!(assets, "the job came with assets: they are not in the document's file");
    }
    if document.is_some_and(|path| path.as_os_str() == "-") {
        return Ok(());
    }
    let mut object = seen.json();
    let mut text = seen.text();
    if let Some(Fetched { file, bytes, assets }) = fetched {
        object["fetched"] = json!({"file": file, "bytes": bytes, "assets": assets});
        let behind = match assets {
            0 => String::new(),
            1 => ", without the asset that came with it".to_owned(),
            many => format!(", without the {many} assets that came with it"),
        };
        text.push_str(&format!("\nits document is in {file} ({bytes} bytes{behind})\n"));
    }
    print(&if session.json { format!("{object}\n") } else { text })
}

/// Writes the document of a dead letter to `path`.
async fn fetch(session: &Session, name: &Name, path: &Path) -> Result<Fetched, Failure> {
    let what = || format!("fetching the document of {name}");
    let queue = parts::queue(session, "dead").await?;
    let element = queue.element(name).await.map_err(|error| parts::unavailable(&error))?;
    let element = element.ok_or_else(|| {
        let fix = "push it again from your app: something removed it from Redis (an eviction, a \
                   FLUSH, a purge)";
        Failure::new(Exit::Document, what(), "Redis no longer has it", fix)
    })?;
    let job = crate::job::parse(&element, Priority::Interactive, || name.id().to_owned());
    let job = job.map_err(|rejection| {
        let fix = "use the release of Tillroll that admitted it";
        Failure::new(Exit::Document, what(), rejection.problem.message, fix)
    })?;
    let html = job.html.as_bytes();
    if path.as_os_str() == "-" {
        files::write_stdout(html)?;
    } else {
        files::write(path, html)?;
    }
    let file = path.display().to_string();
    Ok(Fetched { file, bytes: html.len(), assets: job.assets.len() })
}

/// What became of those that were to be retried.
#[derive(Default)]
struct Retried {
    revived: usize,
    not_dead: Vec<String>,
    body_lost: Vec<String>,
    unknown: Vec<String>,
}

/// `named`: somebody asked for exactly these.
async fn retry(
    session: &Session,
    queue: &Queue,
    names: &[Name],
    named: bool,
) -> Result<(), Failure> {
    let bar = progress("retrying", names.len());
    let mut became = Retried::default();
    for name in names {
        let revived = queue.revive(name).await;
        match revived.map_err(|error| halfway(&error, became.revived, "brought back"))? {
            Revived::Ready => became.revived += 1,
            Revived::NotDead => became.not_dead.push(name.to_string()),
            Revived::BodyLost => became.body_lost.push(name.to_string()),
            Revived::Unknown => became.unknown.push(name.to_string()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Retried { revived, not_dead, body_lost, unknown } = became;
    print(&if session.json {
        let object = json!({
            "v": 1, "revived": revived, "not_dead": not_dead, "body_lost": body_lost,
            "unknown": unknown,
        });
        format!("{object}\n")
    } else {
        format!("{revived} of {} are ready again\n", count(names.len()))
    })?;
    let mut why: Vec<String> = body_lost
        .iter()
        .map(|name| format!("{name}: its document is no longer in Redis; push it again"))
        .collect();
    // Among all of them, one that somebody else retried meanwhile is no failure.
    if named {
        why.extend(not_dead.iter().map(|name| format!("{name}: it is no dead letter")));
        why.extend(unknown.iter().map(|name| format!("{name}: the queue knows no such job")));
    }
    failed("retrying dead letters", &why)
}

async fn purge(
    session: &Session,
    queue: &Queue,
    names: &[Name],
    named: bool,
) -> Result<(), Failure> {
    let bar = progress("purging", names.len());
    let (mut purged, mut not_dead) = (0_u64, Vec::new());
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    // Of names that somebody gave, each is looked at: they want to know which was none.
    for some in names.chunks(if named { 1 } else { PURGED_AT_ONCE }) {
        let now = queue.purge(some).await;
        let now = now.map_err(|error| {
            halfway(&error, usize::try_from(purged).unwrap_or(usize::MAX), "purged")
        })?;
        purged += now;
        if named && now == 0 {
            not_dead.extend_from_slice(some);
        }
        bar.inc(some.len() as u64);
    }
    bar.finish_and_clear();
    print(&if session.json {
        format!("{}\n", json!({"v": 1, "purged": purged, "not_dead": not_dead}))
    } else {
        format!("{purged} of {} are gone for good\n", count(names.len()))
    })?;
    let why: Vec<String> =
        not_dead.iter().map(|name| format!("{name}: it is no dead letter")).collect();
    failed("purging dead letters", &why)
}

fn failed(what: &str, why: &[String]) -> Result<(), Failure> {
    if why.is_empty() {
        return Ok(());
    }
    let fix = "`tillroll dead ls` lists the dead letters, `tillroll job show NAME` tells what \
               became of a job";
    Err(Failure::new(Exit::Document, what, why.join("\n"), fix))
}

/// Redis went away in the middle.
fn halfway(error: &QueueError, before: usize, what: &str) -> Failure {
    let mut failure = parts::unavailable(error);
    if before > 0 {
        failure.why += &format!(" ({} were {what} before)", count(before));
    }
    failure
}

fn count(number: usize) -> String {
    format!("{number} dead letter{}", if number == 1 { "" } else { "s" })
}

/// On a terminal only, and only where there is something to wait for.
fn progress(doing: &str, count: usize) -> ProgressBar {
    if count < 2 {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template(&format!("{doing} {{bar:32}} {{pos}}/{{len}} {{elapsed}}"));
    let bar = ProgressBar::new(count as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.tick();
    bar
}
