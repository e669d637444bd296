//! One attempt: from a claimed job to a verdict. Settling is the dispatcher's.
//!
//! ```text
//! claimed ─▶ document in hand, or read and checked again ─▶ its tenant's assets ─▶ render ─▶ verdict
//! ```
//!
//! Each step can end it: the document is gone (`body_lost`), Redis does not give it or
//! the assets (`redis_unavailable`), somebody cancelled
//! it (`cancelled`), its memory never comes or is not enough (see
//! [`super::admission`]), the deadline has passed (`expired`), a worker or browser
//! died while it ran alone (`poison`), the render failed (see
//! [`crate::retry`]), the worker stops or has lost the lease (released; a lost
//! lease is refused by Redis).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::admission::Admission;
use super::event::{Halt, Tally, Verdict, Why};
use super::stock::Shelves;
use crate::failure::{BROWSER_DIED, Class, Failure, MEMORY_KERNEL};
use crate::job::reply::{Place, ReplyError, Timings};
use crate::job::{Job, Name, Output, Reply, Status};
use crate::memory::live::Live;
use crate::metrics;
use crate::queue::{Claimed, Ending, Past, Queue};
use crate::renderer::{Render, RenderRequest, Rendered, SCRIPT_ERROR, Warning};
use crate::retry::{self, Disposition};

/// So often a worker or a browser died with a job that is poison: it has run
/// alone since the second time (see [`super::dispatcher`]), and died alone.
const POISON_AFTER: u32 = 3;
/// A larger PDF is refused: a reply travels as one Redis element.
const MAX_PDF_BYTES: usize = 128 * 1024 * 1024;

/// What an attempt needs of its worker.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) queue: Queue,
    pub(super) renderer: Arc<dyn Render>,
    /// No job may render for longer.
    pub(super) max_timeout: Duration,
    /// Who lets renders begin, where that goes by memory.
    pub(super) governor: Option<Live>,
    /// Assets of tenants.
    pub(super) shelves: Shelves,
}

impl Attempt {
    /// Runs it to its verdict; logs it in one line.
    pub(super) async fn run(
        &self,
        claimed: &Claimed,
        admitted: Option<Arc<Job>>,
        halt: &Halt,
    ) -> Verdict {
        let started = Instant::now();
        let job = match self.job(claimed, admitted).await {
            Ok(job) => job,
            Err(verdict) => return verdict,
        };
        let job = match self.shelves.stocked(&self.queue, claimed, job).await {
            Ok(job) => job,
            Err(error) => {
                tracing::warn!(job = %claimed.lease.name(), error = %super::chain(&error), "the tenant's assets could not be read");
                return self.unread(claimed, &unavailable("the tenant's assets"));
            }
        };
        let begun = AtomicBool::new(false);
        let attempt = self.attempt(claimed, &job, (halt, &begun), started);
        match halt.token().run_until_cancelled(attempt).await {
            Some(verdict) => verdict,
            None if halt.why() == Some(Why::Cancelled) => {
                let spent = started.elapsed();
                self.end(claimed, &job, Status::Cancelled, &Failure::cancelled(), spent)
            }
            None => {
                tracing::info!(job = %claimed.lease.name(), "released unfinished");
                Verdict::released(begun.into_inner())
            }
        }
    }

    /// What becomes of a job whose attempt panicked.
    pub(super) fn panicked(&self, claimed: &Claimed) -> Verdict {
        let failure = Failure::new(
            Class::Bug,
            "panicked",
            "the worker failed while it rendered this document",
            "this is a bug: please report it, without the document's content",
        );
        match retry::disposition(
            failure.class,
            claimed.attempt,
            claimed.max_attempts,
            claimed.uncounted,
            rand::random::<f64>(),
        ) {
            Disposition::Retry { delay, counted } => {
                log_failure(claimed, &failure, "will be tried again");
                let past = Box::new(self.past(claimed, &failure, Duration::ZERO, counted));
                Verdict::Fail { delay, past }
            }
            Disposition::Bury | Disposition::Release => self.bury_unread(claimed, &failure),
        }
    }

