//! `tillroll dead`: look at dead letters, try them again, forget them.

mod bulk;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(super) use self::bulk::retry_named;
use self::bulk::{Which, purge, retry};
use super::exit::{Exit, Failure, print};
use super::job::{self, Seen};
use super::{Session, counted, files, parts, table, tenant};
use crate::client::{Client, Name, Priority, State};
use crate::config::units::show_bytes_rounded;
use crate::queue::Queue;
use crate::queue::dead::{DeadFilter, DeadLetter};

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
        #[arg(long, default_value_t = 100, value_name = "N", allow_negative_numbers = true,
            value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show why a job died, attempt by attempt, and fetch its document back
    ///
    /// Exit code 65 where the job is no dead letter.
    Show {
        /// The job: TENANT/ID, or ID for the tenant `default`
        #[arg(value_name = "NAME")]
        name: String,
        /// Write its HTML to this new file, - for stdout (then nothing else is printed
        /// there); the assets that came with it are not in the file
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
    Purge(Purge),
}

#[derive(Debug, clap::Args)]
struct Purge {
    #[command(flatten)]
    which: Which,
    /// With --all: do not ask; without a terminal nobody is asked
    #[arg(long)]
    yes: bool,
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

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, or a job that is named is no dead letter.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let tenant = match &args.action {
        Action::Ls { filter, .. } => filter.tenant.as_deref(),
        Action::Retry(which) | Action::Purge(Purge { which, .. }) => which.tenant.as_deref(),
        Action::Show { .. } => None,
    };
    tenant.map_or(Ok(()), tenant::check)?;
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
                let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                ls(session, &queue, &filter, limit).await
            }
            Action::Retry(which) => {
                let names = which.chosen(&queue).await?;
                retry(session, &queue, &names, false).await
            }
            Action::Purge(Purge { which, yes }) => {
                let names = which.chosen(&queue).await?;
                if which.all && !yes && !names.is_empty() && parts::can_ask() {
                    confirm(names.len())?;
                }
                purge(session, &queue, &names, !which.all).await
            }
            // Shown above.
            Action::Show { .. } => Ok(()),
        }
    })
}

/// Asks on the terminal whether so many are to be purged.
fn confirm(count: usize) -> Result<(), Failure> {
    let dead = counted(count as u64, "dead letter");
    let question = format!("Forget {dead} for good, with documents and histories? [y/N] ");
    let refused = |why: String| {
        let fix = "answer y, or add --yes; `tillroll dead ls` lists them";
        Failure::new(Exit::Usage, "purging dead letters", why, fix)
    };
    match parts::ask(&question) {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused("it was not confirmed; nothing was purged".to_owned())),
        Err(error) => Err(refused(error.to_string())),
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
    let redis = session.redis()?;
    let queue = session.loaded.config.queue.name.as_str();
    let client = Client::new(redis, queue, 1).map_err(|error| parts::unavailable(&error))?;
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
        files::write_new(path, html)?;
    }
    let file = path.display().to_string();
    Ok(Fetched { file, bytes: html.len(), assets: job.assets.len() })
}
