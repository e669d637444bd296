//! What can be done about a context's memory from outside, and who hears of
//! contexts: the pool's side of the memory governor, which it does not know.

use std::sync::{Arc, OnceLock};

use super::Shared;
use super::checkout::{self, Place, Warm};
use crate::renderer::context::collect_garbage;
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
    pub(super) fn left(&self, job: u64, context: u64, sound: bool) -> bool {
        self.watch.get().map_or(sound, |watch| watch.left(job, context, sound)) && sound
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

    fn close_idle(self: &Arc<Self>, context: u64) {
        let is_it = |warm: &Warm| warm.number == context;
        if let Some(warm) = self.contexts(|contexts| contexts.take(is_it)) {
            checkout::close(self, warm, Place::taken(self));
        }
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