    /// The job: as it was admitted here, or read from Redis and checked again.
    async fn job(
        &self,
        claimed: &Claimed,
        admitted: Option<Arc<Job>>,
    ) -> Result<Arc<Job>, Verdict> {
        if let Some(job) = admitted {
            return Ok(job);
        }
        let name = claimed.lease.name();
        let element = match self.queue.element(name).await {
            Ok(Some(element)) => element,
            Ok(None) => {
                return Err(self.bury_unread(claimed, &Failure::body_lost()));
            }
            Err(error) => {
                tracing::warn!(job = %name, error = %super::chain(&error), "the document could not be read");
                return Err(self.unread(claimed, &unavailable("the document")));
            }
        };
        match crate::job::parse(&element, claimed.priority, || name.id().to_owned()) {
            Ok(job) if job.name == *name => Ok(Arc::new(job)),
            Ok(_) => {
                let failure = Failure::new(
                    Class::Dependency,
                    "body_lost",
                    "another document stands in Redis in the place of this one",
                    "let no other program write keys below tillroll:, and send the job again",
                );
                Err(self.bury_unread(claimed, &failure))
            }
            Err(rejection) => {
                let problem = rejection.problem;
                let failure =
                    Failure::new(Class::Input, problem.code, problem.message, problem.remedy);
                Err(self.bury_unread(claimed, &failure))
            }
        }
    }

    /// Something could not be read: tried again, later each time.
    fn unread(&self, claimed: &Claimed, failure: &Failure) -> Verdict {
        let delay = retry::backoff(claimed.uncounted.saturating_add(1), rand::random::<f64>());
        let past = Box::new(self.past(claimed, failure, Duration::ZERO, false));
        Verdict::Fail { delay, past }
    }

    async fn attempt(
        &self,
        claimed: &Claimed,
        job: &Job,
        (halt, begun): (&Halt, &AtomicBool),
        started: Instant,
    ) -> Verdict {
        if claimed.cancelled {
            let failure = Failure::cancelled();
            return self.end(claimed, job, Status::Cancelled, &failure, Duration::ZERO);
        }
        if claimed.expired || claimed.begin_by.is_some_and(|begin_by| begin_by <= Instant::now()) {
            return self.expired(claimed, job, "give a longer deadline_ms, or add workers");
        }
        if claimed.crashes >= POISON_AFTER {
            let failure = Failure::new(
                Class::Renderer,
                "poison",
                format!(
                    "{} times its worker or its whole browser died, was cut off from Redis, or \
                     lost its renderer to the kernel, the last time while it ran alone",
                    claimed.crashes
                ),
                "look for what makes the document so heavy, and try it with `tillroll render`",
            );
            return self.end(claimed, job, Status::Dead, &failure, Duration::ZERO);
        }
        let mut options = job.options.clone();
        options.timeout = options.timeout.min(self.max_timeout);
        let admission = match self.admission(claimed, job, halt).await {
            Ok(admission) => admission,
            Err(verdict) => return *verdict,
        };
        let request = RenderRequest {
            job: admission.number(),
            tenant: job.name.tenant().into(),
            rules: claimed.rules,
            html: job.html.as_str().into(),
            assets: job.assets.as_slice().into(),
            options: Arc::new(options),
            date: date(claimed.admitted_ms),
        };
        let render_started = Instant::now();
        begun.store(true, Ordering::Relaxed);
        let result = self.renderer.render(request).await.and_then(within_size);
        let rendered_in = render_started.elapsed();
        admission.answered();
        match result {
            Ok(rendered) => {
                self.acquitted(&admission).await;
                self.done(claimed, job, rendered, &admission, (rendered_in, started))
            }
            Err(failure) => match admission.killed(&failure) {
                Some(kill) => self.outgrew(claimed, job, &kill, rendered_in).await,
                None => {
                    let (failure, needs) = admission.fenced(job, failure);
                    let mut verdict = self.failed(claimed, job, &failure, rendered_in);
                    if let Verdict::Fail { past, .. } = &mut verdict {
                        // Whoever takes it next has to know.
                        past.needs_bytes = needs;
                    }
                    verdict
                }
            },
        }
    }

