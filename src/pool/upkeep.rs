//! What becomes of a running browser whose engine or fonts change on disk.
//!
//! ```text
//!             changed, and settled              printed the canary
//! current ─────────────────────────▶ checking ─────────────────────▶ replacing
//!    ▲ ▲                             ▲    │ did not                      │
//!    │ │ as before    changed again, │    ▼                              │
//!    │ └───────────── or a pause ─── refused                             │
//!    └──────────── the last context of the old browser is gone ──────────┘
//! ```
//!
//! A change is looked for now and then, and acted upon once two looks in a row see
//! the same: a package manager may be at work. Then a new browser is launched from
//! what is there and prints a [`canary`]. If it does, new contexts
//! are opened in it, and those of the old browser are closed one after the other,
//! idle ones first and busy ones when their job is done, so that opening others
//! never takes all of the cores; the old browser ends when the last is gone. If it
//! does not, the browser that runs goes on, and whoever watches is told why, once;
//! the same files are tried again after a pause that doubles, and stay refused
//! meanwhile.
//!
//! For a moment there are two browsers, the second one empty: some 120 MB, which
//! is less than what the memory budget keeps in reserve.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::checkout::{self, Place, Warm};
use super::supervisor::{count_death, unavailable};
use super::{Shared, canary};
use crate::failure::{Class, Failure};
use crate::metrics::{self, Death};
use crate::renderer::UpkeepState;
use crate::renderer::browser::{Browser, BrowserConfig};
use crate::renderer::engine::Engine;
use crate::renderer::files::Seen;

/// Files that change are looked at again after this, or the usual time if that is
/// shorter.
const SETTLE: Duration = Duration::from_secs(2);

/// One context of an old browser goes so often. Opening another costs about 65 ms
/// of CPU, on two cores a fortieth of them, and its first receipts are slow.
const PACE: Duration = Duration::from_millis(1_500);

/// What was refused is tried again after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A browser that contexts share, and what is needed to replace it.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) browser: Browser,
    users: TaskTracker,
    /// A permit for each busy context that has to go.
    leaving: Arc<Semaphore>,
}

/// One context's part in a common browser.
#[derive(Debug)]
pub(super) struct User {
    leaving: Arc<Semaphore>,
    /// Dropped with the context: the browser is not ended before.
    _counted: TaskTrackerToken,
}

impl Common {
    pub(super) fn new(browser: Browser) -> Self {
        Self { browser, users: TaskTracker::new(), leaving: Arc::new(Semaphore::new(0)) }
    }

    pub(super) fn user(&self) -> User {
        User { leaving: Arc::clone(&self.leaving), _counted: self.users.token() }
    }

    /// Whether a context is in it.
    fn has(&self, warm: &Warm) -> bool {
        warm.user.as_ref().is_some_and(|user| Arc::ptr_eq(&user.leaving, &self.leaving))
    }
}

impl User {
    /// Whether its context has to go, now that its job is done. Asked once for each
    /// job.
    pub(super) fn must_leave(&self) -> bool {
        self.leaving.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_ok()
    }
}

/// What was tried and did not do.
#[derive(Debug)]
struct Refused {
    seen: Seen,
    again: Instant,
    pause: Duration,
}

/// Looks after one running browser and those that replace it.
#[derive(Debug)]
pub(super) struct Keeper {
    /// What the running browser was made from.
    running: Seen,
    refused: Option<Refused>,
    /// The browser that prints the canary.
    candidate: Option<Browser>,
}

impl Keeper {
    /// Looks after a browser that was just launched from what was seen.
    pub(super) fn new(shared: &Shared, running: Seen) -> Self {
        shared.tell(UpkeepState::Current);
        Self { running, refused: None, candidate: None }
    }

    /// Waits until what is on disk has changed and is good; the new browser.
    pub(super) async fn replacement(&mut self, shared: &Shared) -> Browser {
        loop {
            let (seen, what) = self.changed(shared).await;
            tracing::info!("{what} changed on disk: trying a new browser");
            if !self.was_refused(&seen) {
                shared.tell(UpkeepState::Checking);
            }
            match self.tried(shared, &seen).await {
                Ok(browser) => {
                    tracing::info!(
                        pid = browser.pid(),
                        version = browser.product(),
                        "it is good: replacing the browser while jobs run"
                    );
                    (self.running, self.refused) = (seen, None);
                    metrics::upkeep(true);
                    shared.upkeep.send_modify(|upkeep| {
                        upkeep.replaced += 1;
                        (upkeep.state, upkeep.why) = (UpkeepState::Replacing, None);
                    });
                    return browser;
                }
                Err(failure) => self.refuse(shared, seen, what, &failure),
            }
        }
    }

    /// Ends the browser that was being tried, if there is one.
    pub(super) async fn give_up(&mut self, shared: &Shared) {
        if let Some(browser) = self.candidate.take() {
            browser.kill().await;
        }
        shared.tell(UpkeepState::Current);
    }

