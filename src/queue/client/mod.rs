//! The producer's side: push a receipt, wait for its reply, ask what became of it.
//!
//! Exactly what any other language does with plain commands (`LPUSH`, `BLPOP`,
//! `BRPOPLPUSH`); see `docs/protocol.md`. Pure parts: [`Receipt`] makes the
//! element, [`Reply`] reads the answer.
//!
//! ```no_run
//! use std::time::Duration;
//! use tillroll::client::{Client, Receipt, Status};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("redis://127.0.0.1:6379", "receipts", 4)?;
//! let receipt = Receipt::new("<h1>Receipt</h1>").tenant("cafe").option("paper", "80mm");
//! let element = receipt.element()?;
//! client.send(&element).await?;
//! if let Some(answer) = client.take(element.name(), Duration::from_secs(30)).await? {
//!     let reply = answer.reply()?;
//!     assert_eq!(reply.status, Status::Done);
//!     let pdf = client.pdf(answer, &reply).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Connections come from a small pool; a wait holds one for as long as it
//! lasts. A wait that is dropped closes its connection: Redis would otherwise
//! answer the dropped command, and a reply that was to be taken would be lost.

mod events;
mod receipt;
mod record;
mod reply;

use std::time::Duration;

use deadpool_redis::Connection;
use redis::{Cmd, FromRedisValue, cmd, pipe};
use tokio::time::Instant;

pub use self::events::Event;
pub use self::receipt::{Element, Receipt};
pub use self::record::{Held, Record, State};
pub use self::reply::{Answer, Place, Reply, ReplyError, Warning};
pub use super::Past;
use super::connect::Bodies;
pub use super::connect::{Address, TlsFiles};
use super::{Keys, QueueError};
pub use crate::job::reply::Timings;
pub use crate::job::{Name, Output, Priority, Status};

/// No wait blocks for longer on the server; a longer one asks again.
const BLOCK: Duration = Duration::from_secs(10);
/// Nor for less: Redis reads a wait of nothing as one without an end. (Fractions of
/// a second are understood from 6.0 on.)
const SHORTEST_BLOCK: Duration = Duration::from_millis(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// A round trip carries no more than this, unless one element is larger: Redis
/// holds all of it in memory before the first command is done.
const PIPELINE_BYTES: usize = 4 * 1024 * 1024;
const PIPELINE_COMMANDS: usize = 1000;

/// A producer of one queue. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Bodies,
    keys: Keys,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// What a wait does with a reply that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody else gets it.
    Take,
    /// It stays for others, until its time is over.
    Read,
}

/// A connection that a blocking command may still run on: closed, not put back
/// into the pool, unless the answer has come.
struct Waiting(Option<Connection>);

impl Waiting {
    async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, QueueError> {
        let Some(connection) = &mut self.0 else {
            return Err(QueueError::Unexpected {
                what: "a wait",
                answer: "it was over".to_owned(),
            });
        };
        Ok(command.query_async(connection).await?)
    }

    fn answered(mut self) {
        // Back into the pool.
        drop(self.0.take());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
        }
    }
}

impl Client {
    /// A client with at most `connections` connections, made when first needed.
    /// `redis` is a URL, or an [`Address`] where TLS needs files of its own.
    ///
    /// # Errors
    /// Where the URL or a file cannot be used.
    pub fn new(
        redis: impl Into<Address>,
        queue: &str,
        connections: usize,
    ) -> Result<Self, QueueError> {
        let response = BLOCK + RESPONSE_TIMEOUT;
        let pool = redis.into().pool(connections.max(1), RESPONSE_TIMEOUT, response, None)?;
        Ok(Self { pool, keys: Keys::new(queue) })
    }

