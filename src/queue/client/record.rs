//! What a queue knows about one job, without any document.

use std::collections::HashMap;

use redis::{Value, pipe};
use serde::Serialize;

use super::{Client, Reply};
use crate::job::{Name, Status};
use crate::queue::{Past, QueueError};

/// A reply above this is not fetched to read its first line.
const LARGEST_REPLY_READ: u64 = 4 * 1024 * 1024;

type Fields = HashMap<String, String>;
type Score = Option<f64>;

/// Where a job is in its life, as far as the queue knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There is neither a record nor a reply: it was not pushed, or still is in
    /// an inbox, or all its times are over.
    Unknown,
    /// It waits for a worker.
    Ready,
    /// A worker has it.
    Leased,
    /// It waits for its time, or for its next attempt.
    Delayed,
    /// There is a PDF.
    Done,
    /// It failed for good.
    Dead,
    /// Its deadline passed before it started.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
    /// It was never admitted; its refusal waits to be read.
    Rejected,
}

impl State {
    fn named(text: &str) -> Option<Self> {
        Some(match text {
            "ready" => Self::Ready,
            "leased" => Self::Leased,
            "delayed" => Self::Delayed,
            "done" => Self::Done,
            "dead" => Self::Dead,
            "expired" => Self::Expired,
            "cancelled" => Self::Cancelled,
            _ => return None,
        })
    }

    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Delayed => "delayed",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
        }
    }
}

impl From<Status> for State {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::Done,
            Status::Dead => Self::Dead,
            Status::Rejected => Self::Rejected,
            Status::Cancelled => Self::Cancelled,
            Status::Expired => Self::Expired,
        }
    }
}

/// Something of a job that Redis holds under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The key.
    pub key: String,
    /// How many bytes it takes, about.
    pub bytes: u64,
    /// How long it stays, in milliseconds; `None`: until the job has ended.
    pub ttl_ms: Option<u64>,
}

/// What the queue knows about a job. Times are milliseconds since 1970 by
/// Redis' clock; what does not apply is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// `<tenant>/<id>`.
    pub job: String,
    /// Where it is in its life.
    pub state: State,
    /// Redis' clock when this was read.
    pub now_ms: u64,
    /// `interactive` or `bulk`.
    pub priority: Option<String>,
    /// Bytes of header and document together.
    pub bytes: Option<u64>,
    /// Attempts that counted, one that runs included.
    pub attempts: u32,
    /// How many may count.
    pub max_attempts: Option<u32>,
    /// Workers that died or were cut off while they had it.
    pub crashes: u32,
    /// When it was admitted.
    pub admitted_ms: Option<u64>,
    /// When its last attempt began.
    pub claimed_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// When it expires if it has not started.
    pub deadline_ms: Option<u64>,
    /// When a delayed job is ready again.
    pub due_ms: Option<u64>,
    /// Why its last attempt failed: a bounded code.
    pub code: Option<String>,
    /// Who has it.
    pub worker: Option<String>,
    /// When its lease ends unless it is renewed.
    pub lease_until_ms: Option<u64>,
    /// How long the record stays.
    pub record_ttl_ms: Option<u64>,
    /// The document.
    pub document: Option<Held>,
    /// The reply that nobody has taken yet.
    pub reply: Option<Held>,
    /// The stored PDF.
    pub pdf: Option<Held>,
}

