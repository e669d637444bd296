//! A worker among others: it is listed while it lives, takes over what silent
//! ones left, and can be told what to do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::cmd;

use super::redis::RedisMemory;
use super::redis::{Inner, millis};
use super::{Claimed, Queue, QueueError};
use crate::job::Priority;

/// What `reap` and `promote` move in one call, and how often they are called in a row.
const SCRIPT_BATCH: u32 = 100;
const HOUSEKEEPING_ROUNDS: u32 = 50;
/// Less than this is no jump of the clock, and no absence of Redis: a living
/// worker keeps house each second and beats at least every ten.
const LEAST_GRACE_MS: u64 = 5_000;
/// While Redis is full, so many bytes of results may wait before claims pause: jobs
/// that end make room as long as somebody takes their results.
const HELD_WHEN_FULL: u64 = 16 << 20;
/// Calls of `sweep` in one round: about 10,000 results.
const SWEEPS: u32 = 20;
/// What documents take is known for so long after the last worker wrote it down.
const PREDICTIONS_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Verdicts on documents that are kept, and for how long after the last one.
const VERDICTS: isize = 1024;
/// About so many events are kept, as in `scripts/lib/base.lua`.
const EVENTS_KEPT: u32 = 10_000;
/// A worker that was silent for so long, with empty stages, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

impl Queue {
    /// What workers wrote down of what documents take, for one that begins.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn predictions(&self) -> Result<Option<String>, QueueError> {
        let key = self.inner.keys.predictions();
        let text: Option<Vec<u8>> = cmd("GET").arg(key).query_async(&mut self.commands()).await?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// Where Redis is away or full.
    pub async fn keep_predictions(&self, text: &str) -> Result<(), QueueError> {
        let mut set = cmd("SET");
        set.arg(self.inner.keys.predictions()).arg(text);
        set.arg("PX").arg(millis(PREDICTIONS_TTL));
        Ok(set.query_async(&mut self.commands()).await?)
    }

    /// Which documents were measured to need more than there was, oldest first.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn verdicts(&self) -> Result<Vec<String>, QueueError> {
        let mut range = cmd("LRANGE");
        range.arg(self.inner.keys.verdicts()).arg(0).arg(VERDICTS - 1);
        let mut lines: Vec<String> = range.query_async(&mut self.commands()).await?;
        lines.reverse();
        Ok(lines)
    }

    /// Adds one.
    ///
    /// # Errors
    /// Where Redis is away or full.
    pub async fn keep_verdict(&self, line: &str) -> Result<(), QueueError> {
        let key = self.inner.keys.verdicts();
        let mut add = ::redis::pipe();
        add.cmd("LPUSH").arg(&key).arg(line).ignore();
        add.cmd("LTRIM").arg(&key).arg(0).arg(VERDICTS - 1).ignore();
        add.cmd("PEXPIRE").arg(&key).arg(millis(PREDICTIONS_TTL)).ignore();
        Ok(add.query_async(&mut self.commands()).await?)
    }

    /// Writes an event of this worker's own, with its id as the code.
    ///
    /// # Errors
    /// Where Redis is away or full.
    pub async fn tell_event(&self, event: &'static str) -> Result<(), QueueError> {
        let Inner { keys, worker, .. } = &*self.inner;
        let mut add = cmd("XADD");
        add.arg(keys.events()).arg("MAXLEN").arg("~").arg(EVENTS_KEPT).arg("*");
        add.arg("event").arg(event).arg("job").arg("").arg("code").arg(worker);
        let _id: String = add.query_async(&mut self.commands()).await?;
        Ok(())
    }

    /// Housekeeping: expired leases and due jobs become ready, jobs past their
    /// deadline are leased to be ended, stages of silent workers go back to the
    /// inboxes, what was taken or ran out is no longer counted. Any worker may
    /// do it at any time. `expire`: whether this one ends overdue jobs.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn housekeep(&self, expire: bool) -> Result<Housekept, QueueError> {
        let Inner { keys, scripts, lease_ms, .. } = &*self.inner;
        let mut connection = self.commands();
        let (sound, paused, held) = self.guard().await?;
        let paused = (!paused.is_empty()).then_some(paused);
        let mut kept = Housekept { clock_holds: sound == 0, paused, held, ..Housekept::default() };
        // Each call moves a bounded number; a wave that is due at once takes some calls.
        for _ in 0..HOUSEKEEPING_ROUNDS {
            if kept.clock_holds {
                break;
            }
            let (now_reaped, now_promoted): (u32, u32) = (
                scripts
                    .reap
                    .key(keys.leased())
                    .arg(keys.prefix())
                    .arg(self.grace_ms())
                    .invoke(&mut connection)
                    .await?,
                scripts
                    .promote
                    .key(keys.delayed())
                    .arg(keys.prefix())
                    .arg(self.grace_ms())
                    .invoke(&mut connection)
                    .await?,
            );
            kept.reaped += now_reaped;
            kept.promoted += now_promoted;
            if now_reaped < SCRIPT_BATCH && now_promoted < SCRIPT_BATCH {
                break;
            }
        }
        if !kept.clock_holds {
            kept.adopted = scripts
                .adopt
                .key(keys.workers())
                .key(keys.inbox(Priority::Interactive))
                .key(keys.inbox(Priority::Bulk))
                .arg(keys.prefix())
                .arg(lease_ms)
                .arg(millis(FORGOTTEN_AFTER))
                .invoke(&mut connection)
                .await?;
        }
        self.sweep().await?;
        kept.memory = super::redis::memory(&mut connection).await?;
        // Last: no failure after it may throw the leases away.
        if expire && !kept.clock_holds {
            kept.overdue = self.overdue(SCRIPT_BATCH, self.grace_ms()).await?;
        }
        Ok(kept)
    }

    /// How long a living worker may take to be heard, after Redis was away.
    fn grace_ms(&self) -> u64 {
        (self.lease_ms() / 2).max(LEAST_GRACE_MS)
    }

    /// Whether Redis' clock can be believed now (1), why nothing is claimed, and what is held.
    async fn guard(&self) -> Result<(u8, String, u64), QueueError> {
        let Inner { keys, scripts, lease_ms, .. } = &*self.inner;
        Ok(scripts
            .guard
            .key(keys.state())
            .key(keys.leased())
            .key(keys.workers())
            .arg(keys.prefix())
            .arg(self.grace_ms())
            .arg(lease_ms)
            .invoke(&mut self.commands())
            .await?)
    }

    /// Goes on with counting what is held, from where it stopped the last time.
    async fn sweep(&self) -> Result<(), QueueError> {
        let Inner { keys, scripts, swept, worker, .. } = &*self.inner;
        for _ in 0..SWEEPS {
            let next: u64 = scripts
                .sweep
                .key(keys.held())
                .key(keys.dead())
                .arg(keys.prefix())
                .arg(swept.load(Ordering::Relaxed))
                .arg(worker)
                .invoke(&mut self.commands())
                .await?;
            swept.store(next, Ordering::Relaxed);
            if next == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Lists this worker among the living, if it is not: before it is handed an
    /// element, so that nobody's stage is without a worker that it belongs to.
    pub(super) async fn register(&self) -> Result<(), QueueError> {
        self.listed(None).await
    }

    /// Says goodbye: this worker takes no more elements and holds no leases.
    ///
    /// # Errors
    /// Where Redis is away; the worker is then forgotten later.
    pub async fn leave(&self) -> Result<(), QueueError> {
        // Seen as silent at once, so that a last element in a stage is adopted;
        // but not forgotten yet: Redis may hear later than we that a blocked
        // read is gone, and hand it an element meanwhile.
        self.listed(Some(self.lease_ms())).await
    }

    async fn listed(&self, silent_ms: Option<u64>) -> Result<(), QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        Ok(scripts
            .register
            .key(keys.workers())
            .key(keys.worker(worker))
            .arg(keys.prefix())
            .arg(worker)
            .arg(silent_ms.map(|ms| ms.to_string()).unwrap_or_default())
            .invoke(&mut self.commands())
            .await?)
    }

    /// Sends a command to one worker: JSON, see [`super::Control`].
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn control(&self, worker: &str, command: &str) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let mut call = scripts.tell.key(keys.control(worker));
        call.arg(keys.prefix()).arg(command);
        Ok(call.invoke(&mut self.commands()).await?)
    }

    /// Redis' clock, in milliseconds.
    pub(super) async fn now_ms(&self) -> Result<u64, QueueError> {
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut self.commands()).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