    /// The keys of the queue.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    async fn connection(&self) -> Result<Connection, QueueError> {
        self.pool.get().await
    }

    /// Pushes one receipt.
    ///
    /// # Errors
    /// Where Redis is away, or full.
    pub async fn send(&self, element: &Element) -> Result<(), QueueError> {
        self.push(element.priority(), element.bytes()).await
    }

    /// Pushes many receipts in few round trips, a bounded number of bytes each.
    ///
    /// # Errors
    /// As [`Client::push_many`].
    pub async fn send_many(&self, elements: &[Element]) -> Result<(), QueueError> {
        for priority in [Priority::Interactive, Priority::Bulk] {
            let these = elements.iter().filter(|element| element.priority() == priority);
            self.push_many(priority, these.map(Element::bytes)).await?;
        }
        Ok(())
    }

    /// Pushes one element (header line and document).
    ///
    /// # Errors
    /// Where Redis is away, or full.
    pub async fn push(&self, priority: Priority, element: &[u8]) -> Result<(), QueueError> {
        self.push_many(priority, std::iter::once(element)).await
    }

    /// Pushes many elements in few round trips, a bounded number of bytes each.
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
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let mut pushes = pipe();
            let (mut bytes, mut commands) = (0, 0);
            while let Some(element) = elements.next_if(|element| {
                commands == 0
                    || (commands < PIPELINE_COMMANDS && bytes + element.len() <= PIPELINE_BYTES)
            }) {
                (bytes, commands) = (bytes + element.len(), commands + 1);
                pushes.cmd("LPUSH").arg(&inbox).arg(element).ignore();
            }
            let () = pushes.query_async(&mut self.connection().await?).await?;
        }
        Ok(())
    }

    /// Takes an element back that no worker has read yet: it never becomes a job.
    /// Whether it was still there.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn withdraw(&self, element: &Element) -> Result<bool, QueueError> {
        let mut command = cmd("LREM");
        // One, from the end at which it was pushed.
        command.arg(self.keys.inbox(element.priority())).arg(1).arg(element.bytes());
        let removed: u64 = command.query_async(&mut self.connection().await?).await?;
        Ok(removed > 0)
    }

    /// Waits for a job's reply and takes it: nobody else gets it. `None` once
    /// `wait` is over.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn take(&self, name: &Name, wait: Duration) -> Result<Option<Answer>, QueueError> {
        self.take_until(name, Instant::now() + wait).await
    }

    /// As [`Client::take`], until `deadline`. A reply that is there already is
    /// taken however late it is.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn take_until(
        &self,
        name: &Name,
        deadline: Instant,
    ) -> Result<Option<Answer>, QueueError> {
        self.wait(Way::Take, name, deadline).await
    }

    /// Waits for a job's reply and leaves it where it is: several may wait for the
    /// same one, and read it until its time is over. `None` once `wait` is over.
    ///
    /// # Errors
    /// Where Redis is away, or full: reading is a write there, taking is not.
    pub async fn read(&self, name: &Name, wait: Duration) -> Result<Option<Answer>, QueueError> {
        self.read_until(name, Instant::now() + wait).await
    }

    /// As [`Client::read`], until `deadline`.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn read_until(
        &self,
        name: &Name,
        deadline: Instant,
    ) -> Result<Option<Answer>, QueueError> {
        self.wait(Way::Read, name, deadline).await
    }

    async fn wait(
        &self,
        way: Way,
        name: &Name,
        deadline: Instant,
    ) -> Result<Option<Answer>, QueueError> {
        let key = self.keys.reply(name);
        let mut waiting = Waiting(Some(self.connection().await?));
        let element = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let element = if left.is_zero() {
                waiting.query::<Option<Vec<u8>>>(&without_waiting(way, &key)).await?
            } else {
                let block = left.clamp(SHORTEST_BLOCK, BLOCK).as_secs_f64();
                match way {
                    Way::Take => {
                        let mut command = cmd("BLPOP");
                        command.arg(&key).arg(block);
                        let popped: Option<(String, Vec<u8>)> = waiting.query(&command).await?;
                        popped.map(|(_, element)| element)
                    }
                    Way::Read => {
                        let mut command = cmd("BRPOPLPUSH");
                        waiting.query(command.arg(&key).arg(&key).arg(block)).await?
                    }
                }
            };
            if element.is_some() || left.is_zero() {
                break element;
            }
        };
        waiting.answered();
        Ok(element.map(Answer::read))
    }

    /// The PDF of a reply: from the reply, decoded, or from the key where it is
    /// stored. `None` where there is none, or it is no longer held.
    ///
    /// # Errors
    /// Where Redis is away, or the reply cannot be decoded.
    pub async fn pdf(&self, answer: Answer, reply: &Reply) -> Result<Option<Vec<u8>>, QueueError> {
        match reply.output.as_ref().and_then(|place| place.key.as_deref()) {
            Some(key) => self.stored(key).await,
            None => answer.pdf(reply),
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

fn without_waiting(way: Way, key: &str) -> Cmd {
    match way {
        Way::Take => {
            let mut command = cmd("LPOP");
            command.arg(key);
            command
        }
        Way::Read => {
            let mut command = cmd("RPOPLPUSH");
            command.arg(key).arg(key);
            command
        }
    }
}
