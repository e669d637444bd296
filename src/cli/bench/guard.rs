//! Whether a queue may be measured now: a benchmark must not stand before real
//! jobs, nor wait for workers that are not there.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use crate::cli::exit::{Exit, Failure};
use crate::cli::workers::{self, Known};
use crate::cli::{Session, counted, parts};
use crate::queue::{Queue, QueueError, State};
use crate::worker::snapshot::notice;

const WHAT: &str = "benchmarking";
/// So many jobs of others may wait without being asked about.
const FEW: u64 = 100;

/// What was there before the first push.
pub(super) struct Ground {
    /// The workers that lived.
    workers: BTreeMap<String, Seen>,
    /// Those of the tenants that the queue did not know: they are forgotten afterwards.
    pub(super) fresh: Vec<String>,
    /// What a reader of the figures must know.
    pub(super) notes: Vec<String>,
}

struct Seen {
    slots: u64,
    kind: String,
    alive: bool,
}

/// Looks at the queue.
///
/// # Errors
/// Why it is not to be measured now, with the remedy.
pub(super) async fn look(
    session: &Session,
    queue: &Queue,
    tenants: impl Iterator<Item = String>,
    beside_others: bool,
) -> Result<Ground, Failure> {
    let unavailable = |error: QueueError| parts::unavailable(&error);
    let refused = |why: String, fix: &str| Err(Failure::new(Exit::Unavailable, WHAT, why, fix));
    let name = session.loaded.config.queue.name.as_str();
    let living: Vec<Known> =
        workers::known(session, queue).await?.into_iter().filter(|known| known.alive).collect();
    let working = living.iter().filter(|known| known.says["phase"] == "running").count();
    if living.is_empty() {
        let why = format!("no worker lives on the queue {name}: nobody would answer");
        return refused(why, "start one with `tillroll worker` on this Redis and queue");
    }
    if working == 0 {
        let why = format!("no worker of the queue {name} takes jobs: they start or stop");
        return refused(why, "look at `tillroll status`, and try again when one is running");
    }
    match queue.state().await.map_err(unavailable)? {
        State::Open => {}
        State::Paused => {
            let why = format!("the queue {name} is paused: no job would be started");
            return refused(why, "`tillroll queue resume`, if whoever paused it agrees");
        }
        State::Draining => {
            let why = format!("the queue {name} is being drained: every job would be rejected");
            return refused(why, "`tillroll queue resume`, if whoever drains it agrees");
        }
    }
    if let Some(error) = queue.refuses_writes().await.map_err(unavailable)? {
        return refused(crate::worker::chain(&error), error.remedy());
    }
    if let Some(why) = queue.hindrance().await.map_err(unavailable)? {
        return refused(format!("no job is started: {why}"), "look at `tillroll status`");
    }
    let counts = queue.counts().await.map_err(unavailable)?;
    let waiting = counts.inbox + counts.inbox_bulk + counts.ready;
    if waiting > FEW && !beside_others {
        let why = format!("{} of others wait in the queue {name}", counted(waiting, "job"));
        let fix = "wait until they are done, or add --beside-others: theirs are delayed then, and \
                   the figures are those of both";
        return refused(why, fix);
    }
    let known: HashSet<String> =
        queue.tenants().await.map_err(unavailable)?.into_iter().map(|tenant| tenant.name).collect();
    let (old, fresh): (Vec<String>, Vec<String>) =
        tenants.partition(|tenant| known.contains(tenant));
    let mut ground = Ground { workers: BTreeMap::new(), fresh, notes: Vec::new() };
    ground.add(&living);
    ground.notes = notes(&living, waiting + counts.leased, &old);
    Ok(ground)
}

fn notes(living: &[Known], others: u64, old: &[String]) -> Vec<String> {
    let mut kinds: Vec<&str> =
        living.iter().filter_map(|known| known.says["renderer_kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut notes: Vec<String> = kinds.into_iter().filter_map(notice).collect();
    if others > 0 {
        let verb = if others == 1 { "was" } else { "were" };
        notes
            .push(format!("{} of others {verb} in the queue at the start", counted(others, "job")));
    }
    if let Some(first) = old.first() {
        let more = match old.len() {
            1 => String::new(),
            many => format!(" and {} more", many - 1),
        };
        notes.push(format!(
            "the queue knew the tenant {first}{more} before: the settings held, and stay"
        ));
    }
    notes
}

impl Ground {
    fn add(&mut self, living: &[Known]) {
        for known in living {
            let kind = known.says["renderer_kind"].as_str().unwrap_or("unknown");
            let slots = known.says["slots"].as_u64().unwrap_or(1);
            let seen = Seen { slots, kind: kind.to_owned(), alive: true };
            self.workers.insert(known.id.clone(), seen);
        }
    }

    /// How many documents the workers render at once.
    pub(super) fn slots(&self) -> u64 {
        self.workers.values().map(|seen| seen.slots).sum()
    }

    /// Looks at the workers again: some may have come, others gone.
    ///
    /// # Errors
    /// Where Redis is away.
    pub(super) async fn again(&mut self, session: &Session, queue: &Queue) -> Result<(), Failure> {
        let mut living = workers::known(session, queue).await?;
        living.retain(|known| known.alive);
        self.workers.values_mut().for_each(|seen| seen.alive = false);
        self.add(&living);
        Ok(())
    }

    /// The workers, for the report.
    pub(super) fn json(&self) -> Value {
        let shown = self.workers.iter().map(|(id, seen)| {
            json!({"id": id, "slots": seen.slots, "renderer_kind": seen.kind, "alive": seen.alive})
        });
        shown.collect()
    }
}
