//! What the pool does now, for operators and for the memory governor.

use std::sync::Arc;

use super::Pool;
use super::supervisor::BrowserState;
use crate::renderer::Upkeep;
use crate::renderer::browser::Browser;

/// What the pool does now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PoolStatus {
    /// `starting`, `ready`, `unavailable` or `closed`.
    pub browser: &'static str,
    /// The browser's pid, where there is one: bubblewrap's in the jail.
    pub pid: Option<u32>,
    /// What it calls itself.
    pub version: Option<String>,
    /// Why none can be launched, or why the one before was ended.
    pub error: Option<String>,
    /// The bound.
    pub max_contexts: usize,
    /// Idle, busy, being opened and being closed.
    pub contexts: usize,
    /// Warm and waiting.
    pub idle: usize,
    /// In the hands of a job, being opened or being closed.
    pub busy: usize,
    /// Contexts opened so far.
    pub opened: u64,
    /// Browsers launched so far.
    pub starts: u64,
    /// Browsers that died by themselves.
    pub deaths: u64,
    /// Launches that failed.
    pub failed_launches: u64,
    /// How the browser stands to engine and fonts on disk.
    pub upkeep: Upkeep,
}

/// One live context's renderer process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renderer {
    /// Whose context it is.
    pub tenant: Arc<str>,
    /// The host's pid, where it could be told apart from others.
    pub pid: Option<u32>,
    /// Whether a job is in it.
    pub busy: bool,
}

impl Pool {
    /// What the pool does now.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let counters = self.shared.counters(|counters| *counters);
        let (alive, idle, max) =
            self.shared.contexts(|contexts| (contexts.alive(), contexts.idle(), contexts.max()));
        let (browser, ready, error) = match &*self.shared.state.borrow() {
            BrowserState::Starting(after) => ("starting", None, after.clone()),
            BrowserState::Ready(common) => ("ready", Some(common.browser.clone()), None),
            BrowserState::Unavailable(failure) => {
                ("unavailable", None, Some(failure.message.clone()))
            }
            BrowserState::Closed => ("closed", None, None),
        };
        PoolStatus {
            browser,
            pid: ready.as_ref().map(Browser::pid),
            version: ready.map(|browser| browser.product().to_owned()),
            error,
            max_contexts: max,
            contexts: alive,
            idle,
            busy: alive.saturating_sub(idle),
            opened: counters.opened,
            starts: counters.starts,
            deaths: counters.deaths,
            failed_launches: counters.failed_launches,
            upkeep: self.shared.upkeep.borrow().clone(),
        }
    }

    /// The renderer of every context that is idle or in the hands of a job.
    #[must_use]
    pub fn renderers(&self) -> Vec<Renderer> {
        let mut all: Vec<Renderer> =
            self.shared.busy(|busy| busy.values().map(|held| held.renderer.clone()).collect());
        self.shared.contexts(|contexts| {
            all.extend(contexts.iter_idle().map(|(tenant, warm)| warm.renderer(tenant, false)));
        });
        all
    }
}