/// What one round of housekeeping moved and saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Housekept {
    /// Jobs whose lease ran out.
    pub reaped: u32,
    /// Delayed jobs whose time came.
    pub promoted: u32,
    /// Jobs past their deadline, leased to this worker to be ended.
    pub overdue: Vec<Claimed>,
    /// Elements taken from the stages of silent workers.
    pub adopted: u32,
    /// Whether Redis was away, or its clock jumped: nothing is reaped for a while.
    pub clock_holds: bool,
    /// Why nothing is claimed: `paused` by an operator, or `results_held`.
    pub paused: Option<String>,
    /// Bytes of results that wait for their producers.
    pub held: u64,
    /// How full Redis is.
    pub memory: RedisMemory,
}

impl Housekept {
    /// Why no job is started now, with the remedy.
    #[must_use]
    pub fn hindrance(&self) -> Option<String> {
        let held = shown(self.held);
        match self.paused.as_deref() {
            Some("paused") => {
                return Some("the queue is paused: `tillroll queue resume` starts it again".into());
            }
            Some(_) => {
                return Some(format!(
                    "{held} of results wait for their producers, as many as limits.held allows: take \
                     the replies, give shorter reply_ttl_ms or ttl_ms, or raise limits.held"
                ));
            }
            None => {}
        }
        let allowance = HELD_WHEN_FULL.min(self.memory.max / 16);
        (self.memory.is_nearly_full() && self.held > allowance).then(|| {
            format!(
                "redis is full ({} of its maxmemory, {}) and {held} of results wait for their \
                 producers: take the replies, or raise maxmemory",
                shown(self.memory.used),
                shown(self.memory.max)
            )
        })
    }
}

/// Bytes for reading, rounded down.
fn shown(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{} KB", bytes / 1000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_names_its_limit_and_few_bytes_too() {
        let held =
            |held| Housekept { paused: Some("results_held".into()), held, ..Housekept::default() };
        for (bytes, text) in [(700, "700 B"), (8_200, "8 KB"), (268_435_456, "268 MB")] {
            let why = held(bytes).hindrance().unwrap();
            assert!(why.starts_with(text) && why.contains("limits.held"), "{why}");
        }
        let memory = RedisMemory { used: 99 << 20, max: 100 << 20 };
        let full = Housekept { held: 20_000_000, memory, ..Housekept::default() };
        let why = full.hindrance().unwrap();
        assert!(
            why.contains("103 MB of its maxmemory, 104 MB") && why.contains("20 MB of"),
            "{why}"
        );
        assert_eq!(shown(1_290_000_000), "1.2 GB");
    }
}
