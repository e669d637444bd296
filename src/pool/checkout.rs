//! A context in the hands of one job, and the places that contexts take.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::holders::Holder;
use super::manner::Manner;
use super::recycle::Due;
use super::upkeep::User;
use super::{Renderer, Shared};
use crate::renderer::browser::Browser;
use crate::renderer::context::{Context, Killer};
use crate::renderer::page::Page;

/// How long a context may take to be gone before its browser is given up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open context with its page.
#[derive(Debug)]
pub(super) struct Warm {
    /// Which opening of the pool it was: its identity.
    pub(super) number: u64,
    pub(super) context: Context,
    pub(super) page: Page,
    pub(super) browser: Browser,
    pub(super) jobs: u64,
    pub(super) opened: Instant,
    /// For which jobs.
    pub(super) manner: Manner,
    /// Its part in a browser that it shares with others.
    pub(super) user: Option<User>,
}

impl Warm {
    pub(super) fn renderer(&self, tenant: &Arc<str>, busy: bool) -> Renderer {
        Renderer { tenant: Arc::clone(tenant), pid: self.context.renderer_pid(), busy }
    }

    /// Whether its browser is its own, and older than the last replacement of the
    /// common one.
    pub(super) fn has_old_browser(&self, replaced: Option<Instant>) -> bool {
        self.user.is_none() && replaced.is_some_and(|replaced| self.opened < replaced)
    }

    /// Whether it can take a job.
    pub(super) fn is_sound(&self) -> bool {
        !self.context.crashed().is_cancelled() && !self.browser.is_dead()
    }
}

/// What is told of a context while a job has it, and what reaches it then.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) renderer: Renderer,
    pub(super) job: u64,
    pub(super) killer: Option<Killer>,
}

/// One of the pool's places. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    shared: Option<Arc<Shared>>,
}

impl Place {
    /// The place that [`Contexts::place`](super::contexts::Contexts::place) just gave.
    pub(super) fn taken(shared: &Arc<Shared>) -> Self {
        Self { shared: Some(Arc::clone(shared)) }
    }

    /// The place stays taken, by a context that becomes idle.
    pub(super) fn keep(mut self) {
        self.shared = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.contexts(super::contexts::Contexts::released);
            shared.changed.notify_waiters();
        }
    }
}

/// A context in the hands of one job. Dropping it destroys the context: a
/// future that was abandoned must leave nothing running.
#[derive(Debug)]
pub(super) struct Busy {
    shared: Arc<Shared>,
    tenant: Arc<str>,
    job: u64,
    /// Taken once, by giving back or destroying.
    held: Option<(Warm, Place)>,
    /// Counted as long as the context is in the job's hands.
    holder: Option<Holder>,
}

impl Busy {
    pub(super) fn new(
        shared: &Arc<Shared>,
        (tenant, job): (&Arc<str>, u64),
        warm: Warm,
        (holder, place): (Option<Holder>, Place),
    ) -> Self {
        let renderer = warm.renderer(tenant, true);
        let (number, pid) = (warm.number, renderer.pid);
        let in_use = InUse { renderer, job, killer: warm.context.killer() };
        shared.busy(|busy| busy.insert(number, in_use));
        let (shared, tenant) = (Arc::clone(shared), Arc::clone(tenant));
        if let Some(watch) = shared.watch.get() {
            watch.entered(job, number, &tenant, pid);
        }
        Self { shared, tenant, job, held: Some((warm, place)), holder }
    }

    /// The context; `None` only after it was given back.
    pub(super) fn warm(&mut self) -> Option<&mut Warm> {
        self.held.as_mut().map(|(warm, _)| warm)
    }

    /// Takes the context out of the job's hands. From here on it cannot be killed
    /// in the job's name.
    fn take(&mut self) -> Option<(Warm, Place)> {
        let held = self.held.take();
        if let Some((warm, _)) = &held {
            self.shared.busy(|busy| busy.remove(&warm.number));
            self.shared.counters(|counters| counters.last_left = Some(Instant::now()));
        }
        held
    }

    /// The job is done and the page is sound: keep it, unless it is due.
    pub(super) fn give_back(mut self) {
        let Some((mut warm, place)) = self.take() else { return };
        let (number, died) = (warm.number, warm.context.crashed().clone());
        warm.jobs = warm.jobs.saturating_add(1);
        let stays = warm.manner.is_kept() && !self.shared.stop.is_cancelled() && warm.is_sound();
        let replaced = self.shared.counters(|counters| counters.replaced);
        let leaves =
            warm.user.as_ref().is_some_and(User::must_leave) || warm.has_old_browser(replaced);
        // Looked at once, for the pool and for who counts memory.
        let bytes = warm.context.footprint();
        let sound = stays && !leaves && self.due(&warm, bytes).is_none();
        // Told while nobody can take it, and nobody looks for it in vain.
        let holder = self.holder.take();
        let refused = self.shared.contexts(|contexts| {
            // Who looks next sees it idle, or not held: never neither.
            drop(holder);
            let keep = self.shared.left(self.job, warm.number, sound, bytes);
            if keep { contexts.give_back(Arc::clone(&self.tenant), warm) } else { Some(warm) }
        });
        if let Some(warm) = refused {
            close(&self.shared, warm, place);
            return;
        }
        place.keep();
        if died.is_cancelled() {
            // In the moment in which it was neither the job's nor idle.
            self.shared.close_idle(number);
        }
        self.shared.changed.notify_waiters();
    }
}

impl Busy {
    fn due(&self, warm: &Warm, bytes: Option<u64>) -> Option<Due> {
        let due = self.shared.config.recycle.due(warm.jobs, warm.opened.elapsed(), bytes);
        if let Some(due) = due {
            tracing::debug!(tenant = %self.tenant, why = ?due, jobs = warm.jobs, "a context is recycled");
        }
        due
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((warm, place)) = self.take() {
            // Whatever is answered, it is closed.
            let _unsound = self.shared.left(self.job, warm.number, false, None);
            // Its renderer may be busy or stopped, and would not hear a request.
            warm.context.kill_renderer();
            close(&self.shared, warm, place);
            // Whoever waits for it need not.
            self.holder = None;
            self.shared.changed.notify_waiters();
        }
    }
}

/// Closes a context in the background; its place is free when it is gone.
pub(super) fn close(shared: &Arc<Shared>, warm: Warm, place: Place) {
    let closer = Arc::clone(shared);
    let closing = async move {
        close_now(&closer, warm).await;
        drop(place);
    };
    shared.tasks.spawn_on(closing, &shared.runtime);
}

/// Closes a context. One that cannot be closed takes its browser with it.
pub(super) async fn close_now(shared: &Shared, warm: Warm) {
    let Warm { number, context, browser, manner, .. } = warm;
    if manner.has_own_browser() {
        shared.end_own(number, &browser).await;
    } else if let Err(error) = context.close(CLOSE_TIMEOUT).await
        && !browser.is_dead()
    {
        tracing::warn!(%error, pid = browser.pid(), "a context does not close; killing its browser");
        browser.kill().await;
    }
    if let Some(watch) = shared.watch.get() {
        watch.ended(number);
    }
}
