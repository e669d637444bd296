//! The producer's side: push a job, wait for its reply.
//!
//! Exactly what any other language does with plain commands (`LPUSH`, `BLPOP`);
//! see `docs/protocol.md`. Connections come from a small pool; a wait holds one
//! for as long as it lasts.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::{AsyncConnectionConfig, IntoConnectionInfo, cmd, pipe};

use super::{Keys, QueueError};
use crate::job::{Name, Priority};

/// No wait blocks for longer on the server; a longer one asks again.
const BLOCK: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A producer of one queue. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Pool,
    keys: Keys,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// One reply: the JSON line, and the bytes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reply's JSON line.
    pub line: String,
    /// The PDF, where it travels in the reply (base64 where that was asked for).
    pub body: Vec<u8>,
}

impl Answer {
    /// Splits a reply element.
    #[must_use]
    pub fn read(mut element: Vec<u8>) -> Self {
        match element.iter().position(|byte| *byte == b'\n') {
            None => Self { line: String::from_utf8_lossy(&element).into_owned(), body: Vec::new() },
            Some(at) => {
                let body = element.split_off(at + 1);
                element.truncate(at);
                Self { line: String::from_utf8_lossy(&element).into_owned(), body }
            }
        }
    }
}

impl Client {
    /// A client with at most `connections` connections, made when first needed.
    ///
    /// # Errors
    /// Where the URL cannot be used.
    pub fn new(url: &str, queue: &str, connections: usize) -> Result<Self, QueueError> {
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = url.into_connection_info().map_err(QueueError::Url)?.set_tcp_settings(tcp);
        let settings = AsyncConnectionConfig::new()
            .set_response_timeout(Some(BLOCK + RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(RESPONSE_TIMEOUT));
        let manager = Manager::new_with_config(info, settings).map_err(QueueError::Url)?;
        let pool = Pool::builder(manager)
            .max_size(connections.max(1))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| QueueError::Unexpected {
                what: "the pool",
                answer: error.to_string(),
            })?;
        Ok(Self { pool, keys: Keys::new(queue) })
    }

    /// The keys of the queue.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    async fn connection(&self) -> Result<deadpool_redis::Connection, QueueError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error.into(),
            other => QueueError::Pool(other),
        })
    }

    /// Pushes one element (header line and document).
    ///
    /// # Errors
    /// Where Redis is away, or full.
    pub async fn push(&self, priority: Priority, element: &[u8]) -> Result<(), QueueError> {
        self.push_many(priority, std::iter::once(element)).await
    }

    /// Pushes many elements in one round trip.
    ///
    /// # Errors
    /// Where Redis is away, or full: then none, some or all of them were
    /// pushed; pushing them again is safe where each has an id.
    pub async fn push_many<'e>(
        &self,
        priority: Priority,
        elements: impl IntoIterator<Item = &'e [u8]>,
    ) -> Result<(), QueueError> {
        let inbox = self.keys.inbox(priority);
        let mut pushes = pipe();
        for element in elements {
            pushes.cmd("LPUSH").arg(&inbox).arg(element).ignore();
        }
        Ok(pushes.query_async(&mut self.connection().await?).await?)
    }

    /// Waits for a job's reply and takes it; `None` once `wait` is over.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn take(&self, name: &Name, wait: Duration) -> Result<Option<Answer>, QueueError> {
        let key = self.keys.reply(name);
        let give_up = tokio::time::Instant::now() + wait;
        let mut connection = self.connection().await?;
        loop {
            let left = give_up.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Whole seconds, as Redis 6.0 had best; never zero, which waits for ever.
            let block = left.min(BLOCK).as_secs().max(1);
            let reply: Option<(String, Vec<u8>)> =
                cmd("BLPOP").arg(&key).arg(block).query_async(&mut connection).await?;
            if let Some((_, element)) = reply {
                return Ok(Some(Answer::read(element)));
            }
        }
    }

    /// A stored PDF, while it is held.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn stored(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        Ok(cmd("GET").arg(key).query_async(&mut self.connection().await?).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_split_at_its_first_newline() {
        let answer = Answer::read(b"{\"v\":1}\n%PDF-1.4\n%%EOF".to_vec());
        assert_eq!(answer.line, "{\"v\":1}");
        assert_eq!(answer.body, b"%PDF-1.4\n%%EOF");
        let answer = Answer::read(b"{\"v\":1}".to_vec());
        assert!(answer.body.is_empty() && answer.line == "{\"v\":1}");
    }
}
