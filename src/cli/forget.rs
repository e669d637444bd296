//! `tillroll tenant forget`: erases what the queue holds of a tenant or a job.

use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::json;

use super::exit::{Exit, Failure, print};
use super::{Session, counted, parts};
use crate::job::{Name, is_token};
use crate::queue::{Forget, Forgotten};

/// What no command can reach.
const OUT_OF_REACH: &str = "\
Not reached: replies that producers took, logs of workers (names and codes only), Redis' files until
they are written anew (AOF: `redis-cli BGREWRITEAOF`; snapshot: `redis-cli BGSAVE`), replicas' files, and
backups of all these.
";

/// Who is to be forgotten.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Only this job of it
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Do not ask; needed where there is no terminal
    #[arg(long)]
    yes: bool,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, nobody confirmed it, or jobs still run.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let whom = whom(args)?;
    let name = session.loaded.config.queue.name.as_str();
    if !args.yes {
        confirm(&whom, name)?;
    }
    let done = super::runtime()?.block_on(async {
        let queue = parts::queue(session, "forget").await?;
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(200));
        let tell =
            |done: &Forgotten| bar.set_message(format!("{} erased", counted(done.jobs, "job")));
        let done = queue.forget(&whom, tell).await;
        bar.finish_and_clear();
        done.map_err(|error| parts::unavailable(&error))
    })?;
    let left = done.running.len();
    print(&if session.json {
        let mut object = json!(done);
        object["v"] = json!(1);
        object["queue"] = json!(name);
        object["tenant"] = json!(args.tenant);
        object["job"] = json!(args.job);
        format!("{object}\n")
    } else {
        text(&whom, &done)
    })?;
    let (why, fix) = if left > 0 {
        let names = done.running.join(", ");
        (
            format!("{left} of its jobs still run, or no worker keeps house: {names}"),
            "see that a worker runs (`tillroll status`), and run this again: it goes on where it stopped",
        )
    } else if done.kept {
        (
            "a job of it came meanwhile, so its settings, assets and counters stay".to_owned(),
            "stop pushing for it, and run this again; if that does not help, `tillroll queue fsck --repair` \
             puts its counters right",
        )
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Unexpected, format!("forgetting {}", called(&whom)), why, fix))
}

fn whom(args: &Args) -> Result<Forget, Failure> {
    let wrong = |what: &str, text: &str| {
        let why = format!("{text:?} is no name of a {what}");
        let fix = "write TENANT, and for one job --job ID: letters, digits and . _ : -";
        Failure::new(Exit::Usage, "reading the name", why, fix)
    };
    if !is_token(&args.tenant, 64) {
        return Err(wrong("tenant", &args.tenant));
    }
    match &args.job {
        None => Ok(Forget::Tenant(args.tenant.clone())),
        Some(id) => Name::parse(&format!("{}/{id}", args.tenant))
            .map(Forget::Job)
            .ok_or_else(|| wrong("job", id)),
    }
}

fn called(whom: &Forget) -> String {
    match whom {
        Forget::Tenant(tenant) => format!("the tenant {tenant}"),
        Forget::Job(name) => format!("the job {name}"),
        Forget::Run { ids, .. } => format!("the jobs {ids}*"),
    }
}

/// Asks on the terminal.
fn confirm(whom: &Forget, queue: &str) -> Result<(), Failure> {
    let refused = |why: &str, fix: &str| {
        Err(Failure::new(Exit::Usage, format!("forgetting {}", called(whom)), why, fix))
    };
    if !parts::can_ask() {
        return refused("nobody can be asked: there is no terminal", "add --yes");
    }
    let question = format!(
        "Erase all that the queue {queue} holds of {}: documents, PDFs, records, assets? Jobs that wait or run \
         are cancelled. There is no way back. [y/N] ",
        called(whom)
    );
    match parts::ask(&question) {
        Ok(true) => Ok(()),
        Ok(false) => refused("it was not confirmed; nothing was erased", "answer y, or add --yes"),
        Err(error) => refused(&error.to_string(), "add --yes"),
    }
}

fn text(whom: &Forget, done: &Forgotten) -> String {
    let mut text = format!(
        "{}: erased {} ({} cancelled), {}, {}, {}, {} on lists, {}, {}\n",
        called(whom),
        counted(done.jobs, "job"),
        done.cancelled,
        counted(done.documents, "document"),
        counted(done.results, "result"),
        counted(done.dead, "dead letter"),
        counted(done.lines, "line"),
        counted(done.events, "event"),
        counted(done.assets, "asset"),
    );
    if done.unread > 0 {
        text.push_str(&format!(
            "{} elements wait unread in the inboxes; whose they are shows when a worker admits them: \
             run this again then\n",
            done.unread
        ));
    }
    text.push_str(OUT_OF_REACH);
    text
}