    /// Waits for a change that nobody is at work on any more and that was not just
    /// refused; says what is there, and what of it is new.
    async fn changed(&mut self, shared: &Shared) -> (Seen, &'static str) {
        let every = shared.config.look_every;
        loop {
            tokio::time::sleep(every).await;
            // One after the other: each takes memory.
            if shared.upkeep.borrow().state == UpkeepState::Replacing {
                continue;
            }
            let seen = shared.look().await;
            let Some(what) = self.running.differs(&seen) else {
                if self.refused.take().is_some() {
                    tracing::info!("engine and fonts are again those of the running browser");
                    shared.tell(UpkeepState::Current);
                }
                continue;
            };
            let refused = self.refused.as_ref().filter(|refused| refused.seen == seen);
            if refused.is_some_and(|refused| Instant::now() < refused.again) {
                continue;
            }
            tokio::time::sleep(every.min(SETTLE)).await;
            if shared.look().await == seen {
                return (seen, what);
            }
        }
    }

    async fn tried(&mut self, shared: &Shared, seen: &Seen) -> Result<Browser, Failure> {
        let browser = shared.launch(&seen.engine).await?;
        self.candidate = Some(browser.clone());
        let checked =
            canary::check(&browser, shared.config.scripts.time, &shared.config.limits).await;
        self.candidate = None;
        if checked.is_err() {
            browser.kill().await;
        }
        checked.map(|()| browser)
    }

    fn was_refused(&self, seen: &Seen) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.seen == *seen)
    }

    fn refuse(&mut self, shared: &Shared, seen: Seen, what: &str, failure: &Failure) {
        let before = self.refused.take().filter(|refused| refused.seen == seen);
        let is_news = before.is_none();
        let pause = before.map_or(shared.config.look_every, |refused| refused.pause);
        let pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        let again = Instant::now() + pause;
        self.refused = Some(Refused { seen, again, pause });
        let why = format!(
            "{what} changed on disk, and a new browser is no good: {}; the one that runs goes on; {}",
            failure.message, failure.remedy
        );
        if is_news {
            tracing::warn!(failure.code, again_after_s = pause.as_secs(), "{why}");
            metrics::upkeep(false);
        } else {
            tracing::debug!(failure.code, again_after_s = pause.as_secs(), "still: {why}");
        }
        shared.upkeep.send_modify(|upkeep| {
            upkeep.refused += u64::from(is_news);
            (upkeep.state, upkeep.why) = (UpkeepState::Refused, Some(why));
        });
    }
}

impl Shared {
    /// What there is to make a browser from.
    pub(super) async fn look(&self) -> Seen {
        let (files, given) = (self.config.files.clone(), self.config.browser.engine.clone());
        let look = tokio::task::spawn_blocking(move || files.look(&given));
        look.await.unwrap_or_else(|error| Seen::nothing(format!("the search failed: {error}")))
    }

    /// The engine that is there now, or why there is none.
    pub(super) async fn engine(&self) -> Result<Engine, String> {
        let (files, given) = (self.config.files.clone(), self.config.browser.engine.clone());
        let find = tokio::task::spawn_blocking(move || files.engine(&given));
        find.await.unwrap_or_else(|error| Err(format!("the search was interrupted: {error}")))
    }

    /// Launches a browser.
    pub(super) async fn launch(&self, engine: &Result<Engine, String>) -> Result<Browser, Failure> {
        let launched = match engine {
            Ok(engine) => {
                let config =
                    BrowserConfig { engine: engine.clone(), ..self.config.browser.clone() };
                let launched = Browser::launch(&self.config.launcher, &config).await;
                launched.map_err(|error| unavailable(&error))
            }
            Err(why) => Err(Failure::new(
                Class::Dependency,
                "browser_unavailable",
                why.clone(),
                "install the engine again (apt-get install --reinstall chromium-headless-shell), \
                 or set renderer.path",
            )),
        };
        if launched.is_err() {
            self.counters(|counters| counters.failed_launches += 1);
        }
        launched
    }

    /// Says how the browser stands to what is on disk.
    fn tell(&self, state: UpkeepState) {
        let why = None;
        self.upkeep.send_if_modified(|upkeep| {
            let is_new = upkeep.state != state;
            (upkeep.state, upkeep.why) = (state, why);
            is_new
        });
    }
}

/// Ends a browser that was replaced, when nobody is in it any more.
pub(super) async fn retire(shared: Arc<Shared>, old: Common) {
    old.users.close();
    let began = Instant::now();
    shared.counters(|counters| counters.replaced = Some(began));
    let died = loop {
        tokio::select! {
            () = shared.stop.cancelled() => break false,
            () = old.browser.died().cancelled() => break true,
            () = old.users.wait() => break false,
            () = tokio::time::sleep(PACE) => leave_one(&shared, &old, began),
        }
    };
    let pid = old.browser.pid();
    if died {
        tracing::warn!(pid, "the old browser died before its last context was closed");
        count_death(&shared, &old.browser);
        shared.drop_dead();
    } else {
        metrics::browser_ended(Death::Recycled);
    }
    old.browser.close().await;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(pid, took_ms, "the old browser is gone");
    let still_told = shared.upkeep.borrow().state == UpkeepState::Replacing;
    if still_told {
        shared.tell(UpkeepState::Current);
    }
}

/// Closes an idle context, or has the next busy one go.
fn leave_one(shared: &Arc<Shared>, old: &Common, began: Instant) {
    let goes = |warm: &Warm| old.has(warm) || warm.has_old_browser(Some(began));
    match shared.contexts(|contexts| contexts.take(goes)) {
        Some(warm) => checkout::close(shared, warm, Place::taken(shared)),
        None => old.leaving.add_permits(1),
    }
}
