//! What kind of context a job gets: shared with its tenant's other jobs or its
//! own, in the common browser or in one of its own, with or without scripts.
//!
//! | isolation | scripts | context | browser |
//! |---|---|---|---|
//! | `tenant` | off | its tenant's, warm | common |
//! | `job` | off | fresh | common |
//! | `browser` | off | its tenant's, warm | the context's own |
//! | `tenant`, `job` | on | fresh | common |
//! | `browser` | on | fresh | the context's own |
//!
//! A browser of a context's own is launched with it and ends with it. Nothing
//! supervises it: whoever needs another has it launched. If it dies under a job,
//! that is a `browser_died` as in the common one.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{ANSWER_TIMEOUT, Shared, closed, no_browser};
use crate::failure::{Class, Failure};
use crate::job::Isolation;
use crate::metrics::{self, Death};
use crate::renderer::RenderRequest;
use crate::renderer::browser::Browser;
use crate::renderer::cdp::CloseReason;
use crate::renderer::context::ContextOptions;
use crate::renderer::jail::Jail;

/// Whether and for how long documents' scripts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptPolicy {
    /// Whether a job may have them run, where its request does not say.
    pub allowed: bool,
    /// How much time they see pass.
    pub time: Duration,
}

/// What kind of context a job gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    isolation: Isolation,
    scripts: bool,
}

impl Manner {
    /// Whether another job of the tenant may follow in the context. What a script
    /// leaves behind (globals, listeners, frames) outlives its document.
    pub(super) fn is_kept(self) -> bool {
        self.isolation != Isolation::Job && !self.scripts
    }

    /// What a context without scripts is for that nobody has asked for yet.
    pub(super) fn plain(isolation: Isolation) -> Self {
        Self { isolation, scripts: false }
    }

    /// Whether one that was made ready ahead will do; see [`super::spare`].
    pub(super) fn takes_spares(self) -> bool {
        !self.scripts && !self.has_own_browser()
    }

    /// Whether the context has a browser to itself.
    pub(super) fn has_own_browser(self) -> bool {
        self.isolation == Isolation::Browser
    }

    pub(super) fn context(self) -> ContextOptions {
        ContextOptions { frames: false, scripts: self.scripts }
    }
}

impl Shared {
    /// What kind of context a request gets, if it may have it.
    pub(super) fn manner(&self, request: &RenderRequest) -> Result<Manner, Failure> {
        let isolation = request.rules.isolation.unwrap_or(self.config.isolation);
        let scripts = request.options.script.is_some();
        if !scripts {
            return Ok(Manner { isolation, scripts });
        }
        if !request.rules.scripts.unwrap_or(self.config.scripts.allowed) {
            return Err(refused(
                "this tenant's documents may not run scripts here",
                "leave `script` out, or have an operator set renderer.scripts = \"on\", or \
                 `tillroll tenant set TENANT --scripts on`",
            ));
        }
        if matches!(self.config.browser.jail, Jail::None) {
            return Err(refused(
                "scripts run in the jail only, and this worker has none (renderer.jail = \"none\")",
                "leave `script` out, or run the worker with renderer.jail = \"bwrap\"",
            ));
        }
        Ok(Manner { isolation, scripts })
    }

    /// Launches a browser for the context that will have this number.
    pub(super) async fn launch_own(
        self: &Arc<Self>,
        number: u64,
        deadline: Instant,
    ) -> Result<Browser, Failure> {
        let launch = async {
            let engine = self.engine().await;
            self.launch(&engine).await
        };
        let launched = tokio::select! {
            // A launch that is dropped kills what it started.
            () = self.stop.cancelled() => return Err(closed()),
            launched = timeout_at(deadline, launch) => launched.map_err(|_| no_browser())?,
        };
        let browser = launched?;
        self.counters(|counters| counters.starts += 1);
        metrics::browser_started();
        self.own(|own| own.insert(number, browser.clone()));
        // The pool may have been closed, and have looked, a moment before.
        if self.stop.is_cancelled() {
            self.end_own(number, &browser).await;
            return Err(closed());
        }
        Ok(browser)
    }

    /// Ends a context's own browser; returns when nothing of it is left.
    pub(super) async fn end_own(&self, number: u64, browser: &Browser) {
        if self.own(|own| own.remove(&number)).is_none() {
            // Somebody else ends it: wait for them.
            browser.gone().cancelled().await;
            return;
        }
        // Where its renderer was seen to die, it may be dying with it, unseen so far.
        let lives = browser.death().is_none()
            && (self.stop.is_cancelled() || browser.answers(ANSWER_TIMEOUT).await);
        let death = match browser.death() {
            _ if lives => Death::Stopped,
            None | Some(CloseReason::Requested) => Death::Hung,
            Some(CloseReason::Malformed(_)) => Death::Suspect,
            Some(_) => Death::Crashed,
        };
        if death != Death::Stopped {
            self.counters(|counters| counters.deaths += 1);
        }
        metrics::browser_ended(death);
        browser.kill().await;
    }

    /// Ends all of them.
    pub(super) async fn end_all_own(&self) {
        let all: Vec<(u64, Browser)> = self
            .own(|own| own.iter().map(|(number, browser)| (*number, browser.clone())).collect());
        for (number, browser) in all {
            self.end_own(number, &browser).await;
        }
    }

    fn own<R>(&self, look: impl FnOnce(&mut std::collections::HashMap<u64, Browser>) -> R) -> R {
        look(&mut self.own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refused(message: &str, remedy: &str) -> Failure {
    Failure::new(Class::Input, "scripts_refused", message, remedy)
}
