//! Carries out what the dispatcher wants; every effect ends in an event.
//!
//! Calls to Redis are never inside a future that can be dropped half-way: each
//! runs in a task of its own to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::attempt::{self, Attempt};
use super::event::{AttemptId, Bulk, Event, Halt, Verdict, Work};
use crate::failure::{Class, Failure};
use crate::job::fields::Problem;
use crate::job::reply::ReplyError;
use crate::job::{Job, Priority, Rejection, Reply, Status};
use crate::memory::live::Live;
use crate::memory::{Permit, Probe};
use crate::metrics;
use crate::queue::{Admitted, Claimed, Lease, Limit, Next, Queue, QueueError, Refusal, Settled};
use crate::renderer::Upkeep;

/// How long a rejection's reply stays.
const REJECTION_TTL: Duration = Duration::from_secs(600);
/// What a producer is told to wait when the queue is full.
const FULL_RETRY_MS: u64 = 5_000;
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After so many rounds of housekeeping that failed, Redis is looked for anew.
const ROUNDS_BEFORE_RECONNECT: u32 = 3;
/// For how long a claim that failed is repeated; after that its lease is left
/// to run out, so that a worker without Redis can still stop soon.
const CLAIM_REPEATS: Duration = Duration::from_secs(5);

/// The worker's hands.
#[derive(Clone)]
pub(super) struct Effects {
    pub(super) attempt: Attempt,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) tasks: TaskTracker,
    /// How long a settlement is worth repeating: after that the lease is gone.
    pub(super) lease: Duration,
    /// Rounds of housekeeping that failed in a row.
    pub(super) failed_rounds: Arc<AtomicU32>,
}

impl Effects {
    fn queue(&self) -> &Queue {
        &self.attempt.queue
    }

