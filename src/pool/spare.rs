//! Contexts made ready before anybody asks for them.
//!
//! A new context takes 65 ms of CPU, and its first print is slow. So while nothing
//! is to be rendered, one is opened that is nobody's yet, and a document of our own
//! is printed in it; the next tenant without a warm context gets it. It has seen
//! nobody's data: who gets it has it for good, as one that was opened for him.
//!
//! ```text
//! rest ──▶ [room, by the word of who counts memory] ──▶ open, print ──▶ spare ──▶ a tenant's
//!  ▲                                                                     │
//!  └────────── a job came, a place came free ◀───────── closed: evicted, trimmed away, died
//! ```
//!
//! It takes a place like any other context, is idle like any other, and is the
//! first to be evicted. What fails here is told in the log and costs nobody
//! anything: whoever needs a context opens one. Jobs with scripts and those with a
//! browser of their own are not served from here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::checkout::{Place, Warm};
use super::contexts::NOBODY;
use super::supervisor::BrowserState;
use super::{Isolation, OPEN_TIMEOUT, Shared, canary, checkout};
use crate::failure::Failure;
use crate::renderer::page::Page;

/// Nothing may have been rendered for so long: the cores are for documents.
const REST: Duration = Duration::from_millis(40);

/// At most one a second where they are closed again and again for their memory.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps so many ready until the pool stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let wanted = shared.config.spares;
    if wanted == 0 || shared.config.isolation == Isolation::Browser {
        return;
    }
    let mut state = shared.state.subscribe();
    let mut not_before = Instant::now();
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        // Listen before looking, or what changes in between is missed.
        changed.as_mut().enable();
        let ready = matches!(&*state.borrow_and_update(), BrowserState::Ready(_));
        let wants = ready && shared.contexts(|contexts| contexts.spares()) < wanted;
        let rested = shared.rested();
        let at = not_before.max(rested);
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = changed => continue,
            news = state.changed() => match news {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = sleep_until(at), if wants && shared.is_idle() => {}
        }
        if !shared.is_idle() || shared.rested() > Instant::now() {
            continue;
        }
        not_before = Instant::now() + PAUSE;
        if !shared.contexts(super::contexts::Contexts::spare_place) {
            continue;
        }
        let place = Place::taken(&shared);
        // Last of all: what it may take is promised with it.
        if !shared.watch.get().is_none_or(crate::renderer::Watch::has_room_to_spare) {
            continue;
        }
        tokio::select! {
            // What was opened is closed with it.
            () = shared.stop.cancelled() => return,
            prepared = shared.prepare(place) => if let Err(failure) = prepared {
                tracing::debug!(%failure, "no context could be made ready ahead");
            },
        }
    }
}

impl Shared {
    /// Whether no job has a context or has one opened, and none is being closed.
    fn is_idle(&self) -> bool {
        self.contexts(|contexts| contexts.alive() == contexts.idle())
    }

    /// When it will have rested long enough, if nothing comes.
    fn rested(&self) -> Instant {
        self.counters(|counters| counters.last_left).map_or_else(Instant::now, |at| at + REST)
    }

    /// Opens a context for nobody, and has it print once.
    async fn prepare(self: &Arc<Self>, place: Place) -> Result<(), Failure> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let nobody: Arc<str> = NOBODY.into();
        let number = self.next_number();
        // What was promised for it is nobody's any more.
        let mut warm = self.open_spare(number, deadline).await.inspect_err(|_| {
            self.left(0, number, false, None);
        })?;
        // Of no job: what it holds counts as an idle context's from here on.
        let pid = warm.context.renderer_pid();
        let told = self.watch.get().inspect(|w| w.entered(0, warm.number, &nobody, pid)).is_some();
        if let Err(failure) = canary::warm_up(&mut warm.page, &self.config.limits).await {
            self.left(0, warm.number, false, None);
            // It may be busy or stopped, and not hear a request: the browser that it shares
            // with jobs would have to go for it.
            warm.context.kill_renderer();
            checkout::close(self, warm, place);
            return Err(failure);
        }
        let (number, died) = (warm.number, warm.context.crashed().clone());
        let sound = warm.is_sound() && !self.stop.is_cancelled();
        // Told while nobody can take it, and nobody looks for it in vain.
        let over = self.contexts(|contexts| {
            // Who began to listen meanwhile does not know it.
            let known = told == self.watch.get().is_some();
            let keep = self.left(0, number, sound && known, None);
            if keep { contexts.give_spare(warm) } else { Some(warm) }
        });
        if let Some(warm) = over {
            checkout::close(self, warm, place);
            return Ok(());
        }
        place.keep();
        if died.is_cancelled() {
            self.close_idle(number);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn open_spare(self: &Arc<Self>, number: u64, deadline: Instant) -> Result<Warm, Failure> {
        let manner = super::manner::Manner::plain(self.config.isolation);
        let (browser, user) = self.wait_for_browser(deadline).await?;
        let opened = browser.open_context(manner.context(), OPEN_TIMEOUT).await;
        let context = opened.map_err(|error| {
            crate::renderer::page::Failed::from_cdp(&error, OPEN_TIMEOUT).failure
        })?;
        self.counters(|counters| counters.opened += 1);
        let page = Page::of(&context, self.config.scripts.time);
        self.watch_idle(number, &context);
        let opened = Instant::now();
        Ok(Warm { number, context, page, browser, jobs: 0, opened, manner, user: Some(user) })
    }
}
