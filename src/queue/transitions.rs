//! The transitions of a job in Rust: each function is one call to Redis, and
//! reads as the sentence that it is. Nothing here decides.

use std::time::Duration;

use ::redis::{Value, cmd, pipe};
use base64::Engine as _;
use bytes::Bytes;
use tokio::time::Instant;

use super::redis::{Inner, Queue, millis};
use super::script::By;
use super::{Admitted, Claimed, Ending, Lease, Next, Past, QueueError, Renewed, Settled, Token};
use crate::job::{Job, Name, Output, Priority, Rules};

/// How long a result may wait between being pushed and being accepted.
const OUT_TTL_MS: u64 = 60_000;
/// A result of this size or more travels with the documents, so that heartbeats and
/// claims do not wait behind it.
const LARGE_RESULT: usize = 256 * 1024;
/// Why a job is released of which nothing was done: its deadline holds still.
pub const UNBEGUN: &str = "unbegun";

impl Queue {
    /// Admits the element in this worker's stage as `job`; with `next`, claims the
    /// next job too. `turn` is the number of elements that this worker has taken
    /// from that inbox, this one included: a call that arrives late acts on nothing.
    ///
    /// # Errors
    /// Where Redis is away; calling again with the same token is safe.
    pub async fn admit(
        &self,
        inbox: Priority,
        turn: u64,
        job: &Job,
        bytes: usize,
        next: Option<Next<'_>>,
    ) -> Result<(Admitted, Option<Claimed>), QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let name = &job.name;
        let mut call = scripts.admit.call();
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
            .arg(worker)
            .arg(turn)
            .arg(next.map_or("", |next| next.token))
            .arg(lease_ms)
            .arg(u8::from(next.is_some_and(|next| next.bulk)));
        let (outcome, claim): (String, Value) = call.invoke(&mut self.commands()).await?;
        let admitted =
            Admitted::from_name(&outcome).ok_or_else(|| unexpected("admit", &outcome))?;
        Ok((admitted, claimed(claim, next.map(|next| next.token))?))
    }

    /// Takes the element out of this worker's stage and answers its producer
    /// with `line`; `turn` as in [`admit`](Self::admit).
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn reject(
        &self,
        inbox: Priority,
        turn: u64,
        name: Option<&Name>,
        refusal: &Refusal<'_>,
    ) -> Result<(), QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        let mut call = scripts.reject.call();
        call.key(keys.stage(inbox, worker));
        match name {
            Some(name) => call.key(keys.job(name)).key(keys.reply(name)),
            None => call.key(keys.malformed()).key(keys.malformed()),
        };
        call.key(keys.malformed())
            .key(keys.inbox(inbox))
            .arg(keys.prefix())
            .arg(name.map(ToString::to_string).unwrap_or_default())
            .arg(refusal.code)
            .arg(refusal.line)
            .arg(millis(refusal.reply_ttl))
            .arg(refusal.reply_to.unwrap_or(""))
            .arg(worker)
            .arg(turn);
        let outcome: String = call.invoke(&mut self.commands()).await?;
        match outcome.as_str() {
            "replied" | "unanswered" | "gone" => Ok(()),
            _ => Err(unexpected("reject", &outcome)),
        }
    }

    /// Takes an element into the stage without blocking, where a full Redis
    /// refuses to; whether there is one now.
    ///
    /// # Errors
    /// Where Redis is away.
    pub(super) async fn stage(&self, inbox: Priority) -> Result<bool, QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        let staged: u8 = scripts
            .stage
            .key(keys.inbox(inbox))
            .key(keys.stage(inbox, worker))
            .arg(keys.prefix())
            .invoke(&mut self.commands())
            .await?;
        Ok(staged == 1)
    }

    /// Claims the next ready job, if there is one.
    ///
    /// # Errors
    /// Where Redis is away; calling again with the same token is safe.
    pub async fn claim(&self, next: Next<'_>) -> Result<Option<Claimed>, QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let claim: Value = scripts
            .claim
            .arg(keys.prefix())
            .arg(worker)
            .arg(next.token)
            .arg(lease_ms)
            .arg(u8::from(next.bulk))
            .invoke(&mut self.commands())
            .await?;
        claimed(claim, Some(next.token))
    }

    /// A job's element, as it was pushed; `None` where Redis has none.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn element(&self, name: &Name) -> Result<Option<Vec<u8>>, QueueError> {
        let key = self.inner.keys.document(name);
        let mut read = cmd("LINDEX");
        read.arg(key).arg(0);
        match read.query_async(&mut self.documents()).await {
            // A connection that Redis closed long ago is noticed when it is used.
            Err(error) if error.is_unrecoverable_error() => {
                Ok(read.query_async(&mut self.documents()).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Ends a job for good; with `next`, claims the next one in the same call.
    ///
    /// # Errors
    /// Where Redis is away; calling again with the same arguments is safe.
    pub async fn finish(
        &self,
        lease: &Lease,
        ending: &Ending,
        next: Option<Next<'_>>,
    ) -> Result<(Settled, Option<Claimed>), QueueError> {
        let (outcome, claim) = match &ending.pdf {
            Some(pdf) => self.finish_with(lease, ending, pdf, next).await?,
            None => self.bury(lease, ending, next).await?,
        };
        // `missing`: Redis evicted what was just pushed. The caller tries again, with a pause.
        let settled = Settled::from_name(&outcome).ok_or_else(|| unexpected("finish", &outcome))?;
        Ok((settled, claimed(claim, next.map(|next| next.token))?))
    }

    async fn finish_with(
        &self,
        lease: &Lease,
        ending: &Ending,
        pdf: &Bytes,
        next: Option<Next<'_>>,
    ) -> Result<(String, Value), QueueError> {
        let result = Outgoing::new(ending, pdf);
        // A Redis that was restarted while it was full says both, one after the other.
        let (mut by, mut inline) = (By::Hash, false);
        loop {
            match self.send_result(lease, ending, &result, next, by, inline).await {
                // A restarted Redis has forgotten the scripts.
                Err(error) if error.code() == Some("NOSCRIPT") && by == By::Hash => by = By::Text,
                // A full Redis refuses the push, but not a script that frees something first.
                Err(error) if error.code() == Some("OOM") && !inline => inline = true,
                answer => return answer,
            }
        }
    }

    /// Pushes the result under a key of its own and settles, in one round trip:
    /// the script only renames it, so that no PDF is copied into Lua. `inline`
    /// is the way for a full Redis: the script gets the PDF itself.
    async fn send_result(
        &self,
        lease: &Lease,
        ending: &Ending,
        result: &Outgoing,
        next: Option<Next<'_>>,
        by: By,
        inline: bool,
    ) -> Result<(String, Value), QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let name = &lease.name;
        let out = keys.out(&lease.token);
        let mut calls = pipe();
        if !inline {
            match result.stored_ttl {
                0 => {
                    calls.cmd("UNLINK").arg(&out).ignore();
                    calls.cmd("RPUSH").arg(&out).arg(result.bytes()).ignore();
                    calls.cmd("PEXPIRE").arg(&out).arg(OUT_TTL_MS).ignore();
                }
                _ => {
                    let set = calls.cmd("SET").arg(&out).arg(result.bytes());
                    set.arg("PX").arg(OUT_TTL_MS).ignore();
                }
            }
        }
        calls
            .add_command(scripts.finish.command(by))
            .arg(5)
            .arg(keys.job(name))
            .arg(&out)
            .arg(keys.reply(name))
            .arg(keys.pdf(name))
            .arg(keys.result(name))
            .arg(keys.prefix())
            .arg(name.to_string())
            .arg(&lease.token)
            .arg(worker)
            .arg(if result.stored_ttl > 0 { "stored" } else { "reply" })
            .arg(result.bytes().len())
            .arg(if result.stored_ttl > 0 { ending.line.as_str() } else { "" })
            .arg(millis(ending.reply_ttl))
            .arg(result.stored_ttl)
            .arg(millis(ending.retain))
            .arg(ending.reply_to.as_deref().unwrap_or(""))
            .arg(if inline { result.bytes() } else { b"" })
            .arg(next.map_or("", |next| next.token))
            .arg(lease_ms)
            .arg(u8::from(next.is_some_and(|next| next.bulk)));
        let (answer,): ((String, Value),) = if result.bytes().len() < LARGE_RESULT {
            calls.query_async(&mut self.commands()).await?
        } else {
            calls.query_async(&mut self.documents()).await?
        };
        Ok(answer)
    }

    async fn bury(
        &self,
        lease: &Lease,
        ending: &Ending,
        next: Option<Next<'_>>,
    ) -> Result<(String, Value), QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let mut call = scripts.bury.call();
        call.key(keys.job(&lease.name))
            .arg(keys.prefix())
            .arg(lease.name.to_string())
            .arg(&lease.token)
            .arg(worker)
            .arg(ending.status.as_str())
            .arg(ending.code)
            .arg(&ending.line)
            .arg(millis(ending.reply_ttl))
            .arg(millis(ending.retain))
            .arg(ending.reply_to.as_deref().unwrap_or(""))
            .arg(ending.past.as_ref().map(Past::line).unwrap_or_default())
            .arg(next.map_or("", |next| next.token))
            .arg(lease_ms)
            .arg(u8::from(next.is_some_and(|next| next.bulk)));
        Ok(call.invoke(&mut self.commands()).await?)
    }

    /// The attempt failed: the job is ready again after `delay`.
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn fail(
        &self,
        lease: &Lease,
        delay: Duration,
        past: &Past,
    ) -> Result<Settled, QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        let outcome: String = scripts
            .fail
            .key(keys.job(&lease.name))
            .arg(keys.prefix())
            .arg(lease.name.to_string())
            .arg(&lease.token)
            .arg(worker)
            .arg(millis(delay))
            .arg(u8::from(past.counted))
            .arg(&past.code)
            .arg(past.line())
            .arg(past.needs_bytes.map(|bytes| bytes.to_string()).unwrap_or_default())
            .invoke(&mut self.commands())
            .await?;
        Settled::from_name(&outcome).ok_or_else(|| unexpected("fail", &outcome))
    }

    /// The attempt was interrupted: the job is ready again at once, and the
    /// attempt does not count. `crashed`: its browser died while it had the job.
    /// Where `code` is [`UNBEGUN`] it has to begin by its deadline still.
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn release(
        &self,
        lease: &Lease,
        code: &str,
        crashed: bool,
        past: Option<&Past>,
    ) -> Result<Settled, QueueError> {
        let Inner { keys, scripts, worker, .. } = &*self.inner;
        let outcome: String = scripts
            .release
            .key(keys.job(&lease.name))
            .arg(keys.prefix())
            .arg(lease.name.to_string())
            .arg(&lease.token)
            .arg(worker)
            .arg(code)
            .arg(u8::from(crashed))
            .arg(past.map(Past::line).unwrap_or_default())
            .arg(past.and_then(|past| past.needs_bytes).map(|b| b.to_string()).unwrap_or_default())
            .arg(u8::from(code == UNBEGUN))
            .invoke(&mut self.commands())
            .await?;
        Settled::from_name(&outcome).ok_or_else(|| unexpected("release", &outcome))
    }

    /// The job waits for memory and has not begun: if this worker dies, it had no part
    /// in that. [`begins`](Self::begins) takes it back.
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn waits(&self, lease: &Lease) -> Result<(), QueueError> {
        self.tell_wait(lease, false).await
    }

    /// The job begins after all, however late [`waits`](Self::waits) comes.
    ///
    /// # Errors
    /// Where Redis is away; calling again is safe.
    pub async fn begins(&self, lease: &Lease) -> Result<(), QueueError> {
        self.tell_wait(lease, true).await
    }

    async fn tell_wait(&self, lease: &Lease, begins: bool) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        // Who lost the lease hears of it with the heartbeat.
        let _held: u8 = scripts
            .wait
            .key(keys.job(&lease.name))
            .arg(keys.prefix())
            .arg(lease.name.to_string())
            .arg(&lease.token)
            .arg(u8::from(begins))
            .invoke(&mut self.commands())
            .await?;
        Ok(())
    }

    /// One heartbeat: says that this worker lives, describes it, keeps its leases.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn renew(
        &self,
        leases: &[(Name, Token)],
        description: &str,
    ) -> Result<Renewed, QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let mut call = scripts.renew.call();
        call.key(keys.workers()).key(keys.worker(worker));
        call.arg(keys.prefix()).arg(worker).arg(description).arg(lease_ms);
        for (name, token) in leases {
            call.arg(name.to_string()).arg(token);
        }
        let (lost, cancelled) = call.invoke(&mut self.commands()).await?;
        Ok(Renewed { lost, cancelled })
    }

    /// Leases of jobs whose deadline passed before they started, at most `most`.
    ///
    /// # Errors
    /// Where Redis is away; what was leased then is reaped, and found again when it is claimed.
    pub async fn overdue(&self, most: u32, grace_ms: u64) -> Result<Vec<Claimed>, QueueError> {
        let Inner { keys, scripts, worker, lease_ms, .. } = &*self.inner;
        let leased: Vec<Vec<String>> = scripts
            .overdue
            .key(keys.deadlines())
            .arg(keys.prefix())
            .arg(worker)
            .arg(self.token())
            .arg(lease_ms)
            .arg(most)
            .arg(grace_ms)
            .invoke(&mut self.commands())
            .await?;
        let read = |mut fields: Vec<String>| {
            let token = fields.pop();
            token.and_then(|token| read_claim(&fields, &token))
        };
        let claims = leased.into_iter().map(read).collect::<Option<Vec<_>>>();
        claims.ok_or_else(|| unexpected("overdue", "a claim that cannot be read"))
    }
}

