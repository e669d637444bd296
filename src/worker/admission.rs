//! Memory for one attempt: it waits until the governor lets it in, and ends as
//! the governor says if its renderer had to be killed.
//!
//! ```text
//! wait ◀─ each sample, each second ─▶ let in ─▶ render ─▶ done
//!  │ measured too big: memory_exceeded            │ killed
//!  │ drain: released; deadline: expired           │
//!                                                ├─ others took it   ▶ memory_pressure: released, not counted
//!                                                ├─ it outgrew       ▶ memory_outgrown: released, runs alone next time
//!                                                ├─ it was alone, beside neighbours that hold what is free at
//!                                                │  other times       ▶ memory_pressure: later, not counted
//!                                                └─ it was alone     ▶ memory_exceeded: dead
//! ```
//!
//! While it waits its lease is renewed with all others. Who is halted meanwhile
//! drops the future, and with it the ticket. A job that waits for a second is said to
//! wait in Redis: if this worker dies, it had no part in that. Before it begins after
//! all, that is taken back.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::attempt::{Attempt, log_failure};
use super::event::{Halt, Verdict};
use crate::failure::{Class, Failure, MEMORY_FENCE, MEMORY_KERNEL};
use crate::job::{Job, Priority, Status};
use crate::memory::document::Features;
use crate::memory::live::{Asked, Live, Printed, Ticket};
use crate::memory::terms::{Kill, Next, Wait};
use crate::memory::verdicts::{self, Digest};
use crate::queue::{Claimed, QueueError};

/// It is asked again at least so often.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After so long it is said that it waits.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// So often a job that ran alone waits for neighbours to let go of memory; some minutes.
const MOST_LATER: u32 = 8;

/// What an attempt was given. Dropping it gives it back.
pub(super) struct Admission {
    ticket: Option<Ticket>,
    live: Option<Live>,
    digest: Option<Digest>,
}

/// A PDF, and the memory that its way to Redis takes.
struct Sent {
    pdf: Vec<u8>,
    _printed: Option<Printed>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.pdf
    }
}

impl Admission {
    /// Its PDF, to be sent: as long as that is held, memory is kept for its copies.
    pub(super) fn sent(&self, pdf: Vec<u8>) -> Bytes {
        let printed = self.ticket.as_ref().map(|ticket| ticket.printed(pdf.len()));
        Bytes::from_owner(Sent { pdf, _printed: printed })
    }

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
        let by_kernel = [MEMORY_FENCE, MEMORY_KERNEL].contains(&failure.code);
        let of_renderer = failure.class == Class::Renderer || by_kernel;
        self.ticket.as_ref().filter(|_| of_renderer)?.killed()
    }
}

impl Admission {
    /// Where the kernel killed its renderer, with figures; and what it is to have, alone,
    /// next time.
    pub(super) fn fenced(&self, job: &Job, mut failure: Failure) -> (Failure, Option<u64>) {
        let ticket = self.ticket.as_ref().filter(|_| failure.code == MEMORY_FENCE);
        let Some(fenced) = ticket.and_then(|ticket| ticket.fenced(digest(job))) else {
            return (failure, None);
        };
        let seen = fenced.used.map_or_else(|| "less than can be seen".to_owned(), mib);
        failure.message = format!(
            "{}; used {seen} when last seen, predicted {}",
            failure.message,
            mib(fenced.predicted)
        );
        if let Some(limit) = fenced.limit {
            failure.message += &format!(", limit of its browser's control group {}", mib(limit));
        }
        (failure.with_memory(fenced.used), Some(fenced.needs))
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
        let ticket = self.ticket(&live, claimed, job);
        let mut digest = None;
        let mut changed = live.changed();
        let waiting = async {
            tokio::time::sleep(SAID_AFTER).await;
            self.queue.waits(&claimed.lease).await
        };
        tokio::pin!(waiting);
        let (mut said, since) = (false, Instant::now());
        loop {
            changed.borrow_and_update();
            // What came of it elsewhere while it waited counts too.
            if digest.is_none() && live.may_know(length(job)) {
                let known = self::digest(job);
                ticket.is_known_by(known);
                digest = Some(known);
            }
            if let Some((reached, budget)) = digest.and_then(|digest| live.too_big(&digest)) {
                let failure = too_big(reached, budget);
                let spent = Duration::ZERO;
                return Err(Box::new(self.end(claimed, job, Status::Dead, &failure, spent)));
            }
            let Err(wait) = ticket.enter() else {
                // It may be on its way, also where no answer came.
                if since.elapsed() >= SAID_AFTER {
                    told(self.queue.begins(&claimed.lease).await);
                }
                return Ok(Admission { ticket: Some(ticket), live: Some(live), digest });
            };
            tracing::trace!(job = %job.name, why = %wait, "waits for memory");
            tokio::select! {
                () = until(claimed.begin_by) => {
                    return Err(Box::new(self.late(claimed, job, &wait)));
                }
                () = halt.held().cancelled() => {
                    tracing::info!(job = %job.name, why = %wait, "released before it began");
                    return Err(Box::new(Verdict::released(false)));
                }
                answer = &mut waiting, if !said => {
                    said = true;
                    told(answer);
                }
                // It lives as long as `live`.
                _ = changed.changed() => {}
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }

    fn ticket(&self, live: &Live, claimed: &Claimed, job: &Job) -> Ticket {
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
            bytes: length(job),
            digest: None,
            alone: claimed.needs,
            bulk: claimed.priority == Priority::Bulk,
        });
        if self.renderer.launches_for(claimed.rules) {
            ticket.brings_browser();
        }
        ticket
    }

