//! The transitions in Rust: each function is one call to Redis, and reads as
//! the sentence that it is. Nothing here decides; nothing elsewhere speaks Redis.
//!
//! How its connections come about, and what they outlive, is in [`super::connect`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::ConnectionManager;
use ::redis::{cmd, pipe};

use super::connect::Connections;
use super::limits::{LimitSettings, Limits};
use super::scripts::Scripts;
use super::{Address, Keys, QueueError, Token};

/// How to reach one queue.
#[derive(Clone)]
pub struct QueueConfig {
    /// Where its Redis is.
    pub redis: Address,
    /// The queue's name.
    pub queue: String,
    /// This worker's id, unique per start.
    pub worker: String,
    /// How long a lease holds without a heartbeat.
    pub lease: Duration,
    /// How long a call may take before Redis counts as away.
    pub response_timeout: Duration,
    /// What the queue takes, where an operator set nothing in Redis.
    pub limits: LimitSettings,
    /// False in one test only, which shows what fencing prevents.
    #[doc(hidden)]
    pub fenced: bool,
}

impl std::fmt::Debug for QueueConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueConfig")
            .field("redis", &self.redis)
            .field("queue", &self.queue)
            .field("worker", &self.worker)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// One queue, as one worker (or command) sees it. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) keys: Keys,
    pub(super) scripts: Scripts,
    connections: Connections,
    pub(super) worker: String,
    pub(super) lease_ms: u64,
    tokens: AtomicU64,
    pub(super) limits: Limits,
    /// Where counting what is held goes on.
    pub(super) swept: AtomicU64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("worker", &self.inner.worker).finish_non_exhaustive()
    }
}

impl Queue {
    /// Connects, and loads the scripts.
    ///
    /// # Errors
    /// Where the URL cannot be used or Redis does not answer.
    pub async fn connect(config: QueueConfig) -> Result<Self, QueueError> {
        let connections = Connections::open(config.redis, config.response_timeout).await?;
        let maxmemory = memory(&mut connections.commands()).await?.max;
        let limits = config.limits.on(maxmemory);
        let queue = Self {
            inner: Arc::new(Inner {
                keys: Keys::new(&config.queue),
                scripts: Scripts::new(&limits, config.fenced),
                connections,
                worker: config.worker,
                lease_ms: millis(config.lease),
                tokens: AtomicU64::new(0),
                limits,
                swept: AtomicU64::new(0),
            }),
        };
        queue.load_scripts().await?;
        Ok(queue)
    }

    /// This worker's id.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.inner.worker
    }

    /// The keys of this queue.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// A token for one attempt.
    #[must_use]
    pub fn token(&self) -> Token {
        let number = self.inner.tokens.fetch_add(1, Ordering::Relaxed);
        format!("{}:{number}:{:08x}", self.inner.worker, rand::random::<u32>())
    }

    /// The hash by which Redis knows the script of the file called `name`: for
    /// tests that watch its calls.
    #[doc(hidden)]
    #[must_use]
    pub fn script_hash(&self, name: &str) -> Option<String> {
        self.inner.scripts.named(name).map(|script| script.hash().to_owned())
    }

    /// How long a lease holds, in milliseconds.
    pub(super) fn lease_ms(&self) -> u64 {
        self.inner.lease_ms
    }

    /// A dedicated connection for blocking reads of at most `block`.
    pub(super) async fn blocking_connection(
        &self,
        block: Duration,
    ) -> Result<::redis::aio::MultiplexedConnection, QueueError> {
        self.inner.connections.blocking(block).await
    }

    /// A connection for a command's own round trips; it is tried before it is given.
    ///
    /// # Errors
    /// Where none comes free, or Redis is away.
    pub async fn connection(&self) -> Result<deadpool_redis::Connection, QueueError> {
        self.inner.connections.pooled().await
    }

    /// Makes the shared connections anew: Redis was demoted, or has been silent for
    /// long, and the address may lead elsewhere by now.
    ///
    /// # Errors
    /// Where the address cannot be used any more.
    pub fn reconnect(&self) -> Result<(), QueueError> {
        self.inner.connections.renew()
    }

    pub(super) async fn load_scripts(&self) -> Result<(), QueueError> {
        let mut loads = pipe();
        for script in self.inner.scripts.all() {
            loads.add_command(script.load()).ignore();
        }
        Ok(loads.query_async(&mut self.commands()).await?)
    }

    /// The shared connection for documents and large results.
    pub(super) fn documents(&self) -> ConnectionManager {
        self.inner.connections.documents()
    }

    /// The shared connection for what is small.
    pub(super) fn commands(&self) -> ConnectionManager {
        self.inner.connections.commands()
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How full Redis is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RedisMemory {
    /// Bytes in use, as `maxmemory` counts them.
    pub used: u64,
    /// `maxmemory`; 0: none.
    pub max: u64,
}

impl RedisMemory {
    /// Whether so little is left that results may be refused: 95 % are in use.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.max > 0 && self.used / 19 >= self.max / 20
    }
}

/// Asks `INFO memory`; a Redis whose ACL forbids that is taken to have no limit.
pub(super) async fn memory(connection: &mut ConnectionManager) -> Result<RedisMemory, QueueError> {
    let info: String = match cmd("INFO").arg("memory").query_async(connection).await {
        Err(error) if error.code() == Some("NOPERM") => return Ok(RedisMemory::default()),
        answer => answer?,
    };
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Ok(RedisMemory { used: field("used_memory"), max: field("maxmemory") })
}