    fn done(
        &self,
        claimed: &Claimed,
        job: &Job,
        rendered: Rendered,
        admission: &Admission,
        (rendered_in, started): (Duration, Instant),
    ) -> Verdict {
        let mut reply = Reply::new(&job.name, Status::Done);
        reply.pages = rendered.pages;
        reply.bytes = rendered.pdf.len();
        let digest = rendered.sha256.unwrap_or_else(|| Sha256::digest(&rendered.pdf).into());
        reply.sha256 = Some(hex(&digest));
        reply.output = Some(self.place(job));
        reply.warnings = rendered.warnings;
        reply.timings = timings(claimed, rendered_in, started.elapsed());
        reply.attempts = claimed.attempt;
        let done = Some((reply.timings, reply.bytes));
        let tally = Tally { priority: claimed.priority, done };
        tracing::info!(
            job = %job.name,
            job.status = "done",
            job.attempt = claimed.attempt,
            pages = reply.pages,
            pdf.bytes = reply.bytes,
            queued_ms = reply.timings.queued_ms,
            duration_ms = reply.timings.rendered_ms,
            warnings = reply.warnings.len(),
            traceparent = job.traceparent.as_deref(),
            "rendered"
        );
        ending(job, reply, "ok", Some(admission.sent(rendered.pdf)), None, tally)
    }

    pub(super) fn failed(
        &self,
        claimed: &Claimed,
        job: &Job,
        failure: &Failure,
        rendered_in: Duration,
    ) -> Verdict {
        let jitter = rand::random::<f64>();
        let Claimed { attempt, max_attempts, uncounted, .. } = *claimed;
        match retry::disposition(failure.class, attempt, max_attempts, uncounted, jitter) {
            Disposition::Bury => self.end(claimed, job, Status::Dead, failure, rendered_in),
            Disposition::Release => {
                log_failure(claimed, failure, "released");
                let past = Some(Box::new(self.past(claimed, failure, rendered_in, false)));
                let crashed = [BROWSER_DIED, MEMORY_KERNEL].contains(&failure.code);
                Verdict::Release { code: failure.code, crashed, past }
            }
            Disposition::Retry { delay, counted } => {
                log_failure(claimed, failure, "will be tried again");
                let past = Box::new(self.past(claimed, failure, rendered_in, counted));
                Verdict::Fail { delay, past }
            }
        }
    }

    /// Ends a job that did not begin in time.
    pub(super) fn expired(&self, claimed: &Claimed, job: &Job, remedy: &'static str) -> Verdict {
        let message = "the job had not started when its deadline passed";
        let failure = Failure::new(Class::Resource, "expired", message, remedy);
        self.end(claimed, job, Status::Expired, &failure, Duration::ZERO)
    }

    /// Ends a job without a PDF.
    pub(super) fn end(
        &self,
        claimed: &Claimed,
        job: &Job,
        status: Status,
        failure: &Failure,
        rendered_in: Duration,
    ) -> Verdict {
        if status == Status::Cancelled {
            tracing::info!(job = %job.name, job.status = "cancelled", "ended");
        } else {
            log_failure(claimed, failure, status.as_str());
        }
        let mut reply = Reply::new(&job.name, status);
        reply.timings = timings(claimed, rendered_in, rendered_in);
        // A job that expired was claimed, but never tried; one that was stopped does not count.
        reply.attempts = claimed.attempt.saturating_sub(u32::from(status != Status::Dead));
        reply.error = Some(ReplyError::from(failure));
        reply.warnings = failure.warnings.to_vec();
        let mut past = self.past(claimed, failure, rendered_in, status == Status::Dead);
        // A dead letter's only: its document is kept as long as they are.
        past.warnings = failure.warnings.iter().map(noticed).collect();
        let tally = Tally { priority: claimed.priority, done: None };
        ending(job, reply, failure.code, None, Some(past), tally)
    }

    /// Ends a job whose header cannot be read any more: the defaults of the contract apply.
    fn bury_unread(&self, claimed: &Claimed, failure: &Failure) -> Verdict {
        log_failure(claimed, failure, "dead");
        let mut reply = Reply::new(claimed.lease.name(), Status::Dead);
        reply.timings = timings(claimed, Duration::ZERO, Duration::ZERO);
        reply.attempts = claimed.attempt;
        reply.error = Some(ReplyError::from(failure));
        let ending = Ending {
            status: Status::Dead,
            code: failure.code,
            line: line(&reply),
            pdf: None,
            output: Output::Reply { base64: false },
            reply_to: None,
            reply_ttl: Duration::from_secs(600),
            retain: Duration::from_secs(86_400),
            past: Some(self.past(claimed, failure, Duration::ZERO, true)),
        };
        Verdict::End(Box::new(ending), Tally { priority: claimed.priority, done: None })
    }

