//! Many dead letters at once: those that are named, or all that match.

use std::collections::BTreeSet;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::super::exit::{Exit, Failure, print};
use super::super::{Session, counted, job, parts, runtime};
use super::letters;
use crate::client::Name;
use crate::queue::dead::{DeadFilter, Revived};
use crate::queue::{Queue, QueueError};

/// So many are purged in one call.
const PURGED_AT_ONCE: usize = 100;

/// Which dead letters are meant.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").args(["names", "all"]).required(true))]
pub(crate) struct Which {
    /// The jobs: TENANT/ID, or ID for the tenant `default`
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// All, or all that --tenant and --code leave
    #[arg(long)]
    pub(super) all: bool,
    /// With --all: only of this tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "names")]
    pub(super) tenant: Option<String>,
    /// With --all: only those that died of this code, like page_range
    #[arg(long, value_name = "CODE", conflicts_with = "names")]
    code: Option<String>,
}

/// Brings the dead letters of these names back: `dead retry`, and `job retry`.
///
/// # Errors
/// Where one is no name or no dead letter, or Redis is away.
pub(in crate::cli) fn retry_named(names: &[String], session: &Session) -> Result<(), Failure> {
    let names = read_names(names)?;
    runtime()?.block_on(async {
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
    pub(super) async fn chosen(&self, queue: &Queue) -> Result<Vec<Name>, Failure> {
        if !self.all {
            return read_names(&self.names);
        }
        let filter = DeadFilter { tenant: self.tenant.clone(), code: self.code.clone() };
        let (letters, _) = letters(queue, &filter, usize::MAX).await?;
        Ok(letters.iter().filter_map(|letter| Name::parse(&letter.name)).collect())
    }
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
pub(super) async fn retry(
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
        format!("{} ready again\n", of(revived, names.len()))
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

pub(super) async fn purge(
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
        format!(
            "{} gone for good\n",
            of(usize::try_from(purged).unwrap_or(usize::MAX), names.len())
        )
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
        let were = if before == 1 { "was" } else { "were" };
        failure.why +=
            &format!(" ({} {were} {what} before)", counted(before as u64, "dead letter"));
    }
    failure
}

/// "2 of 3 dead letters are", "0 of 1 dead letter is".
fn of(some: usize, all: usize) -> String {
    let are = if some == 1 || all == 1 { "is" } else { "are" };
    format!("{some} of {} {are}", counted(all as u64, "dead letter"))
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
