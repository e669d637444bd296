//! Memory for one attempt: it waits until the governor lets it in, and ends as
//! the governor says if its renderer had to be killed.
//!
//! ```text
//! measured too big? ─ yes ─▶ memory_exceeded, unrendered
//!    │ no
//!    ▼
//! wait ◀─ each sample, each second ─▶ let in ─▶ render ─▶ done
//!  │ drain: released; deadline: expired           │ killed
//!                                                ├─ others took it   ▶ memory_pressure: released, not counted
//!                                                ├─ it outgrew       ▶ memory_outgrown: released, runs alone next time
//!                                                ├─ it was alone, beside neighbours that hold what is free at
//!                                                │  other times       ▶ memory_pressure: later, not counted
//!                                                └─ it was alone     ▶ memory_exceeded: dead
//! ```
//!
//! While it waits its lease is renewed with all others. Who is halted meanwhile
//! drops the future, and with it the ticket.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::attempt::{Attempt, log_failure};
use super::event::{Halt, Verdict};
use crate::failure::{Class, Failure, MEMORY_FENCE};
use crate::job::{Job, Priority, Status};
use crate::memory::document::Features;
use crate::memory::live::{Asked, Live, Ticket};
use crate::memory::terms::{Kill, Next};
use crate::memory::verdicts::Digest;
use crate::queue::Claimed;

/// It is asked again at least so often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// So often a job that ran alone waits for neighbours to let go of memory; some minutes.
const MOST_LATER: u32 = 8;

/// What an attempt was given. Dropping it gives it back.
pub(super) struct Admission {
    ticket: Option<Ticket>,
    live: Option<Live>,
    digest: Option<Digest>,
}

impl Admission {
    /// The renderer has answered.
    pub(super) fn answered(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.answered();
        }
    }

    /// The number by which the renderer tells of it.
    pub(super) fn number(&self) -> u64 {
        self.ticket.as_ref().map_or(0, Ticket::number)
    }

    /// It was rendered, whatever was thought of it; what other workers have to know.
    fn acquit(&self) -> Option<String> {
        self.live.as_ref()?.acquit(self.digest.as_ref()?)
    }

    /// Whether `failure` is what became of a killed renderer. A job that ended
    /// otherwise before the kill reached it is settled as it ended.
    pub(super) fn killed(&self, failure: &Failure) -> Option<Kill> {
        let of_renderer = failure.class == Class::Renderer || failure.code == MEMORY_FENCE;
        self.ticket.as_ref().filter(|_| of_renderer)?.killed()
    }
}

impl Admission {
    /// Where the kernel killed its renderer, with figures; and what it is to have, alone,
    /// next time.
    pub(super) fn fenced(&self, job: &Job, failure: Failure) -> (Failure, Option<u64>) {
        let ticket = self.ticket.as_ref().filter(|_| failure.code == MEMORY_FENCE);
        match ticket.and_then(|ticket| ticket.fenced(digest(job))) {
            Some((used, needs)) => (failure.with_memory(used), Some(needs)),
            None => (failure, None),
        }
    }
}