    /// Its deadline passed while it waited.
    fn late(&self, claimed: &Claimed, job: &Job, wait: &Wait) -> Verdict {
        tracing::debug!(job = %job.name, why = %wait, "waited too long for memory");
        self.expired(claimed, job, "give a longer deadline_ms, more memory, or add workers")
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
                    format!(
                        "it ran alone and needed more than there is; {}; {}",
                        figures(kill),
                        why(kill)
                    ),
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
        "this document was measured before: it used up {} and was not done; budget {}; not rendered",
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

/// Why it was ended, where what it used is less than what it could have had.
fn why(kill: &Kill) -> String {
    // As they are shown.
    let left = (kill.budget >> 20).saturating_sub(kill.used >> 20);
    if left == 0 {
        return "it had used up its budget".to_owned();
    }
    let grew = match kill.speed >> 20 {
        0 => String::new(),
        speed => format!("; it grew by {speed} MiB a second"),
    };
    format!(
        "it was ended before it would have used up its budget: {left} MiB of that were left, and \
         {} have to be, to stop it in time and for the worker's own copies of it{grew}",
        mib(kill.kept)
    )
}

/// Whether a job waits is for whoever finds it if this worker dies; without it the death
/// counts as that of any other.
fn told(answer: Result<(), QueueError>) {
    if let Err(error) = answer {
        tracing::debug!(error = %super::chain(&error), "whether a job waits was not written down");
    }
}

/// Bytes of a document with what it brings along.
fn length(job: &Job) -> u64 {
    let assets: usize = job.assets.iter().map(|asset| asset.bytes.len()).sum();
    (job.html.len() + assets) as u64
}

/// Knows a document again, with all that decides how it looks.
#[must_use]
pub fn digest(job: &Job) -> Digest {
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
    verdicts::digest(length(job), &hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::terms::{Blame, JobId};

    #[test]
    fn a_document_that_ended_below_its_budget_is_told_why() {
        let mib = |mib: u64| mib << 20;
        let kill = Kill {
            job: JobId(1),
            blame: Blame::Document,
            alone: true,
            used: mib(817),
            predicted: mib(975),
            budget: mib(821),
            usual: mib(821),
            kept: mib(66),
            speed: mib(310),
        };
        assert_eq!(figures(&kill), "used 817 MiB, predicted 975 MiB, budget 821 MiB");
        assert_eq!(
            why(&kill),
            "it was ended before it would have used up its budget: 4 MiB of that were left, and \
             66 MiB have to be, to stop it in time and for the worker's own copies of it; it grew \
             by 310 MiB a second"
        );
        let stands = why(&Kill { speed: 0, ..kill });
        assert!(stands.ends_with("copies of it"), "{stands}");
        assert_eq!(why(&Kill { used: mib(822), ..kill }), "it had used up its budget");
    }

    #[test]
    fn documents_are_told_apart_by_all_that_decides_how_they_look() {
        let parse = |element: &[u8]| {
            crate::job::parse(element, Priority::Interactive, || "made".to_owned()).unwrap()
        };
        let one = parse(b"{\"id\":\"a\"}\n<p>one");
        assert_eq!(digest(&one), digest(&parse(b"{\"id\":\"b\"}\n<p>one")));
        assert_ne!(digest(&one), digest(&parse(b"{\"id\":\"a\"}\n<p>two")));
        let a5 = parse(b"{\"id\":\"a\",\"options\":{\"paper\":\"A5\"}}\n<p>one");
        assert_ne!(digest(&one), digest(&a5));
        assert_eq!(length(&one), length(&a5));
    }
}
