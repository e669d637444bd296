//! `tillroll queue`: pause, resume and drain the whole queue, check and mend it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use super::exit::{Exit, Failure, print};
use super::{Session, counted, fsck, parts};
use crate::queue::{Counts, Queue, QueueError, State};

/// How often a drain is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What to do with the queue.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start no more jobs: new ones are taken and wait, what runs is finished
    ///
    /// For all workers, and until `tillroll queue resume`: it outlives workers and
    /// a restart of Redis.
    Pause,
    /// Take and start jobs again, after a pause or a drain
    Resume,
    /// Refuse new jobs, finish all that were admitted
    ///
    /// What is pushed meanwhile is rejected with the code `draining` and retry_ms,
    /// until `tillroll queue resume`.
    Drain {
        /// Wait until all that was admitted has ended, delayed jobs too
        #[arg(long)]
        wait: bool,
        /// How long to wait at most, like 10m [default: as long as it takes]
        #[arg(long, value_name = "DURATION", allow_hyphen_values = true, requires = "wait")]
        timeout: Option<String>,
    },
    /// Find what something else broke in the queue; --repair mends it
    ///
    /// An eviction, a hand with redis-cli, an old release, a Redis that was rolled
    /// back. Safe while the queue is in use. Exit code 0 where nothing is broken, or
    /// all was mended; 1 where something is broken and was not mended.
    Fsck(fsck::Args),
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, or a drain is not over in time.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let (state, wait, timeout) = match &args.action {
        Action::Pause => (State::Paused, false, None),
        Action::Resume => (State::Open, false, None),
        Action::Drain { wait, timeout } => {
            let timeout = timeout.as_deref().map(|text| parts::duration("--timeout", text));
            (State::Draining, *wait, timeout.transpose()?)
        }
        Action::Fsck(args) => return fsck::run(args, session),
    };
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "queue").await?;
        let unavailable = |error: QueueError| parts::unavailable(&error);
        let before = queue.state().await.map_err(unavailable)?;
        queue.set_state(state).await.map_err(unavailable)?;
        let mut left = living(&queue.counts().await.map_err(unavailable)?);
        let outcome = if wait { drained(&queue, &mut left, timeout).await } else { Ok(()) };
        report(session, before, state, left)?;
        outcome
    })
}

/// Jobs that were admitted and have not ended.
fn living(counts: &Counts) -> u64 {
    counts.ready + counts.leased + counts.delayed
}

/// Where they are: "2 waiting, 1 delayed".
fn whereabouts(counts: &Counts) -> String {
    let all = [(counts.leased, "running"), (counts.ready, "waiting"), (counts.delayed, "delayed")];
    let some = all.iter().filter(|(number, _)| *number > 0);
    some.map(|(number, state)| format!("{number} {state}")).collect::<Vec<_>>().join(", ")
}

/// Waits until every job has ended; `left` says how many have not.
async fn drained(queue: &Queue, left: &mut u64, timeout: Option<Duration>) -> Result<(), Failure> {
    let give_up = timeout.map(|timeout| Instant::now() + timeout);
    let style = ProgressStyle::with_template("draining {bar:32} {pos}/{len} {elapsed} {msg}");
    let bar =
        ProgressBar::new(*left).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        looks.tick().await;
        let counts = queue.counts().await.map_err(|error| parts::unavailable(&error))?;
        *left = living(&counts);
        // An element that was on its way when the drain began may have been admitted since.
        bar.set_length(bar.length().unwrap_or(0).max(*left));
        bar.set_position(bar.length().unwrap_or(0) - *left);
        if *left == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
        if counts.workers == 0 && !told {
            told = true;
            tracing::warn!("no worker was heard of lately: what waits is not rendered");
        }
        bar.set_message(if counts.workers == 0 { "no worker lives" } else { "" });
        let failed = |exit, why: String, fix: &str| {
            bar.finish_and_clear();
            Err(Failure::new(exit, "draining the queue", why, fix))
        };
        let state = queue.state().await.map_err(|error| parts::unavailable(&error))?;
        if state != State::Draining {
            let why = format!("somebody made the queue {} meanwhile", state.as_str());
            return failed(Exit::Unexpected, why, "find out who, and drain it again");
        }
        if give_up.is_some_and(|at| Instant::now() >= at) {
            let have = if *left == 1 { "has" } else { "have" };
            let why =
                format!("{} {have} not ended: {}", counted(*left, "job"), whereabouts(&counts));
            let fix = "wait longer with --timeout; `tillroll status` shows the workers and what runs. \
                       The queue still refuses new jobs";
            return failed(Exit::Unavailable, why, fix);
        }
    }
}

fn report(session: &Session, before: State, state: State, left: u64) -> Result<(), Failure> {
    let name = session.loaded.config.queue.name.as_str();
    if session.json {
        let object = json!({
            "v": 1, "queue": name, "state": state, "before": before, "left": left,
        });
        return print(&format!("{object}\n"));
    }
    let jobs = counted(left, "job");
    let wait = if left == 1 { "waits or still runs" } else { "wait or still run" };
    let was = match before {
        same if same == state => String::new(),
        before => format!(" (was {})", before.as_str()),
    };
    print(&match state {
        State::Open => format!("queue {name} is open{was}: jobs are taken and started\n"),
        State::Paused => format!(
            "queue {name} is paused{was}: jobs are taken, none is started; {jobs} {wait}; \
             `tillroll queue resume` goes on\n"
        ),
        State::Draining => format!(
            "queue {name} is draining{was}: new jobs are refused until `tillroll queue resume`; {jobs} \
             left\n"
        ),
    })
}