impl Attempt {
    /// Waits for memory; or the verdict, where it must not wait.
    pub(super) async fn admission(
        &self,
        claimed: &Claimed,
        job: &Job,
        halt: &Halt,
    ) -> Result<Admission, Box<Verdict>> {
        let Some(live) = self.governor.clone() else {
            return Ok(Admission { ticket: None, live: None, digest: None });
        };
        // Where nothing was ever too big, nobody has to be told apart.
        let digest = live.has_records().then(|| digest(job));
        if let Some((reached, budget)) = digest.and_then(|digest| live.too_big(&digest)) {
            let failure = too_big(reached, budget);
            return Err(Box::new(self.end(claimed, job, Status::Dead, &failure, Duration::ZERO)));
        }
        let features = job
            .assets
            .iter()
            .filter(|asset| asset.media_type.starts_with("image/"))
            .fold(Features::of(&job.html, job.options.script.is_some()), |features, image| {
                features.with_image(&image.bytes)
            });
        let ticket = live.ask(Asked {
            name: job.name.to_string(),
            tenant: job.name.tenant().into(),
            features,
            digest,
            alone: claimed.needs,
            bulk: claimed.priority == Priority::Bulk,
        });
        if self.renderer.launches_for(claimed.rules) {
            ticket.brings_browser();
        }
        let mut changed = live.changed();
        loop {
            changed.borrow_and_update();
            let Err(wait) = ticket.enter() else {
                return Ok(Admission { ticket: Some(ticket), live: Some(live), digest });
            };
            tracing::trace!(job = %job.name, why = %wait, "waits for memory");
            tokio::select! {
                () = until(claimed.begin_by) => {
                    tracing::debug!(job = %job.name, why = %wait, "waited too long for memory");
                    let remedy = "give a longer deadline_ms, more memory, or add workers";
                    return Err(Box::new(self.expired(claimed, job, remedy)));
                }
                () = halt.held().cancelled() => {
                    tracing::info!(job = %job.name, why = %wait, "released before it began");
                    return Err(Box::new(Verdict::released(false)));
                }
                // It lives as long as `live`.
                _ = changed.changed() => {}
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }

    /// A document was rendered that was thought to be too big.
    pub(super) async fn acquitted(&self, admission: &Admission) {
        if let Some(line) = admission.acquit() {
            self.keep_verdict(&line).await;
        }
    }

    /// Other workers need not find out again what was found out here; those that do
    /// not hear of it measure it once more.
    async fn keep_verdict(&self, line: &str) {
        if let Err(error) = self.queue.keep_verdict(line).await {
            tracing::debug!(error = %super::chain(&error), "a verdict on a document was not written down");
        }
    }

    /// What becomes of a job whose renderer was killed for its memory.
    pub(super) async fn outgrew(
        &self,
        claimed: &Claimed,
        job: &Job,
        kill: &Kill,
        rendered_in: Duration,
    ) -> Verdict {
        let line = self.governor.as_ref().and_then(|live| live.outgrew(digest(job), kill));
        if let Some(line) = line {
            self.keep_verdict(&line).await;
        }
        let used = Some(kill.used);
        match kill.next() {
            Next::Requeue => {
                let failure = Failure::new(
                    Class::Interrupted,
                    "memory_pressure",
                    format!("others took the memory that it was promised; {}", figures(kill)),
                    "nothing: it runs again when there is memory; give the worker more where it happens often",
                );
                self.failed(claimed, job, &failure.with_memory(used), rendered_in)
            }
            Next::Later if claimed.uncounted < MOST_LATER => {
                let failure = Failure::new(
                    Class::Dependency,
                    "memory_pressure",
                    format!(
                        "it ran alone, beside neighbours that hold what it needs; {}; at other times {}",
                        figures(kill),
                        mib(kill.usual)
                    ),
                    "nothing: it is tried again when they may have let go; give the worker more where it happens often",
                );
                self.failed(claimed, job, &failure.with_memory(used), rendered_in)
            }
            Next::Alone { predicted } => {
                let failure = Failure::new(
                    Class::Resource,
                    "memory_outgrown",
                    format!("it outgrew what was expected; {}", figures(kill)),
                    format!(
                        "nothing: it runs once more, alone, and is expected to use {}",
                        mib(predicted)
                    ),
                )
                .with_memory(used);
                log_failure(claimed, &failure, "will be tried again, alone");
                let mut past = self.past(claimed, &failure, rendered_in, false);
                past.needs_bytes = Some(predicted);
                Verdict::Release { code: failure.code, crashed: false, past: Some(Box::new(past)) }
            }
            Next::Later | Next::Exceeded => {
                let failure = Failure::new(
                    Class::Resource,
                    "memory_exceeded",
                    format!("it ran alone and needed more than there is; {}", figures(kill)),
                    REMEDY,
                );
                self.end(claimed, job, Status::Dead, &failure.with_memory(used), rendered_in)
            }
        }
    }
}

/// Fires at this time; never, where there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

const REMEDY: &str =
    "split the document, use fewer rows or smaller images, or give the worker more memory";

fn too_big(reached: u64, budget: u64) -> Failure {
    let message = format!(
        "this document was measured before: it used {} and was not done; budget {}; not rendered",
        mib(reached),
        mib(budget)
    );
    Failure::new(Class::Resource, "memory_exceeded", message, REMEDY).with_memory(Some(reached))
}

fn figures(kill: &Kill) -> String {
    format!(
        "used {}, predicted {}, budget {}",
        mib(kill.used),
        mib(kill.predicted),
        mib(kill.budget)
    )
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Knows a document again, with all that decides how it looks.
fn digest(job: &Job) -> Digest {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(job.html.as_bytes());
    for asset in &*job.assets {
        add(asset.name.as_bytes());
        add(&asset.bytes);
    }
    add(format!("{:?}", job.options).as_bytes());
    hash.finalize().into()
}