/// What a producer is told of an element that became no job.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// A bounded code for the event stream.
    pub code: &'a str,
    /// The reply's line.
    pub line: &'a str,
    /// How long it stays.
    pub reply_ttl: Duration,
    /// The list of a consumer that takes all replies.
    pub reply_to: Option<&'a str>,
}

/// A result as it goes to Redis.
struct Outgoing {
    /// The whole reply, or the PDF to be stored.
    element: Bytes,
    /// How long it is stored, in milliseconds; 0: it is a reply.
    stored_ttl: u64,
}

impl Outgoing {
    fn new(ending: &Ending, pdf: &Bytes) -> Self {
        match ending.output {
            Output::Reply { base64 } => {
                Self { element: reply_element(&ending.line, pdf, base64).into(), stored_ttl: 0 }
            }
            Output::Stored { ttl } => Self { element: pdf.clone(), stored_ttl: millis(ttl).max(1) },
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.element
    }
}

fn claimed(value: Value, token: Option<&str>) -> Result<Option<Claimed>, QueueError> {
    let Some(token) = token else { return Ok(None) };
    if matches!(value, Value::Nil | Value::Boolean(false)) {
        return Ok(None);
    }
    let fields: Vec<String> = ::redis::from_redis_value(value)
        .map_err(|error| unexpected("claim", &error.to_string()))?;
    read_claim(&fields, token).map(Some).ok_or_else(|| unexpected("claim", &fields.join(" ")))
}

fn read_claim(fields: &[String], token: &str) -> Option<Claimed> {
    let [
        name,
        attempts,
        max,
        admitted,
        deadline,
        crashes,
        priority,
        now,
        cancelled,
        tries,
        needs,
        isolation,
        scripts,
        assets,
    ] = fields
    else {
        return None;
    };
    let deadline: u64 = deadline.parse().ok()?;
    let claimed_ms = now.parse().ok()?;
    Some(Claimed {
        lease: Lease { name: Name::parse(name)?, token: token.to_owned() },
        attempt: attempts.parse().ok()?,
        max_attempts: max.parse().ok()?,
        admitted_ms: admitted.parse().ok()?,
        claimed_ms,
        expired: deadline > 0 && claimed_ms >= deadline,
        begin_by: (deadline > 0)
            .then(|| Instant::now() + Duration::from_millis(deadline.saturating_sub(claimed_ms))),
        crashes: crashes.parse().ok()?,
        priority: Priority::from_name(priority)?,
        cancelled: cancelled == "1",
        uncounted: tries.parse().ok()?,
        needs: needs.parse().ok().filter(|needs| *needs > 0),
        rules: Rules::read(isolation, scripts),
        assets: (!assets.is_empty()).then(|| assets.clone()),
    })
}

pub(super) fn unexpected(what: &'static str, answer: &str) -> QueueError {
    QueueError::Unexpected { what, answer: answer.chars().take(200).collect() }
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
