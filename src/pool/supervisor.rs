//! The one task that keeps a browser running.
//!
//! ```text
//!              launched                 died
//! starting ───────────────▶ ready ───────────────┐
//!  ▲    │ failed                                 │
//!  │    ▼                                        │
//!  └─ unavailable ◀──── pause, if it is not the first ───┘      close() from anywhere ─▶ closed
//! ```
//!
//! A launch that failed leaves nothing behind, so the next one starts clean: with
//! the engine that is there then. Launches follow each other, here and nowhere
//! else, so two for the same purpose never overlap.
//! Jobs wait while a browser starts, and fail at once while none can be had.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::recycle::{SETTLED, launch_pause};
use super::upkeep::{self, Common, Keeper};
use super::{Shared, fell_to_kernel};
use crate::failure::{Class, Failure};
use crate::metrics::{self, Death};
use crate::renderer::Readiness;
use crate::renderer::browser::{Browser, LaunchError};
use crate::renderer::cdp::CloseReason;
use crate::renderer::files::Seen;

/// What there is to render with.
#[derive(Debug, Clone)]
pub(super) enum BrowserState {
    /// A launch is under way; after what the one before did, where somebody should
    /// know.
    Starting(Option<String>),
    /// This one, unless it has just died.
    Ready(Common),
    /// The last launch failed, for this reason; the next follows.
    Unavailable(Failure),
    /// The pool was closed.
    Closed,
}

impl BrowserState {
    /// Whether work can be taken. A browser that starts is a moment's matter:
    /// claims wait for it.
    pub(super) fn readiness(&self) -> Readiness {
        match self {
            Self::Ready(_) => Ok(()),
            Self::Starting(None) => Err("the browser is starting".to_owned()),
            Self::Starting(Some(after)) => Err(format!("the browser is starting again: {after}")),
            Self::Unavailable(failure) => Err(format!("{}; {}", failure.message, failure.remedy)),
            Self::Closed => Err("the pool is closed".to_owned()),
        }
    }
}

/// Runs until the pool is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut streak = 0_u32;
    loop {
        let launch = async {
            let seen = shared.look().await;
            let launched = shared.launch(&seen.engine).await;
            (seen, launched)
        };
        let (seen, launched) = tokio::select! {
            // A launch that is dropped kills what it started.
            () = shared.stop.cancelled() => break,
            launched = launch => launched,
        };
        match launched {
            Ok(browser) => {
                let Some(lived) = serve(&shared, browser, seen).await else { break };
                streak = if lived < SETTLED { streak.saturating_add(1) } else { 0 };
            }
            Err(failure) => {
                streak = streak.saturating_add(1);
                tracing::warn!(error = %failure.message, launches_failed = streak,
                    "no browser could be launched");
                shared.enter(BrowserState::Unavailable(failure));
            }
        }
        let pause = launch_pause(streak);
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    shared.enter(BrowserState::Closed);
    shared.changed.notify_waiters();
}

/// Offers a browser, and those that replace it, until one dies; says how long that
/// one lived, or `None` if the pool was closed.
async fn serve(shared: &Arc<Shared>, browser: Browser, seen: Seen) -> Option<Duration> {
    let mut common = Common::new(browser);
    let mut upkeep = Keeper::new(shared, seen);
    let mut replaced = None;
    loop {
        let since = Instant::now();
        offer(shared, &common);
        // Only now: nobody finds the old one any more.
        if let Some(old) = replaced.take() {
            shared.tasks.spawn_on(upkeep::retire(Arc::clone(shared), old), &shared.runtime);
        }
        let newer = tokio::select! {
            () = shared.stop.cancelled() => None,
            () = common.browser.died().cancelled() => {
                mourn(shared, &common.browser);
                upkeep.give_up(shared).await;
                return Some(since.elapsed());
            }
            newer = upkeep.replacement(shared) => Some(newer),
        };
        let Some(newer) = newer else { break };
        replaced = Some(std::mem::replace(&mut common, Common::new(newer)));
    }
    shared.enter(BrowserState::Closed);
    shared.changed.notify_waiters();
    shared.drop_idle();
    upkeep.give_up(shared).await;
    common.browser.close().await;
    metrics::browser_ended(Death::Stopped);
    None
}

fn offer(shared: &Shared, common: &Common) {
    let browser = &common.browser;
    tracing::info!(pid = browser.pid(), version = browser.product(), "browser ready");
    shared.counters(|counters| counters.starts += 1);
    metrics::browser_started();
    shared.enter(BrowserState::Ready(common.clone()));
}

/// A browser died, and there is none until another is launched.
fn mourn(shared: &Arc<Shared>, browser: &Browser) {
    let death = browser.death();
    let reason = death.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    tracing::warn!(pid = browser.pid(), reason, "the browser died; launching another");
    count_death(shared, browser);
    let suspect = matches!(death, Some(CloseReason::Malformed(_)));
    shared.enter(BrowserState::Starting(suspect.then_some(reason)));
    // Their renderers died with it. Busy ones are given up by their jobs.
    shared.drop_dead();
}

pub(super) fn count_death(shared: &Shared, browser: &Browser) {
    shared.counters(|counters| counters.deaths += 1);
    metrics::browser_ended(match browser.death() {
        // We end a browser ourselves only where it no longer answers,
        Some(CloseReason::Requested) => Death::Hung,
        // or what it says is not to be trusted.
        Some(CloseReason::Malformed(_)) => Death::Suspect,
        _ if fell_to_kernel(browser).is_some() => Death::Memory,
        _ => Death::Crashed,
    });
}

pub(super) fn unavailable(error: &LaunchError) -> Failure {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        message.push_str(&format!(": {next}"));
        cause = next.source();
    }
    Failure::new(Class::Dependency, "browser_unavailable", message, error.remedy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_was_ended_for_is_said_until_another_is_there() {
        assert_eq!(
            BrowserState::Starting(None).readiness().unwrap_err(),
            "the browser is starting"
        );
        let reason = CloseReason::Malformed("it is no JSON").to_string();
        let after = BrowserState::Starting(Some(reason)).readiness().unwrap_err();
        assert!(after.contains("not a protocol message: it is no JSON"), "{after}");
    }
}
