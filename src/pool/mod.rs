//! The pool: which warm, isolated page a document is rendered in.
//!
//! One supervised browser ([`supervisor`]), contexts of one page each, keyed by
//! tenant ([`contexts`]). A job checks a context out, or has one opened, and
//! gives it back; a context whose render was abandoned, timed out or broke is
//! destroyed instead ([`checkout`]), and one that cannot be destroyed takes its
//! browser with it. Where engine or fonts change on disk, the browser is replaced
//! while jobs run, if a new one is good ([`upkeep`]). How much jobs share is [`manner`]'s: a job may have a context,
//! or its tenant's context a browser, of its own.
//!
//! Invariants: a context serves one tenant only, and one job at a time; idle,
//! busy, opening and closing contexts together never outnumber the bound, which
//! may be moved while jobs run; dropping a render frees all it held.
//!
//! Failures: `browser_unavailable` while no browser can be launched,
//! `browser_died` if it dies under the job, `no_context` if no place came free
//! in time, `scripts_refused` where a job's scripts may not run, those of
//! [`Limits`], and those of [`Page::render`](crate::renderer::page::Page::render).

mod canary;
mod checkout;
pub mod contexts;
mod holders;
mod manner;
mod opening;
pub mod recycle;
mod relief;
mod spare;
mod status;
mod supervisor;
mod upkeep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::{Class, Failure, MEMORY_FENCE, MEMORY_KERNEL};
use crate::job::Rules;
use crate::metrics;
use crate::renderer::browser::{Browser, BrowserConfig};
use crate::renderer::fence::Killed;
use crate::renderer::files::Files;
use crate::renderer::jail::{self, Jail};
use crate::renderer::launcher::Launcher;
use crate::renderer::limits::Limits;
use crate::renderer::page::Failed;
use crate::renderer::{
    Readiness, Relief, Render, RenderFuture, RenderRequest, Rendered, Upkeep, Vitals, Watch,
};

use checkout::{InUse, Place, Warm};
use contexts::Contexts;
use holders::Holders;
use manner::Manner;
use recycle::RecyclePolicy;
use relief::Watched;
use supervisor::BrowserState;

pub use crate::job::Isolation;
pub use manner::ScriptPolicy;
pub use opening::PATIENCE;
pub use status::{PoolStatus, Renderer};

/// A browser that does not open a context within this hangs (80 ms is usual).
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// A browser that does not say its version within this hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Documents from this on, in bytes, are looked at in a thread of their own.
const LARGE_DOCUMENT: usize = 256 * 1024;

/// How a pool is made.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// What spawns browsers.
    pub launcher: Launcher,
    /// Which browser, in which jail.
    pub browser: BrowserConfig,
    /// At most this many contexts at once; see [`Pool::set_max_contexts`].
    pub max_contexts: usize,
    /// How much jobs share, where a request does not say.
    pub isolation: Isolation,
    /// Whether and for how long scripts run.
    pub scripts: ScriptPolicy,
    /// No job renders longer, whatever it asks for.
    pub max_timeout: Duration,
    /// How long a context serves.
    pub recycle: RecyclePolicy,
    /// What one document may ask for.
    pub limits: Limits,
    /// What a browser is made from on disk.
    pub files: Files,
    /// How often that is looked at.
    pub look_every: Duration,
    /// So many contexts are made ready ahead, while nothing is rendered.
    pub spares: usize,
    /// So many renders at once leave no core idle: from there on a job waits a moment
    /// for its tenant's context before another is opened.
    pub enough: usize,
    /// That moment; see [`PATIENCE`].
    pub patience: Duration,
}

/// What a job asks for when it wants a context.
#[derive(Clone, Copy)]
struct Asked<'a> {
    tenant: &'a Arc<str>,
    job: u64,
    manner: Manner,
    deadline: Instant,
    allowed: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    /// Contexts that were to be opened.
    numbers: u64,
    opened: u64,
    starts: u64,
    deaths: u64,
    failed_launches: u64,
    /// When the common browser was last replaced by a newer one.
    replaced: Option<Instant>,
    /// When a job last left its context.
    last_left: Option<Instant>,
}

/// What the pool's parts share.
#[derive(Debug)]
struct Shared {
    config: PoolConfig,
    contexts: Mutex<Contexts<Warm>>,
    counters: Mutex<Counters>,
    /// The contexts in the hands of jobs, by the number of their opening.
    busy: Mutex<HashMap<u64, InUse>>,
    /// Jobs that have a context or have one opened.
    holders: Arc<Holders>,
    /// Browsers that serve one context only, by its number.
    own: Mutex<HashMap<u64, Browser>>,
    /// Who hears of them.
    watch: Watched,
    state: watch::Sender<BrowserState>,
    /// What the worker sees of `state`.
    readiness: watch::Sender<Readiness>,
    /// How the browser stands to what is on disk.
    upkeep: watch::Sender<Upkeep>,
    /// A context was given back or released, or the pool was closed.
    changed: Notify,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
}