    /// A line of the job's history. Its time is Redis' clock at the claim, and ours since.
    pub(super) fn past(
        &self,
        claimed: &Claimed,
        failure: &Failure,
        spent: Duration,
        counted: bool,
    ) -> Past {
        Past {
            at: claimed.claimed_ms + millis(spent),
            attempt: claimed.attempt,
            worker: self.queue.worker().to_owned(),
            class: failure.class.as_str().to_owned(),
            code: failure.code.to_owned(),
            message: failure.message.clone(),
            remedy: failure.remedy.clone(),
            duration_ms: millis(spent),
            memory_bytes: failure.memory_bytes,
            needs_bytes: None,
            counted,
            warnings: Vec::new(),
        }
    }

    fn place(&self, job: &Job) -> Place {
        match job.output {
            Output::Reply { base64 } => {
                Place { kind: "reply", key: None, encoding: base64.then_some("base64") }
            }
            Output::Stored { .. } => Place {
                kind: "stored",
                key: Some(self.queue.keys().pdf(&job.name)),
                encoding: None,
            },
        }
    }
}

/// A warning as the history keeps it: without the words of a document's script.
fn noticed(warning: &Warning) -> crate::queue::client::Warning {
    let Warning { code, message, remedy } = warning;
    let message = match *code {
        SCRIPT_ERROR => "a script of the document failed; the reply says how".to_owned(),
        _ => message.clone(),
    };
    crate::queue::client::Warning { code: (*code).to_owned(), message, remedy: remedy.clone() }
}

fn unavailable(what: &str) -> Failure {
    Failure::new(
        Class::Dependency,
        "redis_unavailable",
        format!("{what} could not be read from Redis"),
        "look at Redis and the network between; it is tried again",
    )
}

fn within_size(rendered: Rendered) -> Result<Rendered, Failure> {
    if rendered.pdf.len() <= MAX_PDF_BYTES {
        return Ok(rendered);
    }
    Err(Failure::new(
        Class::Document,
        "pdf_too_large",
        format!("the PDF has {} bytes, {MAX_PDF_BYTES} are allowed", rendered.pdf.len()),
        "use smaller images, or split the document",
    )
    .with_warnings(rendered.warnings))
}

fn ending(
    job: &Job,
    mut reply: Reply,
    code: &'static str,
    pdf: Option<Bytes>,
    past: Option<Past>,
    tally: Tally,
) -> Verdict {
    reply.meta = job.meta.clone();
    let ending = Ending {
        status: reply.status,
        code,
        line: line(&reply),
        pdf,
        output: job.output,
        reply_to: job.reply_to.clone(),
        reply_ttl: job.reply_ttl,
        retain: job.retain,
        past,
    };
    Verdict::End(Box::new(ending), tally)
}

/// The reply's line; a reply that has no JSON form would be our own mistake
/// and must not hang its producer.
pub(super) fn line(reply: &Reply) -> String {
    reply.to_line().unwrap_or_else(|error| {
        tracing::error!(%error, "a reply could not be written as JSON");
        format!(
            "{{\"v\":1,\"id\":\"{}\",\"tenant\":\"{}\",\"status\":\"{}\"}}",
            reply.id,
            reply.tenant,
            reply.status.as_str()
        )
    })
}

pub(super) fn log_failure(claimed: &Claimed, failure: &Failure, outcome: &'static str) {
    metrics::attempt_failed(failure.class, failure.code);
    let name: &Name = claimed.lease.name();
    tracing::warn!(
        job = %name,
        job.status = outcome,
        job.attempt = claimed.attempt,
        failure.class = %failure.class,
        failure.code = failure.code,
        error = %failure.message,
        remedy = %failure.remedy,
        "an attempt failed"
    );
}

fn timings(claimed: &Claimed, rendered: Duration, since_claim: Duration) -> Timings {
    let queued_ms = claimed.claimed_ms.saturating_sub(claimed.admitted_ms);
    Timings { queued_ms, rendered_ms: millis(rendered), total_ms: queued_ms + millis(since_claim) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        if write!(text, "{byte:02x}").is_err() {
            text.clear();
        }
        text
    })
}

/// Redis' milliseconds as a date, whole seconds: what a PDF can say.
fn date(ms: u64) -> OffsetDateTime {
    i64::try_from(ms / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
