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

/// Sends a command to the worker called `only`, or to all that live; who was told.
///
/// # Errors
/// Where none lives, that one does not, or Redis is away.
pub(super) async fn tell(
    session: &Session,
    queue: &Queue,
    only: Option<&str>,
    command: &Control,
) -> Result<Vec<String>, Failure> {
    let alive = known(session, queue).await?.into_iter().filter(|worker| worker.alive);
    let alive: Vec<String> = alive.map(|worker| worker.id).collect();
    let nobody = |why: String, fix: &str| {
        Err(Failure::new(Exit::Unavailable, "telling the workers", why, fix))
    };
    let told: Vec<String> = match only {
        Some(id) if !alive.iter().any(|worker| worker == id) => {
            let fix = "give the id as `tillroll status` shows it, or leave --worker out for all";
            return nobody(format!("no worker called {id:?} lives on this queue"), fix);
        }
        Some(id) => vec![id.to_owned()],
        None => alive,
    };
    if told.is_empty() {
        let fix =
            "start one with `tillroll worker`; for one that is to come, set the key in its file";
        return nobody("no worker lives on this queue".to_owned(), fix);
    }
    let message = serde_json::to_string(command).map_err(|error| {
        Failure::new(Exit::Bug, "telling the workers", error, "this is a bug: please report it")
    })?;
    for worker in &told {
        let sent = queue.control(worker, &message).await;
        sent.map_err(|error| parts::unavailable(&error))?;
    }
    Ok(told)
}

/// "worker a", "2 workers (a, b)".
pub(super) fn shown(workers: &[String]) -> String {
    match workers {
        [one] => format!("worker {one}"),
        many => format!("{} workers ({})", many.len(), many.join(", ")),
    }
}
