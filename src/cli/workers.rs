//! The workers of a queue, as their heartbeats describe them, and telling them
//! something.

use std::time::Duration;

use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::{Session, parts};
use crate::queue::{Control, Queue};

/// One worker.
#[derive(Debug)]
pub(super) struct Known {
    /// Its id.
    pub(super) id: String,
    /// How old its last heartbeat is.
    pub(super) age: Duration,
    /// Whether that is younger than the lease it runs with.
    pub(super) alive: bool,
    /// What it said of itself.
    pub(super) says: Value,
}

impl Known {
    /// A setting that can be changed while it runs: its value, and what it started with;
    /// `None` where its release does not say.
    pub(super) fn setting(&self, key: &str) -> Option<(&str, &str)> {
        let all = self.says["settings"].as_array()?;
        let one = all.iter().find(|one| one["key"] == key)?;
        Some((one["value"].as_str()?, one["configured"].as_str()?))
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "alive": self.alive,
            "heartbeat_age_ms": u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX),
            "says": self.says,
        })
    }
}

/// Every worker that did not say goodbye. Releases that do not tell their lease
/// are judged by ours.
///
/// # Errors
/// Where Redis is away.
pub(super) async fn known(session: &Session, queue: &Queue) -> Result<Vec<Known>, Failure> {
    let ours = session.loaded.config.queue.lease;
    let workers = queue.workers().await.map_err(|error| parts::unavailable(&error))?;
    let known = workers.into_iter().map(|(id, age, description)| {
        let says: Value = serde_json::from_str(&description).unwrap_or_default();
        let lease = says["lease_ms"].as_u64().map_or(ours, Duration::from_millis);
        Known { id, age, alive: age < lease, says }
    });
    Ok(known.collect())
}

/// The worker called `only`, or all that live.
///
/// # Errors
/// Where none lives, that one does not, or Redis is away.
pub(super) async fn meant(
    session: &Session,
    queue: &Queue,
    only: Option<&str>,
) -> Result<Vec<Known>, Failure> {
    let known = known(session, queue).await?.into_iter().filter(|worker| worker.alive);
    let meant: Vec<Known> = known.filter(|worker| only.is_none_or(|id| worker.id == id)).collect();
    let nobody = |why: String, fix: &str| {
        Err(Failure::new(Exit::Unavailable, "telling the workers", why, fix))
    };
    match only {
        Some(id) if meant.is_empty() => {
            let fix = "give the id as `tillroll status` shows it, or leave --worker out for all";
            nobody(format!("no worker called {id:?} lives on this queue"), fix)
        }
        None if meant.is_empty() => {
            let fix = "start one with `tillroll worker`; for one that is to come, set the key in its file";
            nobody("no worker lives on this queue".to_owned(), fix)
        }
        _ => Ok(meant),
    }
}

/// Sends a command to these workers; who was told.
///
/// # Errors
/// Where Redis is away.
pub(super) async fn tell(
    queue: &Queue,
    workers: &[Known],
    command: &Control,
) -> Result<Vec<String>, Failure> {
    let message = serde_json::to_string(command).map_err(|error| {
        Failure::new(Exit::Bug, "telling the workers", error, "this is a bug: please report it")
    })?;
    for worker in workers {
        let sent = queue.control(&worker.id, &message).await;
        sent.map_err(|error| parts::unavailable(&error))?;
    }
    Ok(workers.iter().map(|worker| worker.id.clone()).collect())
}

/// "worker a", "2 workers (a, b)".
pub(super) fn shown(workers: &[String]) -> String {
    match workers {
        [one] => format!("worker {one}"),
        many => format!("{} workers ({})", many.len(), many.join(", ")),
    }
}
