//! The transitions in Rust: each function is one call to Redis, and reads as
//! the sentence that it is. Nothing here decides; nothing elsewhere speaks Redis.
//!
//! How its connections come about, and what they outlive, is in [`super::connect`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::ConnectionManager;
use ::redis::{Value, cmd, pipe};
use base64::Engine as _;
use bytes::Bytes;

use super::connect::Connections;
use super::scripts::Scripts;
use super::{Address, Admitted, Claimed, Ending, Keys, Lease, QueueError, Settled, Token};
use crate::failure::BROWSER_DIED;
use crate::job::{Job, Name, Output, Priority};

/// How long a result may wait between being pushed and being accepted.
const OUT_TTL_MS: u64 = 60_000;
/// Refused above this many living jobs.
const MAX_JOBS: u64 = 1_000_000;
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
        let queue = Self {
            inner: Arc::new(Inner {
                keys: Keys::new(&config.queue),
                scripts: Scripts::new(),
                connections,
                worker: config.worker,
                lease_ms: millis(config.lease),
                tokens: AtomicU64::new(0),
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

    /// A connection for a command's own round trips.
    ///
    /// # Errors
    /// Where none comes free, or Redis is away.
    pub async fn connection(&self) -> Result<deadpool_redis::Connection, QueueError> {
        self.inner.connections.pooled().await
    }

    async fn load_scripts(&self) -> Result<(), QueueError> {
        let mut loads = pipe();
        for script in self.inner.scripts.all() {
            loads.load_script(script).ignore();
        }
        Ok(loads.query_async(&mut self.commands()).await?)
    }

    /// The shared connection.
    pub(super) fn commands(&self) -> ConnectionManager {
        self.inner.connections.commands()
    }

    /// Admits the element in this worker's stage as `job`; with a token, claims the next job too.
    ///
    /// # Errors
    /// Where Redis is away; calling again with the same token is safe.
    pub async fn admit(
        &self,
        inbox: Priority,
        job: &Job,
        bytes: usize,
        next: Option<&Token>,
    ) -> Result<(Admitted, Option<Claimed>), QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let name = &job.name;
        let mut call = scripts.admit.prepare_invoke();
        call.key(keys.stage(inbox, worker))
            .key(keys.job(name))
            .key(keys.document(name))
            .key(keys.reply(name))
            .key(keys.pdf(name))
            .key(keys.result(name))
            .key(keys.inbox(inbox))
            .arg(keys.prefix())
            .arg(name.to_string())
            .arg(job.priority.as_str())
            .arg(&job.digest)
            .arg(bytes)
            .arg(millis(job.delay))
            .arg(job.deadline.map_or(0, millis))
            .arg(job.max_attempts)
            .arg(millis(job.reply_ttl))
            .arg(job.reply_to.as_deref().unwrap_or(""))
            .arg(MAX_JOBS)
            .arg(worker)
            .arg(next.map_or("", String::as_str))
            .arg(lease_ms);
        let (outcome, claim): (String, Value) = call.invoke_async(&mut self.commands()).await?;
        let admitted = match outcome.as_str() {
            "admitted" => Admitted::Admitted,
            "duplicate" => Admitted::Duplicate,
            "held" => Admitted::Held,
            "conflict" => Admitted::Conflict,
            "full" => Admitted::Full,
            "gone" => Admitted::Gone,
            _ => return Err(unexpected("admit", &outcome)),
        };
        Ok((admitted, self.claimed(claim, next)?))
    }

    /// Takes the element out of this worker's stage and answers its producer with `line`.
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn reject(
        &self,
        inbox: Priority,
        name: Option<&Name>,
        code: &str,
        line: &str,
        reply_ttl: Duration,
        reply_to: Option<&str>,
    ) -> Result<(), QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        let mut call = scripts.reject.prepare_invoke();
        call.key(keys.stage(inbox, worker));
        match name {
            Some(name) => call.key(keys.job(name)).key(keys.reply(name)),
            None => call.key(keys.malformed()).key(keys.malformed()),
        };
        call.key(keys.malformed())
            .key(keys.inbox(inbox))
            .arg(keys.prefix())
            .arg(name.map(ToString::to_string).unwrap_or_default())
            .arg(code)
            .arg(line)
            .arg(millis(reply_ttl))
            .arg(reply_to.unwrap_or(""));
        let outcome: String = call.invoke_async(&mut self.commands()).await?;
        match outcome.as_str() {
            "replied" | "unanswered" | "gone" => Ok(()),
            _ => Err(unexpected("reject", &outcome)),
        }
    }

    /// Claims the next ready job under `token`, if there is one.
    ///
    /// # Errors
    /// Where Redis is away; calling again with the same token is safe.
    pub async fn claim(&self, token: &Token) -> Result<Option<Claimed>, QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let claim: Value = scripts
            .claim
            .arg(keys.prefix())
            .arg(worker)
            .arg(token)
            .arg(lease_ms)
            .invoke_async(&mut self.commands())
            .await?;
        self.claimed(claim, Some(token))
    }

    /// A claimed job's element, as it was pushed; `None` where Redis has lost it.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn element(&self, name: &Name) -> Result<Option<Vec<u8>>, QueueError> {
        let mut connection = self.connection().await?;
        let key = self.inner.keys.document(name);
        Ok(cmd("LINDEX").arg(key).arg(0).query_async(&mut connection).await?)
    }

    /// Ends a job for good; with a token, claims the next one in the same call.
    ///
    /// # Errors
    /// Where Redis is away; calling again with the same arguments is safe.
    pub async fn finish(
        &self,
        lease: &Lease,
        ending: &Ending,
        next: Option<&Token>,
    ) -> Result<(Settled, Option<Claimed>), QueueError> {
        let (outcome, claim) = match self.send_ending(lease, ending, next).await {
            // A restarted Redis has forgotten the scripts.
            Err(error) if error.kind() == no_script() => {
                self.load_scripts().await?;
                self.send_ending(lease, ending, next).await?
            }
            other => other?,
        };
        let settled = match outcome.as_str() {
            "accepted" | "repeated" => Settled::Accepted,
            "stale" => Settled::Stale,
            // `missing`: Redis evicted what was just pushed. The caller tries again, with a pause.
            _ => return Err(unexpected("finish", &outcome)),
        };
        Ok((settled, self.claimed(claim, next)?))
    }

    /// Pushes the result under a key of its own and settles, in one round trip:
    /// the script only renames it, so that no PDF is copied into Lua.
    async fn send_ending(
        &self,
        lease: &Lease,
        ending: &Ending,
        next: Option<&Token>,
    ) -> Result<(String, Value), ::redis::RedisError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let name = &lease.name;
        let out = keys.out(&lease.token);
        let mut calls = pipe();
        let (kind, stored_ttl) = match (&ending.pdf, ending.output) {
            (None, _) => ("none", 0),
            (Some(pdf), Output::Reply { base64 }) => {
                calls.cmd("UNLINK").arg(&out).ignore();
                calls.cmd("RPUSH").arg(&out).arg(reply_element(&ending.line, pdf, base64)).ignore();
                calls.cmd("PEXPIRE").arg(&out).arg(OUT_TTL_MS).ignore();
                ("reply", 0)
            }
            (Some(pdf), Output::Stored { ttl }) => {
                calls.cmd("SET").arg(&out).arg(pdf.as_ref()).arg("PX").arg(OUT_TTL_MS).ignore();
                ("stored", millis(ttl))
            }
        };
        calls
            .cmd("EVALSHA")
            .arg(scripts.finish.get_hash())
            .arg(6)
            .arg(keys.job(name))
            .arg(keys.document(name))
            .arg(&out)
            .arg(keys.reply(name))
            .arg(keys.pdf(name))
            .arg(keys.result(name))
            .arg(keys.prefix())
            .arg(name.to_string())
            .arg(&lease.token)
            .arg(worker)
            .arg(ending.status.as_str())
            .arg(kind)
            .arg(if kind == "reply" { "" } else { ending.line.as_str() })
            .arg(millis(ending.reply_ttl))
            .arg(stored_ttl)
            .arg(millis(ending.retain))
            .arg(ending.reply_to.as_deref().unwrap_or(""))
            .arg(ending.code)
            .arg(next.map_or("", String::as_str))
            .arg(lease_ms);
        let (answer,): ((String, Value),) = calls.query_async(&mut self.commands()).await?;
        Ok(answer)
    }

    /// The attempt ended without a result: ready again after `delay`.
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn retry(
        &self,
        lease: &Lease,
        delay: Duration,
        counted: bool,
        code: &str,
    ) -> Result<Settled, QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        let outcome: String = scripts
            .retry
            .key(keys.job(&lease.name))
            .arg(keys.prefix())
            .arg(lease.name.to_string())
            .arg(&lease.token)
            .arg(worker)
            .arg(millis(delay))
            .arg(u8::from(counted))
            .arg(code)
            .arg(u8::from(code == BROWSER_DIED))
            .invoke_async(&mut self.commands())
            .await?;
        match outcome.as_str() {
            "accepted" | "repeated" => Ok(Settled::Accepted),
            "stale" => Ok(Settled::Stale),
            _ => Err(unexpected("retry", &outcome)),
        }
    }

    /// One heartbeat: says that this worker lives, describes it, keeps its
    /// leases. Returns the tokens whose lease is lost.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn renew(
        &self,
        leases: &[(Name, Token)],
        description: &str,
    ) -> Result<Vec<Token>, QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let mut call = scripts.renew.prepare_invoke();
        call.key(keys.workers()).key(keys.worker(worker));
        call.arg(keys.prefix()).arg(worker).arg(description).arg(lease_ms);
        for (name, token) in leases {
            call.arg(name.to_string()).arg(token);
        }
        Ok(call.invoke_async(&mut self.commands()).await?)
    }

    fn claimed(&self, value: Value, token: Option<&Token>) -> Result<Option<Claimed>, QueueError> {
        let fields: Vec<String> = match (value, token) {
            (Value::Nil | Value::Boolean(false), _) | (_, None) => return Ok(None),
            (value, Some(_)) => ::redis::from_redis_value(value).map_err(|error| {
                QueueError::Unexpected { what: "claim", answer: error.to_string() }
            })?,
        };
        let [name, attempts, max, admitted, deadline, crashes, priority, now] = fields.as_slice()
        else {
            return Err(unexpected("claim", &fields.join(" ")));
        };
        let number = |text: &String| text.parse::<u64>().ok();
        let parsed = || {
            let deadline = number(deadline)?;
            let claimed_ms = number(now)?;
            Some(Claimed {
                lease: Lease { name: Name::parse(name)?, token: token?.clone() },
                attempt: attempts.parse().ok()?,
                max_attempts: max.parse().ok()?,
                admitted_ms: number(admitted)?,
                claimed_ms,
                expired: deadline > 0 && claimed_ms > deadline,
                crashes: crashes.parse().ok()?,
                priority: Priority::from_name(priority)?,
            })
        };
        parsed().map(Some).ok_or_else(|| unexpected("claim", &fields.join(" ")))
    }
}

fn no_script() -> ::redis::ErrorKind {
    ::redis::ErrorKind::Server(::redis::ServerErrorKind::NoScript)
}

fn unexpected(what: &'static str, answer: &str) -> QueueError {
    QueueError::Unexpected { what, answer: answer.chars().take(200).collect() }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `<json>\n<pdf>`: one allocation, the PDF copied (or encoded) once.
fn reply_element(line: &str, pdf: &Bytes, base64: bool) -> Vec<u8> {
    let mut element =
        Vec::with_capacity(line.len() + 1 + if base64 { pdf.len() * 4 / 3 + 4 } else { pdf.len() });
    element.extend_from_slice(line.as_bytes());
    element.push(b'\n');
    if base64 {
        let start = element.len();
        element.resize(start + pdf.len().div_ceil(3) * 4, 0);
        let written = base64::engine::general_purpose::STANDARD
            .encode_slice(pdf, &mut element[start..])
            .unwrap_or_default();
        element.truncate(start + written);
    } else {
        element.extend_from_slice(pdf);
    }
    element
}
