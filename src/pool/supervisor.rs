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
//! A launch that failed leaves nothing behind, so the next one starts clean.
//! Jobs wait while a browser starts, and fail at once while none can be had.

use std::sync::Arc;

use tokio::time::Instant;

use super::recycle::{SETTLED, launch_pause};
use super::{Shared, fell_to_kernel};
use crate::failure::{Class, Failure};
use crate::metrics::{self, Death};
use crate::renderer::Readiness;
use crate::renderer::browser::{Browser, LaunchError};
use crate::renderer::cdp::CloseReason;

/// What there is to render with.
#[derive(Debug, Clone)]
pub(super) enum BrowserState {
    /// A launch is under way.
    Starting,
    /// This one, unless it has just died.
    Ready(Browser),
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
            Self::Starting => Err("the browser is starting".to_owned()),
            Self::Unavailable(failure) => Err(format!("{}; {}", failure.message, failure.remedy)),
            Self::Closed => Err("the pool is closed".to_owned()),
        }
    }
}

/// Runs until the pool is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut streak = 0_u32;
    loop {
        let launch = Browser::launch(&shared.config.launcher, &shared.config.browser);
        let launched = tokio::select! {
            // A launch that is dropped kills what it started.
            () = shared.stop.cancelled() => break,
            launched = launch => launched,
        };
        match launched {
            Ok(browser) => {
                let since = Instant::now();
                if !serve(&shared, &browser).await {
                    break;
                }
                streak = if since.elapsed() < SETTLED { streak.saturating_add(1) } else { 0 };
            }
            Err(error) => {
                streak = streak.saturating_add(1);
                let failure = unavailable(&error);
                tracing::warn!(error = %failure.message, launches_failed = streak,
                    "no browser could be launched");
                shared.counters(|counters| counters.failed_launches += 1);
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

/// Offers a browser until it dies (true) or the pool is closed (false).
async fn serve(shared: &Arc<Shared>, browser: &Browser) -> bool {
    tracing::info!(pid = browser.pid(), version = browser.product(), "browser ready");
    shared.counters(|counters| counters.starts += 1);
    metrics::browser_started();
    shared.enter(BrowserState::Ready(browser.clone()));
    tokio::select! {
        () = shared.stop.cancelled() => {
            shared.enter(BrowserState::Closed);
            shared.changed.notify_waiters();
            shared.drop_idle();
            browser.close().await;
            metrics::browser_ended(Death::Stopped);
            return false;
        }
        () = browser.died().cancelled() => {}
    }
    let reason = browser.death().map_or_else(|| "unknown".to_owned(), |reason| reason.to_string());
    tracing::warn!(pid = browser.pid(), reason, "the browser died; launching another");
    shared.counters(|counters| counters.deaths += 1);
    // We end a browser ourselves only where it no longer answers.
    let ours = matches!(browser.death(), Some(CloseReason::Requested));
    metrics::browser_ended(match ours {
        true => Death::Hung,
        false if fell_to_kernel(browser) => Death::Memory,
        false => Death::Crashed,
    });
    shared.enter(BrowserState::Starting);
    // Their renderers died with it. Busy ones are given up by their jobs.
    shared.drop_idle();
    true
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