impl Client {
    /// Where a job is in its life, and where its reply and PDF are.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn status(&self, name: &Name) -> Result<Record, QueueError> {
        let keys = self.keys();
        let shown = name.to_string();
        let mut connection = self.connection().await?;
        type Answer = ((u64, u64), Fields, i64, Score, Score, Score);
        let (time, fields, ttl, due, lease, until): Answer = pipe()
            .cmd("TIME")
            .cmd("HGETALL")
            .arg(keys.job(name))
            .cmd("PTTL")
            .arg(keys.job(name))
            .cmd("ZSCORE")
            .arg(keys.delayed())
            .arg(&shown)
            .cmd("ZSCORE")
            .arg(keys.leased())
            .arg(&shown)
            .cmd("ZSCORE")
            .arg(keys.dead())
            .arg(&shown)
            .query_async(&mut connection)
            .await?;
        let held = [keys.document(name), keys.reply(name), keys.pdf(name)];
        let mut questions = pipe();
        for key in &held {
            questions.cmd("MEMORY").arg("USAGE").arg(key).cmd("PTTL").arg(key);
        }
        let sizes: [(Option<u64>, i64); 3] = {
            let [a, b, c, d, e, f]: [Option<i64>; 6] =
                questions.query_async(&mut connection).await?;
            let size = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
            [(size(a), b.unwrap_or(-2)), (size(c), d.unwrap_or(-2)), (size(e), f.unwrap_or(-2))]
        };
        // outcome() asks again, and the pool may have one connection only.
        drop(connection);
        let mut held = held.into_iter().zip(sizes).map(|(key, (bytes, ttl))| {
            bytes.map(|bytes| Held { key, bytes, ttl_ms: positive(ttl) })
        });
        let (document, reply, pdf) =
            (held.next().flatten(), held.next().flatten(), held.next().flatten());
        let number = |field: &str| fields.get(field).and_then(|text| text.parse::<u64>().ok());
        let small = |field| number(field).and_then(|n| u32::try_from(n).ok());
        let state = fields.get("state").and_then(|text| State::named(text));
        let now_ms = time.0 * 1000 + time.1 / 1000;
        // A dead letter has no time to live in Redis: housekeeping takes it.
        let dead_ttl = until.map(|until| whole(until).saturating_sub(now_ms));
        let mut record = Record {
            job: shown,
            state: state.unwrap_or(State::Unknown),
            now_ms,
            priority: fields.get("priority").cloned(),
            bytes: number("bytes"),
            attempts: small("attempts").unwrap_or(0),
            max_attempts: small("max"),
            admitted_ms: number("admitted"),
            claimed_ms: number("claimed"),
            ended_ms: number("ended").filter(|at| *at > 0),
            deadline_ms: number("deadline").filter(|at| *at > 0),
            due_ms: due.map(whole),
            worker: fields.get("worker").cloned(),
            lease_until_ms: lease.map(whole),
            record_ttl_ms: positive(ttl).or(dead_ttl),
            code: fields.get("code").filter(|code| *code != "ok").cloned(),
            crashes: small("crashes").unwrap_or(0),
            document,
            reply,
            pdf,
        };
        // Its record is over, or it never had one: what is held tells its end.
        if state.is_none() && (record.reply.is_some() || record.pdf.is_some()) {
            let outcome = self.outcome(name, &record).await?;
            // Only a PDF makes a reply too large to be looked into.
            record.state = outcome.map_or(State::Done, |reply| reply.status.into());
        }
        Ok(record)
    }

    /// What became of a job's attempts that did not end well, the newest last.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn history(&self, name: &Name) -> Result<Vec<Past>, QueueError> {
        let mut question = redis::cmd("LRANGE");
        question.arg(self.keys().history(name)).arg(0).arg(-1);
        let lines: Vec<String> = question.query_async(&mut self.connection().await?).await?;
        Ok(lines.iter().filter_map(|line| Past::read(line)).collect())
    }

    /// What the reply of an ended job says, if it is still held and nobody has
    /// taken it, or its PDF is stored; the PDF itself is not given. A reply of
    /// more than 4 MiB is not looked into.
    ///
    /// # Errors
    /// Where Redis is away, or what is held is no reply.
    pub async fn outcome(&self, name: &Name, record: &Record) -> Result<Option<Reply>, QueueError> {
        let small =
            record.reply.as_ref().filter(|reply| reply.bytes <= LARGEST_REPLY_READ).is_some();
        let mut questions = pipe();
        questions.cmd("GET").arg(self.keys().result(name));
        if small {
            questions.cmd("LINDEX").arg(self.keys().reply(name)).arg(0);
        }
        let answers: Vec<Value> = questions.query_async(&mut self.connection().await?).await?;
        for answer in answers {
            if let Value::BulkString(element) = answer {
                return super::Answer::read(element).reply().map(Some);
            }
        }
        Ok(None)
    }
}

/// Redis' time to live: -1 is for ever, -2 is no key.
fn positive(ttl: i64) -> Option<u64> {
    u64::try_from(ttl).ok()
}

/// A score that is a time: whole milliseconds, well within what a float holds.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of Redis' clock are positive and below 2^53"
)]
fn whole(score: f64) -> u64 {
    score as u64
}
