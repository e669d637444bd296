//! A worker among others: it is listed while it lives, takes over what silent
//! ones left, and can be told what to do.

use std::time::Duration;

use redis::{cmd, pipe};

use super::redis::{Inner, millis};
use super::{Queue, QueueError};
use crate::job::Priority;

/// What `reap` and `promote` move in one call, and how often they are called in a row.
const SCRIPT_BATCH: u32 = 100;
const HOUSEKEEPING_ROUNDS: u32 = 50;
/// A worker that was silent for so long, with empty stages, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

impl Queue {
    /// Housekeeping: expired leases and due jobs become ready, stages of
    /// silent workers go back to the inboxes. Any worker may do it at any time.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn housekeep(&self) -> Result<Housekept, QueueError> {
        let Inner { keys, scripts, lease_ms, .. } = &*self.inner;
        let mut connection = self.commands();
        let (mut reaped, mut promoted) = (0, 0);
        // Each call moves a bounded number; a wave that is due at once takes some calls.
        for _ in 0..HOUSEKEEPING_ROUNDS {
            let (now_reaped, now_promoted): (u32, u32) = (
                scripts
                    .reap
                    .key(keys.leased())
                    .arg(keys.prefix())
                    .invoke_async(&mut connection)
                    .await?,
                scripts
                    .promote
                    .key(keys.delayed())
                    .arg(keys.prefix())
                    .invoke_async(&mut connection)
                    .await?,
            );
            reaped += now_reaped;
            promoted += now_promoted;
            if now_reaped < SCRIPT_BATCH && now_promoted < SCRIPT_BATCH {
                break;
            }
        }
        let adopted = scripts
            .adopt
            .key(keys.workers())
            .key(keys.inbox(Priority::Interactive))
            .key(keys.inbox(Priority::Bulk))
            .arg(keys.prefix())
            .arg(lease_ms)
            .arg(millis(FORGOTTEN_AFTER))
            .invoke_async(&mut connection)
            .await?;
        Ok(Housekept { reaped, promoted, adopted })
    }

    /// Lists this worker among the living, if it is not: before it is handed an
    /// element, so that nobody's stage is without a worker that it belongs to.
    pub(super) async fn register(&self) -> Result<(), QueueError> {
        let Inner { keys, worker, .. } = &*self.inner;
        let now = self.now_ms().await?;
        Ok(cmd("ZADD")
            .arg(keys.workers())
            .arg("NX")
            .arg(now)
            .arg(worker)
            .query_async(&mut self.commands())
            .await?)
    }

    /// Says goodbye: this worker takes no more elements and holds no leases.
    ///
    /// # Errors
    /// Where Redis is away; the worker is then forgotten later.
    pub async fn leave(&self) -> Result<(), QueueError> {
        let Inner { keys, worker, lease_ms, .. } = &*self.inner;
        // Seen as silent at once, so that a last element in a stage is adopted;
        // but not forgotten yet: Redis may hear later than we that a blocked
        // read is gone, and hand it an element meanwhile.
        let silent = self.now_ms().await?.saturating_sub(*lease_ms);
        Ok(pipe()
            .cmd("ZADD")
            .arg(keys.workers())
            .arg(silent)
            .arg(worker)
            .ignore()
            .cmd("UNLINK")
            .arg(keys.worker(worker))
            .ignore()
            .query_async(&mut self.commands())
            .await?)
    }

    /// Sends a command to one worker: JSON, see [`super::Control`].
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn control(&self, worker: &str, command: &str) -> Result<(), QueueError> {
        let key = self.inner.keys.control(worker);
        Ok(pipe()
            .cmd("LPUSH")
            .arg(&key)
            .arg(command)
            .ignore()
            .cmd("EXPIRE")
            .arg(&key)
            .arg(60)
            .ignore()
            .query_async(&mut self.commands())
            .await?)
    }

    /// Redis' clock, in milliseconds.
    async fn now_ms(&self) -> Result<u64, QueueError> {
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut self.commands()).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

/// What one round of housekeeping moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Housekept {
    /// Jobs whose lease ran out.
    pub reaped: u32,
    /// Delayed jobs whose time came.
    pub promoted: u32,
    /// Elements taken from the stages of silent workers.
    pub adopted: u32,
}