/// A pool of warm pages. See the module's documentation.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Pool {
    /// Starts a pool and, in the background, its browser. Must be called
    /// within a Tokio runtime.
    #[must_use]
    pub fn start(config: PoolConfig) -> Self {
        let shared = Arc::new(Shared {
            contexts: Mutex::new(Contexts::new(config.max_contexts)),
            counters: Mutex::default(),
            busy: Mutex::default(),
            holders: Arc::default(),
            own: Mutex::default(),
            watch: Watched::default(),
            state: watch::Sender::new(BrowserState::Starting(None)),
            readiness: watch::Sender::new(BrowserState::Starting(None).readiness()),
            upkeep: watch::Sender::new(Upkeep::default()),
            changed: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            config,
        });
        let supervisor = tokio::spawn(supervisor::run(Arc::clone(&shared)));
        shared.tasks.spawn(spare::run(Arc::clone(&shared)));
        Self { shared, supervisor: Mutex::new(Some(supervisor)) }
    }

    /// Waits until a browser is ready.
    ///
    /// # Errors
    /// `browser_unavailable`, if a launch failed; the pool goes on trying.
    pub async fn ready(&self) -> Result<(), Failure> {
        let mut state = self.shared.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                BrowserState::Ready(common) if !common.browser.is_dead() => return Ok(()),
                BrowserState::Ready(_) | BrowserState::Starting(_) => {}
                BrowserState::Unavailable(failure) => return Err(failure.clone()),
                BrowserState::Closed => return Err(closed()),
            }
            if state.changed().await.is_err() {
                return Err(closed());
            }
        }
    }

    /// The browser, if there is one: for its processes and their memory.
    #[must_use]
    pub fn browser(&self) -> Option<Browser> {
        match &*self.shared.state.borrow() {
            BrowserState::Ready(common) => Some(common.browser.clone()),
            _ => None,
        }
    }

    /// Moves the bound, at least one. Idle contexts beyond it are closed now,
    /// least recently used first, busy ones when their job is done.
    pub fn set_max_contexts(&self, max: usize) {
        let over = self.shared.contexts(|contexts| contexts.set_max(max));
        for warm in over {
            checkout::close(&self.shared, warm, Place::taken(&self.shared));
        }
        self.shared.changed.notify_waiters();
    }

    /// Closes the pool: renders that still run fail, the browser ends. Returns
    /// when nothing of it is left.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.await
        {
            // Not what a panic said, which may quote anything.
            tracing::error!(
                panicked = error.is_panic(),
                "the browser's supervisor ended abnormally"
            );
        }
        self.shared.end_all_own().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Render for Pool {
    fn render(&self, request: RenderRequest) -> RenderFuture<'_> {
        Box::pin(self.shared.render(request))
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared.readiness.subscribe()
    }

    fn kind(&self) -> &'static str {
        match self.shared.config.browser.jail {
            Jail::Bwrap { .. } => "chromium",
            Jail::None => jail::UNJAILED,
        }
    }

    fn upkeep(&self) -> Option<watch::Receiver<Upkeep>> {
        Some(self.shared.upkeep.subscribe())
    }

    fn watched_by(&self, watch: Arc<dyn Watch>) -> bool {
        let first = self.shared.watch.set(watch);
        if first {
            // What was made ready before is not known there, and could not be ordered to go.
            self.shared.drop_idle();
        }
        first
    }

    fn launches_for(&self, rules: Rules) -> bool {
        rules.isolation.unwrap_or(self.shared.config.isolation) == Isolation::Browser
    }

    fn relieve(&self, context: u64, relief: Relief) {
        self.shared.relieve(context, relief);
    }

    fn vitals(&self) -> Vitals {
        let browser = self.browser().map(|browser| (browser.pid(), browser.product().to_owned()));
        Vitals { browser, contexts: self.shared.contexts(|contexts| contexts.alive()) }
    }
}

