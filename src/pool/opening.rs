//! How a job comes by its context: its tenant's own, a spare one, or a new one.
//!
//! A new context costs as much as five receipts, and memory for as long as it is kept.
//! So where enough is being rendered to keep all cores busy, a job whose tenant's
//! contexts are all in use waits for one of them, for as long as opening another
//! would take; then it has another opened after all. Else three tenants with a backlog
//! hold twelve contexts where six do the same work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::checkout::{self, Busy, Place, Warm};
use super::contexts::Checkout;
use super::holders::Holder;
use super::supervisor::BrowserState;
use super::upkeep::User;
use super::{Asked, OPEN_TIMEOUT, Shared, closed, fell_to_kernel, no_browser, no_context};
use crate::failure::Failure;
use crate::renderer::browser::Browser;
use crate::renderer::cdp::CdpError;
use crate::renderer::page::{Failed, Page};

/// About what opening a context takes while all cores are busy.
pub const PATIENCE: Duration = Duration::from_millis(100);

impl Shared {
    /// A context for one job.
    pub(super) async fn checkout(self: &Arc<Self>, asked: Asked<'_>) -> Result<Busy, Failure> {
        let Asked { tenant, job, manner, deadline, allowed } = asked;
        let mut patient_until = manner.is_kept().then(|| Instant::now() + self.config.patience);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listen before looking, or a place that comes free in between is missed.
            changed.as_mut().enable();
            if self.stop.is_cancelled() {
                return Err(closed());
            }
            let found = self.contexts(|contexts| {
                let own = if manner.is_kept() { contexts.warm(tenant) } else { None };
                // One of its tenant's comes free soon, and no core is idle meanwhile.
                if own.is_none()
                    && patient_until.is_some()
                    && self.holders.may_wait(tenant, self.config.enough)
                {
                    return None;
                }
                let spare = || if manner.takes_spares() { contexts.spare() } else { None };
                let found = match own.or_else(spare) {
                    Some(warm) => Checkout::Warm(warm),
                    None => contexts.place(),
                };
                // Counted before anybody else looks.
                let holds = !matches!(found, Checkout::Wait);
                Some((found, holds.then(|| self.holders.enter(tenant, manner.is_kept()))))
            });
            let Some((found, holder)) = found else {
                let until = patient_until.unwrap_or(deadline).min(deadline);
                if timeout_at(until, changed).await.is_err() {
                    if Instant::now() >= deadline {
                        return Err(no_context(allowed));
                    }
                    patient_until = None;
                }
                continue;
            };
            match found {
                Checkout::Warm(mut warm) => {
                    let place = Place::taken(self);
                    if warm.jobs == 0 && manner.takes_spares() {
                        // It was nobody's, and becomes this job's.
                        warm.manner = manner;
                    }
                    // Its tenant's rules may have changed.
                    if warm.is_sound() && warm.manner == manner {
                        return Ok(Busy::new(self, (tenant, job), warm, (holder, place)));
                    }
                    // Not to be held against the next one that breaks.
                    if fell_to_kernel(&warm.browser).is_some() {
                        tracing::warn!("the kernel killed an idle renderer for want of memory");
                    }
                    checkout::close(self, warm, place);
                }
                Checkout::Open { evicted } => {
                    let place = Place::taken(self);
                    return self.open(asked, (holder, place), evicted).await;
                }
                Checkout::Wait => {
                    timeout_at(deadline, changed).await.map_err(|_| no_context(allowed))?;
                }
            }
        }
    }

    /// Opens a context in `place`, in a task of its own: if the job is
    /// abandoned meanwhile, what was opened is closed before the place is free.
    async fn open(
        self: &Arc<Self>,
        asked: Asked<'_>,
        seat: (Option<Holder>, Place),
        evicted: Option<Warm>,
    ) -> Result<Busy, Failure> {
        let (sender, receiver) = oneshot::channel();
        let (shared, tenant) = (Arc::clone(self), Arc::clone(asked.tenant));
        let Asked { job, manner, deadline, allowed, .. } = asked;
        let opening = async move {
            let asked = Asked { tenant: &tenant, job, manner, deadline, allowed };
            let opened = shared.open_in(asked, seat, evicted).await;
            // Nobody waits any more: dropping it closes it.
            drop(sender.send(opened));
        };
        self.tasks.spawn_on(opening, &self.runtime);
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn open_in(
        self: &Arc<Self>,
        asked: Asked<'_>,
        seat: (Option<Holder>, Place),
        evicted: Option<Warm>,
    ) -> Result<Busy, Failure> {
        let Asked { tenant, job, manner, deadline, allowed } = asked;
        if let Some(warm) = evicted {
            // The new one may not be there before the old one is gone.
            checkout::close_now(self, warm).await;
        }
        let number = self.next_number();
        let (browser, user) = if manner.has_own_browser() {
            (self.launch_own(number, deadline).await?, None)
        } else {
            let (browser, user) = self.wait_for_browser(deadline).await?;
            (browser, Some(user))
        };
        // Not the document's time: nothing of it has been looked at yet.
        let context = match browser.open_context(manner.context(), OPEN_TIMEOUT).await {
            Ok(context) => context,
            Err(error) => {
                let hangs = matches!(error, CdpError::Timeout { .. });
                if hangs {
                    tracing::warn!(
                        pid = browser.pid(),
                        "the browser does not open contexts any more; replacing it"
                    );
                    browser.kill().await;
                }
                if manner.has_own_browser() {
                    // Nobody else would ever end it.
                    self.end_own(number, &browser).await;
                }
                let died = hangs.then(Failed::browser_died);
                return Err(died.unwrap_or_else(|| Failed::from_cdp(&error, allowed)).failure);
            }
        };
        self.counters(|counters| counters.opened += 1);
        let page = Page::of(&context, self.config.scripts.time);
        self.watch_idle(number, &context);
        let opened = Instant::now();
        let warm = Warm { number, context, page, browser, jobs: 0, opened, manner, user };
        Ok(Busy::new(self, (tenant, job), warm, seat))
    }

    /// A number for a context that is to be opened.
    pub(super) fn next_number(&self) -> u64 {
        self.counters(|counters| {
            counters.numbers += 1;
            counters.numbers
        })
    }

    /// The common browser, and a part in it, taken before anybody can replace it.
    pub(super) async fn wait_for_browser(
        &self,
        deadline: Instant,
    ) -> Result<(Browser, User), Failure> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                BrowserState::Ready(common) if !common.browser.is_dead() => {
                    return Ok((common.browser.clone(), common.user()));
                }
                BrowserState::Ready(_) | BrowserState::Starting(_) => {}
                BrowserState::Unavailable(failure) => return Err(failure.clone()),
                BrowserState::Closed => return Err(closed()),
            }
            match timeout_at(deadline, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(closed()),
                Err(_) => return Err(no_browser()),
            }
        }
    }
}