    /// Runs `work` in a task of its own and reports its event.
    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let event = work.await;
            if events.send(event).await.is_err() {
                tracing::debug!("an event came after the dispatcher had ended");
            }
        });
    }

    pub(super) fn offer(
        &self,
        (inbox, turn): (Priority, u64),
        element: Vec<u8>,
        done: oneshot::Sender<()>,
        permit: Option<Permit>,
        bulk: Bulk,
    ) {
        let this = self.clone();
        self.spawn(async move {
            let token = permit.is_some().then(|| this.queue().token());
            let that = this.clone();
            let offered = contained(async move {
                let next = token.as_ref().map(|token| Next { token, bulk });
                that.offer_element((inbox, turn), &element, next).await
            });
            let result = match offered.await {
                Ok(result) => result,
                // An element that makes us panic must not be read again and again.
                Err(_) => this.reject((inbox, turn), &ours_to_mend(), None).await.map(|()| None),
            };
            match result {
                Ok(claimed) => {
                    // The reader may be gone already: then nobody waits.
                    if done.send(()).is_err() {
                        tracing::debug!("the reader had stopped");
                    }
                    Event::Offered { permit, bulk, claimed, failed: None }
                }
                Err(error) => Event::Offered { permit, bulk, claimed: None, failed: Some(error) },
            }
        });
    }

    async fn offer_element(
        &self,
        (inbox, turn): (Priority, u64),
        element: &[u8],
        next: Option<Next<'_>>,
    ) -> Result<Option<Work>, QueueError> {
        let queue = self.queue();
        let made_id = || format!("made-{:016x}", rand::random::<u64>());
        let job = match crate::job::parse(element, inbox, made_id) {
            Ok(job) => Arc::new(job),
            Err(rejection) => {
                self.reject((inbox, turn), &rejection, None).await?;
                return self.claim_instead(next).await;
            }
        };
        let (admitted, claimed) = match next {
            Some(_) => {
                let admit = || queue.admit(inbox, turn, &job, element.len(), next);
                self.until_answered(admit).await?
            }
            // Nothing can be lost with the answer: the reader looks at the stage again.
            None => queue.admit(inbox, turn, &job, element.len(), None).await?,
        };
        metrics::intake(inbox, admitted.as_str());
        match admitted {
            Admitted::Full(limit) => {
                let problem = too_much(limit);
                let rejection = Rejection {
                    name: Some(job.name.clone()),
                    reply_to: job.reply_to.clone(),
                    problem,
                };
                self.reject((inbox, turn), &rejection, Some(FULL_RETRY_MS)).await?;
                return self.claim_instead(next).await;
            }
            Admitted::Conflict => {
                tracing::warn!(
                    job = %job.name,
                    failure.code = "id_conflict",
                    remedy = "give every document an id of its own",
                    "refused: another document of this name is alive"
                );
            }
            Admitted::Admitted | Admitted::Duplicate | Admitted::Held | Admitted::Gone => {}
        }
        // What was refused must never stand in for the living job of its name.
        let same = matches!(admitted, Admitted::Admitted | Admitted::Duplicate);
        Ok(claimed.map(|claimed| with_document(claimed, same.then_some(job))))
    }

    /// A call that may have claimed, though its answer was lost: asked again
    /// under the same token, it names the same job. Else that job would be leased
    /// to nobody until its lease runs out, and be counted as a crash.
    async fn until_answered<T, F>(&self, call: impl Fn() -> F) -> Result<T, QueueError>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        let mut give_up = None;
        let mut pause = SHORTEST_PAUSE;
        loop {
            match call().await {
                Err(error) => {
                    // From the first failure on: the call itself may have waited long.
                    let now = Instant::now();
                    let repeats = CLAIM_REPEATS.min(self.lease);
                    if now + pause >= *give_up.get_or_insert(now + repeats) {
                        return Err(error);
                    }
                    metrics::redis_failed(error.kind());
                    tracing::debug!(error = %super::chain(&error), "claiming failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                answered => return answered,
            }
        }
    }

    /// An element that became no job brought a permit along: use it.
    async fn claim_instead(&self, next: Option<Next<'_>>) -> Result<Option<Work>, QueueError> {
        let Some(next) = next else { return Ok(None) };
        let claimed = self.until_answered(|| self.queue().claim(next)).await?;
        Ok(claimed.map(|claimed| Work { claimed, job: None }))
    }

    async fn reject(
        &self,
        (inbox, turn): (Priority, u64),
        rejection: &Rejection,
        retry_ms: Option<u64>,
    ) -> Result<(), QueueError> {
        let Rejection { name, reply_to, problem } = rejection;
        let failure = Failure::new(Class::Input, problem.code, &problem.message, &problem.remedy);
        metrics::intake(inbox, "rejected");
        metrics::attempt_failed(failure.class, failure.code);
        let shown = name.as_ref().map(ToString::to_string);
        tracing::warn!(
            job = shown.as_deref().unwrap_or("(unreadable)"),
            failure.code = failure.code,
            error = %failure.message,
            remedy = %failure.remedy,
            "rejected"
        );
        let unnamed = crate::job::Name::unnamed();
        let mut reply = Reply::new(name.as_ref().unwrap_or(&unnamed), Status::Rejected);
        reply.error = Some(ReplyError { retry_ms, ..ReplyError::from(&failure) });
        let line = attempt::line(&reply);
        let refusal = Refusal {
            code: failure.code,
            line: &line,
            reply_ttl: REJECTION_TTL,
            reply_to: reply_to.as_deref(),
        };
        self.queue().reject(inbox, turn, name.as_ref(), &refusal).await
    }

    pub(super) fn claim(&self, permit: Permit, bulk: Bulk) {
        let this = self.clone();
        self.spawn(async move {
            let token = this.queue().token();
            let claim = async move {
                let next = Next { token: &token, bulk };
                this.until_answered(|| this.queue().claim(next)).await
            };
            let result = contained(claim).await.and_then(|result| result);
            Event::Claimed {
                permit,
                bulk,
                result: result.map(|c| c.map(|claimed| Work { claimed, job: None })),
            }
        });
    }

    pub(super) fn run(&self, id: AttemptId, work: Work, halt: Halt) {
        let this = self.clone();
        self.spawn(async move {
            let Work { claimed, job } = work;
            let claimed = Arc::new(claimed);
            let (attempt, shared) = (this.attempt.clone(), Arc::clone(&claimed));
            let ran = contained(async move { attempt.run(&shared, job, &halt).await }).await;
            let verdict = ran.unwrap_or_else(|_| this.attempt.panicked(&claimed));
            Event::Ended { attempt: id, lease: claimed.lease.again(), verdict }
        });
    }

    pub(super) fn settle(
        &self,
        id: AttemptId,
        lease: Lease,
        verdict: Verdict,
        claim_next: Option<Bulk>,
    ) {
        let this = self.clone();
        self.spawn(async move {
            let outcome = verdict.outcome();
            let lease = Arc::new(lease);
            let (that, held) = (this.clone(), Arc::clone(&lease));
            let settle = async move {
                let token = that.queue().token();
                let next = claim_next.map(|bulk| Next { token: &token, bulk });
                let result = that.settle_until_lost(&held, &verdict, next).await;
                tally(&verdict, &result);
                result
            };
            let result = contained(settle).await.and_then(|result| result);
            let (result, next) = match result {
                Ok((settled, next)) => (Ok(settled), next),
                Err(error) => (Err(error), None),
            };
            if matches!(result, Ok(Settled::Stale)) {
                metrics::lease_lost();
                tracing::warn!(job = %lease.name(), "a stale result was refused: the lease had been lost");
            }
            let next = next.map(|claimed| Work { claimed, job: None });
            Event::Settled { attempt: id, outcome, result, next }
        });
    }

    /// Settles, again and again while Redis is away, as long as the lease can
    /// still be ours; every call is safe to repeat.
    async fn settle_until_lost(
        &self,
        lease: &Lease,
        verdict: &Verdict,
        next: Option<Next<'_>>,
    ) -> Result<(Settled, Option<Claimed>), QueueError> {
        let lost_at = Instant::now() + self.lease;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let result = match verdict {
                Verdict::End(ending, _) => self.queue().finish(lease, ending, next).await,
                Verdict::Fail { delay, past } => {
                    let settled = self.queue().fail(lease, *delay, past).await;
                    settled.map(|settled| (settled, None))
                }
                Verdict::Release { code, crashed, past } => {
                    let settled = self.queue().release(lease, code, *crashed, past.as_deref());
                    settled.await.map(|settled| (settled, None))
                }
            };
            match result {
                Err(error) if Instant::now() + pause < lost_at => {
                    metrics::redis_failed(error.kind());
                    tracing::warn!(job = %lease.name(), error = %super::chain(&error), "settling failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => return other,
            }
        }
    }

    pub(super) fn beat(&self, leases: Vec<(crate::job::Name, String)>, description: String) {
        let this = self.clone();
        self.spawn(async move {
            let renew = async move { this.queue().renew(&leases, &description).await };
            Event::Beat(contained(renew).await.and_then(|result| result))
        });
    }

    pub(super) fn housekeep(&self, expire: bool) {
        let this = self.clone();
        self.spawn(async move {
            let queue = this.queue().clone();
            let housekeep = async move { queue.housekeep(expire).await };
            let result = contained(housekeep).await.and_then(|result| result);
            if let Ok(kept) = &result
                && (kept.reaped > 0 || kept.adopted > 0)
            {
                tracing::warn!(
                    jobs.reaped = kept.reaped,
                    elements.adopted = kept.adopted,
                    "took over from a silent worker"
                );
            }
            this.reconnect_after(&result);
            Event::Housekept(result)
        });
    }

    /// Ends jobs whose deadline passed before they started. What is cut off here
    /// is reaped, and found to be expired when it is claimed.
    pub(super) fn expire(&self, overdue: Vec<Claimed>) {
        let this = self.clone();
        self.spawn(async move {
            let that = this.clone();
            let expire = async move {
                for claimed in overdue {
                    let verdict = that.attempt.run(&claimed, None, &Halt::default()).await;
                    let result = that.settle_until_lost(&claimed.lease, &verdict, None).await;
                    tally(&verdict, &result);
                    result?;
                }
                Ok(())
            };
            if let Err(error) = contained(expire).await.and_then(|result| result) {
                tracing::warn!(error = %super::chain(&error), "overdue jobs could not be ended; they are found again");
            }
            Event::Expired
        });
    }

    /// A Redis that was demoted keeps its clients, and a silent one may be another's
    /// by now: connect anew, at once or after some rounds.
    fn reconnect_after<T>(&self, round: &Result<T, QueueError>) {
        let failed = match round {
            Ok(_) => {
                self.failed_rounds.store(0, Ordering::Relaxed);
                return;
            }
            Err(error) if error.kind() == "readonly" => ROUNDS_BEFORE_RECONNECT,
            Err(_) => self.failed_rounds.fetch_add(1, Ordering::Relaxed) + 1,
        };
        if failed >= ROUNDS_BEFORE_RECONNECT {
            self.failed_rounds.store(0, Ordering::Relaxed);
            if let Err(error) = self.queue().reconnect() {
                tracing::warn!(error = %super::chain(&error), "cannot connect to Redis anew");
            }
        }
    }

    pub(super) fn count(&self) {
        let this = self.clone();
        self.spawn(async move { Event::Counted(this.queue().counts().await) });
    }

    /// Writes down what documents take. Lost, it is written a minute later.
    pub(super) fn keep(&self, predictions: Option<String>) {
        let Some(text) = predictions else { return };
        let queue = self.queue().clone();
        self.tasks.spawn(async move {
            if let Err(error) = queue.keep_predictions(&text).await {
                tracing::debug!(error = %super::chain(&error), "what documents take was not written down");
            }
        });
    }

    /// Tells everybody what came of engines and fonts that changed on disk.
    pub(super) fn tell_upkeep(&self, before: &Upkeep, now: &Upkeep) {
        for (event, times) in [
            ("browser_replaced", now.replaced - before.replaced),
            ("browser_refused", now.refused - before.refused),
        ] {
            if times == 0 {
                continue;
            }
            let queue = self.queue().clone();
            self.tasks.spawn(async move {
                if let Err(error) = queue.tell_event(event).await {
                    tracing::debug!(error = %super::chain(&error), event, "an event was not written");
                }
            });
        }
    }

    /// Takes in other workers' verdicts on documents.
    pub(super) fn judge(&self) {
        let Some(live) = self.attempt.governor.clone() else { return };
        let queue = self.queue().clone();
        self.tasks.spawn(async move { judge(&queue, &live).await });
    }

    /// Reading `/proc` blocks: not on the runtime's threads.
    pub(super) fn measure(&self) {
        let events = self.events.clone();
        self.tasks.spawn_blocking(move || {
            let bytes = Probe::default().used_by_tree(std::process::id());
            if events.blocking_send(Event::Measured(bytes)).is_err() {
                tracing::debug!("a measurement came after the dispatcher had ended");
            }
        });
    }

    pub(super) fn timer(&self, after: Duration) {
        self.spawn(async move {
            tokio::time::sleep(after).await;
            Event::DrainTimeout
        });
    }
}

/// Takes in other workers' verdicts; without them a document is measured once more.
pub(super) async fn judge(queue: &Queue, live: &Live) {
    match queue.verdicts().await {
        Ok(lines) => live.judge(&lines),
        Err(error) => {
            tracing::debug!(error = %super::chain(&error), "verdicts on documents could not be read");
        }
    }
}

/// What is said of a good element that is one too many.
fn too_much(limit: Limit) -> Problem {
    match limit {
        Limit::QueueJobs => Problem::new(
            "queue_full",
            "the queue holds as many jobs as it may",
            "push again after retry_ms, or add workers",
        ),
        Limit::QueueBytes => Problem::new(
            "queue_full",
            "the queue holds as many bytes of documents, results and dead letters as it may",
            "push again after retry_ms, take the replies, purge dead letters, or raise limits.bytes",
        ),
        Limit::TenantJobs => Problem::new(
            "tenant_full",
            "this tenant has as many waiting jobs as it may",
            "push again after retry_ms, or raise the tenant's limit with `tillroll tenant set`",
        ),
        Limit::TenantBytes => Problem::new(
            "tenant_full",
            "this tenant's waiting documents have as many bytes as they may",
            "push again after retry_ms, or raise the tenant's limit with `tillroll tenant set`",
        ),
        Limit::Draining => Problem::new(
            "draining",
            "the queue, or this tenant, is being drained: nothing new is taken",
            "push again once it has been resumed",
        ),
    }
}

/// What is said of an element that made us panic.
fn ours_to_mend() -> Rejection {
    let problem = Problem::new(
        "bug",
        "the worker failed while it read this element",
        "this is a bug: please report it, without the document's content",
    );
    Rejection { name: None, reply_to: None, problem }
}

/// Counts a job that ended, where Redis accepted its end.
fn tally(verdict: &Verdict, result: &Result<(Settled, Option<Claimed>), QueueError>) {
    let (Verdict::End(ending, tally), Ok((Settled::Accepted, _))) = (verdict, result) else {
        return;
    };
    metrics::job_ended(ending.status, tally.priority);
    if let Some((timings, bytes)) = tally.done {
        let [queued, rendered, total] =
            [timings.queued_ms, timings.rendered_ms, timings.total_ms].map(Duration::from_millis);
        metrics::job_timed(queued, rendered, total);
        metrics::pdf_finished(bytes as u64);
    }
}

/// The claimed job is often the one just admitted: then its document is at hand.
fn with_document(claimed: Claimed, admitted: Option<Arc<Job>>) -> Work {
    let job = admitted.filter(|job| claimed.lease.name() == &job.name);
    Work { claimed, job }
}

/// Runs `work` in a task of its own, so that a panic in it is an answer like any
/// other: else its permit and its lease would be held for ever.
async fn contained<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, QueueError> {
    tokio::spawn(work).await.map_err(|error| {
        // Not what it said: a panic may quote what it was about, a document too.
        let ended = if error.is_panic() { "it panicked" } else { "it was cancelled" };
        tracing::error!(ended, "a task of the worker ended early; this is a bug, please report it");
        QueueError::Unexpected { what: "a task of the worker", answer: ended.to_owned() }
    })
}