impl Shared {
    async fn render(self: &Arc<Self>, request: RenderRequest) -> Result<Rendered, Failure> {
        let limits = self.config.limits;
        let allowed = request.options.timeout.min(self.config.max_timeout);
        let deadline = Instant::now() + allowed;
        timeout_at(deadline, check(limits, &request))
            .await
            .unwrap_or_else(|_| Err(Failed::timed_out(allowed).failure))?;
        let manner = self.manner(&request)?;
        let asked = Asked { tenant: &request.tenant, job: request.job, manner, deadline, allowed };
        let mut busy = self.checkout(asked).await?;
        let Some(warm) = busy.warm() else { return Err(closed()) };
        let result = warm.page.render(&request, &limits, deadline).await.map_err(|mut failed| {
            failed.failure = failed.failure.with_memory(warm.context.footprint());
            failed
        });
        // A whole browser that hangs looks like a slow document: ask it.
        if let Err(failed) = &result
            && !failed.page_is_sound
            && !warm.browser.is_dead()
            && !warm.browser.answers(ANSWER_TIMEOUT).await
        {
            tracing::warn!(
                pid = warm.browser.pid(),
                "the browser does not answer any more; replacing it"
            );
            warm.browser.kill().await;
            return Err(Failed::browser_died().failure);
        }
        let is_sound = result.as_ref().err().is_none_or(|failed| failed.page_is_sound);
        // Who waits for a document that hangs is to wait no longer.
        if is_sound && manner.is_kept() {
            warm.page.rest().await;
        }
        let browser_died = warm.browser.is_dead();
        let is_spent = warm.page.is_spent();
        match result {
            Ok(rendered) => {
                if !is_spent {
                    busy.give_back();
                }
                match limits.check_result(&rendered) {
                    Ok(()) => Ok(rendered),
                    Err(failure) => Err(failure.with_warnings(rendered.warnings)),
                }
            }
            Err(failed) if failed.page_is_sound && !is_spent => {
                busy.give_back();
                Err(failed.failure)
            }
            // A browser that is being closed lets go of its pages first.
            Err(_) if self.stop.is_cancelled() => Err(closed()),
            Err(failed) if !browser_died && failed.failure.class == Class::Renderer => {
                Err(fell_to_kernel(&warm.browser).map_or(failed.failure, killed))
            }
            // A renderer that dies with its browser is nobody's fault.
            Err(failed) if browser_died && failed.failure.class == Class::Renderer => {
                Err(Failed::browser_died_of(warm.browser.death().as_ref()).failure)
            }
            Err(failed) => Err(failed.failure),
        }
    }

    /// Moves to another state of the browser, and says whether work can be taken.
    fn enter(&self, state: BrowserState) {
        let readiness = state.readiness();
        self.state.send_replace(state);
        self.readiness.send_if_modified(|now| std::mem::replace(now, readiness) != *now);
    }

    /// Gives up all idle contexts.
    fn drop_idle(self: &Arc<Self>) {
        let idle = self.contexts(Contexts::drain);
        for warm in idle {
            checkout::close(self, warm, Place::taken(self));
        }
    }

    /// Gives up those whose browser is dead.
    fn drop_dead(self: &Arc<Self>) {
        let dead = |warm: &Warm| warm.browser.is_dead();
        while let Some(warm) = self.contexts(|contexts| contexts.take(dead)) {
            checkout::close(self, warm, Place::taken(self));
        }
    }

    /// The contexts, for one look or change. Nobody waits while holding them.
    fn contexts<R>(&self, look: impl FnOnce(&mut Contexts<Warm>) -> R) -> R {
        look(&mut self.contexts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn busy<R>(&self, look: impl FnOnce(&mut HashMap<u64, InUse>) -> R) -> R {
        look(&mut self.busy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn counters<R>(&self, look: impl FnOnce(&mut Counters) -> R) -> R {
        look(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether the kernel killed a renderer for want of memory, and whose.
fn fell_to_kernel(browser: &Browser) -> Option<Killed> {
    browser.claim_kill().inspect(|_| metrics::memory_killed("kernel"))
}

fn killed(whose: Killed) -> Failure {
    if whose == Killed::Outside {
        return Failure::new(
            Class::Interrupted,
            MEMORY_KERNEL,
            "the machine, or a control group above the browser's, had no memory left, and the \
             kernel killed its renderer",
            "nothing: it is tried again; where it happens often, raise memory.reserve, or give \
             what runs beside the worker a limit of its own",
        );
    }
    Failure::new(
        Class::Resource,
        MEMORY_FENCE,
        "it took memory faster than that could be seen, and the kernel killed its renderer",
        "nothing: it is tried again, alone; where it happens often, split the document, use fewer \
         rows or smaller images, or give the worker more memory",
    )
}

/// Looks at a document before anything is spent on it; at a large one away from
/// the event loop (a million tags take 20 ms).
async fn check(limits: Limits, request: &RenderRequest) -> Result<(), Failure> {
    if request.html.len() < LARGE_DOCUMENT {
        return limits.check(request);
    }
    let request = request.clone();
    let looking = tokio::task::spawn_blocking(move || limits.check(&request));
    looking.await.unwrap_or_else(|_| {
        Err(Failure::new(
            Class::Bug,
            "panicked",
            "the document could not be looked at",
            "report this with the worker's log",
        ))
    })
}

fn closed() -> Failure {
    Failure::new(
        Class::Interrupted,
        "pool_closed",
        "the worker's renderers are being shut down",
        "nothing: the job runs again on another worker, or after the restart",
    )
}

fn no_browser() -> Failure {
    Failure::new(
        Class::Dependency,
        "browser_unavailable",
        "no browser became ready within the render time",
        "run `tillroll doctor`; the worker goes on trying",
    )
}

fn no_context(allowed: Duration) -> Failure {
    Failure::new(
        Class::Resource,
        "no_context",
        format!("all contexts were busy for {} ms", allowed.as_millis()),
        "give the worker more memory, or fewer concurrent renders",
    )
}
