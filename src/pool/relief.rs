//! What can be done about a context's memory from outside, and who hears of
//! contexts: the pool's side of the memory governor, which it does not know.

use std::sync::{Arc, OnceLock};

use super::checkout::{self, Place, Warm};
use super::{Shared, fell_to_kernel};
use crate::renderer::context::{Context, collect_garbage};
use crate::renderer::{Relief, Watch};

/// Who hears of contexts. Set once.
#[derive(Default)]
pub(super) struct Watched(OnceLock<Arc<dyn Watch>>);

impl Watched {
    pub(super) fn get(&self) -> Option<&dyn Watch> {
        self.0.get().map(|watch| &**watch)
    }

    /// Says whether it is the first.
    pub(super) fn set(&self, watch: Arc<dyn Watch>) -> bool {
        self.0.set(watch).is_ok()
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watched").field(&self.0.get().is_some()).finish()
    }
}

impl Shared {
    /// A job leaves its context; whether that is to be kept.
    pub(super) fn left(&self, job: u64, context: u64, sound: bool, bytes: Option<u64>) -> bool {
        self.watch.get().map_or(sound, |watch| watch.left(job, context, sound, bytes)) && sound
    }

    pub(super) fn relieve(self: &Arc<Self>, context: u64, relief: Relief) {
        match relief {
            Relief::Trim => self.trim(context),
            Relief::Close => self.close_idle(context),
            Relief::Kill(job) => self.kill(context, job),
        }
    }

    /// A job that takes the context meanwhile waits for the collection, no more.
    fn trim(self: &Arc<Self>, context: u64) {
        let session = self.contexts(|contexts| {
            let mut idle = contexts.iter_idle();
            let sought = idle.find(|(_, warm)| warm.number == context)?;
            Some(sought.1.context.session().clone())
        });
        let Some(session) = session else { return };
        let trimming = async move {
            if let Err(error) = collect_garbage(&session).await {
                tracing::debug!(%error, context, "a context could not be trimmed");
            }
        };
        self.tasks.spawn_on(trimming, &self.runtime);
    }

    pub(super) fn close_idle(self: &Arc<Self>, context: u64) {
        let is_it = |warm: &Warm| warm.number == context;
        if let Some(warm) = self.contexts(|contexts| contexts.take(is_it)) {
            // Not to be held against the next one that breaks.
            if !warm.is_sound() && fell_to_kernel(&warm.browser).is_some() {
                tracing::warn!("the kernel killed an idle renderer for want of memory");
            }
            checkout::close(self, warm, Place::taken(self));
        }
    }

    /// Gives a context up when it dies while no job has it, be it the renderer or the
    /// whole browser: its tenant may be long in coming, and it holds a place.
    pub(super) fn watch_idle(self: &Arc<Self>, number: u64, context: &Context) {
        let (died, stop) = (context.crashed().clone(), self.stop.clone());
        // A pool that is dropped must not live on for this.
        let shared = Arc::downgrade(self);
        let watching = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = died.cancelled() => {
                    if let Some(shared) = shared.upgrade() {
                        shared.close_idle(number);
                    }
                }
            }
        };
        self.tasks.spawn_on(watching, &self.runtime);
    }

    fn kill(&self, context: u64, job: u64) {
        // Under the lock: the job cannot leave the context to another meanwhile.
        self.busy(|busy| {
            let held = busy.get(&context).filter(|held| held.job == job);
            if let Some(killer) = held.and_then(|held| held.killer.as_ref()) {
                killer.kill();
            }
        });
    }
}
