//! Looking at a queue without changing it: how many jobs are where, which
//! workers live.

use std::time::Duration;

use redis::{cmd, pipe};

use super::{Counts, Housekept, Queue, QueueError, State};
use crate::job::Priority;

impl Queue {
    /// How many jobs are where.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn counts(&self) -> Result<Counts, QueueError> {
        let keys = self.keys();
        let mut lengths = pipe();
        for inbox in [Priority::Interactive, Priority::Bulk] {
            lengths.cmd("LLEN").arg(keys.inbox(inbox));
        }
        let sets = [
            keys.leased(),
            keys.delayed(),
            keys.dead(),
            keys.ring(Priority::Interactive),
            keys.ring(Priority::Bulk),
        ];
        for set in sets {
            lengths.cmd("ZCARD").arg(set);
        }
        lengths.cmd("SCARD").arg(keys.broken());
        let [inbox, inbox_bulk, leased, delayed, dead, ring, ring_bulk, broken]: [u64; 8] =
            lengths.query_async(&mut self.commands()).await?;
        let fields: Vec<Option<i64>> = cmd("HMGET")
            .arg(keys.state())
            .arg(&["jobs", "bytes", "ended:done", "held", "dead_bytes"])
            .query_async(&mut self.commands())
            .await?;
        // A counter below zero would be a mistake of ours; it is shown as nothing.
        let field = |index: usize| {
            fields
                .get(index)
                .copied()
                .flatten()
                .and_then(|number| u64::try_from(number).ok())
                .unwrap_or(0)
        };
        let alive = Duration::from_millis(self.lease_ms());
        let workers = self.heartbeats().await?.iter().filter(|(_, age)| *age < alive).count();
        Ok(Counts {
            inbox,
            inbox_bulk,
            ready: field(0).saturating_sub(leased + delayed),
            leased,
            delayed,
            dead,
            done: field(2),
            tenants: ring + ring_bulk,
            bytes: field(1),
            held: field(3),
            dead_bytes: field(4),
            broken,
            workers: workers as u64,
        })
    }

    /// Why no job is started now, with the remedy; `None` where nothing is in the way.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn hindrance(&self) -> Result<Option<String>, QueueError> {
        let held: Option<i64> = cmd("HGET")
            .arg(self.keys().state())
            .arg("held")
            .query_async(&mut self.commands())
            .await?;
        let held = held.and_then(|held| u64::try_from(held).ok()).unwrap_or(0);
        let most = self.limits().await?.into_iter().find(|(name, ..)| *name == "held");
        let full = most.is_some_and(|(_, most, _)| most > 0 && held >= most);
        let paused = if self.state().await? == State::Paused {
            Some("paused".to_owned())
        } else {
            full.then(|| "results_held".to_owned())
        };
        let memory = super::redis::memory(&mut self.commands()).await?;
        Ok(Housekept { paused, held, memory, ..Housekept::default() }.hindrance())
    }

    /// Why Redis takes no writes now; `None` where it does. It is asked to move an
    /// element of a list that is not there: that changes nothing, and is refused like
    /// any write that takes memory.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn refuses_writes(&self) -> Result<Option<QueueError>, QueueError> {
        let nothing = format!("{}nothing", self.keys().prefix());
        let moved: Result<Option<Vec<u8>>, _> =
            cmd("RPOPLPUSH").arg(&nothing).arg(&nothing).query_async(&mut self.commands()).await;
        match moved.map_err(QueueError::from) {
            Ok(_) => Ok(None),
            Err(error) if error.hindrance().is_some() => Ok(Some(error)),
            // A user who may only look: what others may do is not known.
            Err(QueueError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tenants whose last attempts all failed: they run one job at a time.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn broken_tenants(&self) -> Result<Vec<String>, QueueError> {
        let mut names: Vec<String> =
            cmd("SMEMBERS").arg(self.keys().broken()).query_async(&mut self.commands()).await?;
        names.sort_unstable();
        Ok(names)
    }

    /// Every worker's last heartbeat: its age by Redis' clock.
    async fn heartbeats(&self) -> Result<Vec<(String, Duration)>, QueueError> {
        let ((seconds, micros), beats): ((u64, u64), Vec<(String, u64)>) = pipe()
            .cmd("TIME")
            .cmd("ZRANGE")
            .arg(self.keys().workers())
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query_async(&mut self.commands())
            .await?;
        let now = seconds * 1000 + micros / 1000;
        Ok(beats
            .into_iter()
            .map(|(id, beat)| (id, Duration::from_millis(now.saturating_sub(beat))))
            .collect())
    }

    /// What each worker said of itself at its last heartbeat: id, the
    /// heartbeat's age by Redis' clock, description (JSON). Workers that said
    /// goodbye are left out.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn workers(&self) -> Result<Vec<(String, Duration, String)>, QueueError> {
        let mut workers = Vec::new();
        for (id, age) in self.heartbeats().await? {
            let description: Option<String> =
                cmd("GET").arg(self.keys().worker(&id)).query_async(&mut self.commands()).await?;
            workers.extend(description.map(|description| (id, age, description)));
        }
        Ok(workers)
    }
}
