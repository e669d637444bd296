//! What happens in a queue: the event stream, names and codes only.

use std::collections::HashMap;
use std::time::Duration;

use redis::cmd;
use redis::streams::StreamReadReply;
use serde::Serialize;

use super::{BLOCK, Client, SHORTEST_BLOCK, Waiting};
use crate::queue::QueueError;

/// How many events one answer carries.
const PAGE: usize = 1000;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Redis' id of it; what comes later has a greater one.
    pub id: String,
    /// When, in milliseconds since 1970 by Redis' clock.
    pub at_ms: u64,
    /// What: `admitted`, `done`, `dead`, `retried`, … (`docs/protocol.md`).
    pub event: String,
    /// The job's name; empty where an element had none.
    pub job: String,
    /// A bounded code: why, or the priority of an admitted job.
    pub code: String,
}

impl Event {
    fn new(id: String, mut fields: HashMap<String, redis::Value>) -> Self {
        let mut text = |name: &str| {
            let value = fields.remove(name).unwrap_or(redis::Value::Nil);
            redis::from_redis_value::<String>(value).unwrap_or_default()
        };
        let at = id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        Self { event: text("event"), job: text("job"), code: text("code"), at_ms: at, id }
    }
}

impl Client {
    /// The id of the newest event: what comes after it has not happened yet.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn newest_event(&self) -> Result<String, QueueError> {
        let newest: redis::streams::StreamRangeReply = cmd("XREVRANGE")
            .arg(self.keys().events())
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1)
            .query_async(&mut self.connection().await?)
            .await?;
        Ok(newest.ids.into_iter().next().map_or_else(|| "0-0".to_owned(), |entry| entry.id))
    }

    /// Redis' clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn clock(&self) -> Result<u64, QueueError> {
        let (seconds, micros): (u64, u64) =
            cmd("TIME").query_async(&mut self.connection().await?).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// The events after `id`, oldest first; waits up to `wait` for the first one.
    /// The stream holds about the newest 10,000.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn events_after(&self, id: &str, wait: Duration) -> Result<Vec<Event>, QueueError> {
        let block = u64::try_from(wait.clamp(SHORTEST_BLOCK, BLOCK).as_millis()).unwrap_or(1000);
        let mut waiting = Waiting(Some(self.connection().await?));
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(PAGE).arg("BLOCK").arg(block);
        command.arg("STREAMS").arg(self.keys().events()).arg(id);
        let heard: Option<StreamReadReply> = waiting.query(&command).await?;
        waiting.answered();
        let entries = heard.into_iter().flat_map(|heard| heard.keys).flat_map(|key| key.ids);
        Ok(entries.map(|entry| Event::new(entry.id, entry.map)).collect())
    }
}
