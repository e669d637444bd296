//! The parts that verbs share: memory, engine, jail, pool, built from the
//! configuration, with every failure in one form.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Session;
use super::exit::{Exit, Failure};
use crate::config::units::show_bytes;
use crate::config::{does_not_fit, values};
use crate::memory::{self, Governor, GovernorError, Probe};
use crate::pool::recycle::RecyclePolicy;
use crate::pool::{Pool, PoolConfig, ScriptPolicy};
use crate::queue::{Address, LimitSettings, Queue, QueueConfig, QueueError};
use crate::renderer::browser::{BrowserConfig, PROFILE_ROOT};
use crate::renderer::cdp;
use crate::renderer::engine::{self, Search};
use crate::renderer::fence::Fences;
use crate::renderer::files::Files;
use crate::renderer::jail::Jail;
use crate::renderer::launcher::Launcher;
use crate::renderer::limits::Limits;
use crate::renderer::profile;

/// How long a call to Redis may take before it counts as away.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// So long a command that waits leaves a Redis alone that went away.
pub(super) const REDIS_PAUSE: Duration = Duration::from_millis(500);

/// How to reach the queue at `redis`, as the worker or command called `id`.
pub(super) fn queue_config(session: &Session, redis: Address, id: &str) -> QueueConfig {
    let config = &session.loaded.config;
    QueueConfig {
        redis,
        queue: config.queue.name.as_str().to_owned(),
        worker: id.to_owned(),
        lease: config.queue.lease,
        response_timeout: RESPONSE_TIMEOUT,
        limits: LimitSettings {
            jobs: config.limits.jobs.0,
            bytes: config.limits.bytes.bytes(),
            held: config.limits.held.bytes(),
            dead: config.limits.dead.0,
            dead_bytes: config.limits.dead_bytes.bytes(),
            tenant_jobs: config.limits.tenant_jobs.0,
            tenant_bytes: config.limits.tenant_bytes.bytes().unwrap_or(0),
            tenant_running: config.limits.tenant_running.0,
            asset_bytes: config.limits.asset_bytes.bytes().unwrap_or(0),
            tenant_assets: config.limits.tenant_assets.0,
            tenant_asset_bytes: config.limits.tenant_asset_bytes.bytes().unwrap_or(0),
        },
        fenced: fenced(),
    }
}

/// A test of the fencing switches it off, to see what it prevents. Release
/// builds have no such switch.
#[cfg(debug_assertions)]
fn fenced() -> bool {
    std::env::var_os("TILLROLL_TEST_UNFENCED").is_none()
}

#[cfg(not(debug_assertions))]
fn fenced() -> bool {
    true
}

/// Connects to the queue that the session names.
///
/// # Errors
/// Where none is named, or it cannot be reached.
pub(super) async fn queue(session: &Session, id: &str) -> Result<Queue, Failure> {
    let config = queue_config(session, session.redis()?, id);
    Queue::connect(config).await.map_err(|error| unavailable(&error))
}

/// The duration that a flag gives.
///
/// # Errors
/// Where it is none.
pub(super) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    crate::config::units::parse_duration(text).map_err(|why| {
        Failure::new(Exit::Usage, format!("reading {flag}"), why, "write it like 10s or 5m")
    })
}

/// Whether there is a terminal on which somebody can be asked.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question on the terminal; whether the answer was yes.
///
/// # Errors
/// Where the terminal went away.
pub(super) fn ask(question: &str) -> std::io::Result<bool> {
    let mut err = std::io::stderr();
    err.write_all(question.as_bytes())?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Redis does not do what was asked.
pub(super) fn unavailable(error: &QueueError) -> Failure {
    Failure::of_redis("asking Redis", error)
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Plans memory for a few renders by hand, without a ledger.
///
/// # Errors
/// Where memory cannot be measured, or not even one renderer fits.
pub(super) fn plain_governor(session: &Session) -> Result<Governor, Failure> {
    measured(session, 0, Governor::new)
}

/// Measures memory and plans with it. `redis`: bytes that an embedded Redis may
/// still take.
///
/// # Errors
/// Where memory cannot be measured, or not even one renderer fits.
pub(super) fn governor(session: &Session, redis: u64) -> Result<Governor, Failure> {
    let config = &session.loaded.config;
    // What takes no memory needs no ledger.
    let governed = config.memory.governor == values::GovernorKind::On
        && config.renderer.kind == values::RendererKind::Chromium;
    measured(session, redis, |probe, settings| {
        if governed {
            Governor::governed(probe, settings, cores())
        } else {
            Governor::new(probe, settings)
        }
    })
}

fn measured(
    session: &Session,
    redis: u64,
    make: impl FnOnce(Probe, memory::Settings) -> Result<Governor, GovernorError>,
) -> Result<Governor, Failure> {
    let probe = Probe::default();
    let what = "planning memory";
    let total = probe.total().map_err(|error| {
        Failure::new(Exit::Unexpected, what, error, "mount /proc in this container")
    })?;
    let settings = memory_settings(session, total, redis);
    // Shares of the machine are sizes only here; sizes were compared before.
    if let Some(limit) = settings.limit
        && let Some(why) = does_not_fit(limit, settings.reserve, settings.per_render)
    {
        let why = format!("memory.limit = {:?} cannot be: {why}", show_bytes(limit));
        let fix = "raise memory.limit, or lower memory.reserve or memory.per_render";
        return Err(Failure::new(Exit::Config, what, why, fix));
    }
    make(probe, settings).map_err(|error| match &error {
        GovernorError::TooSmall(small) => {
            Failure::new(Exit::Unavailable, what, small, small.remedy())
        }
        GovernorError::Thread(_) => Failure::new(
            Exit::Unexpected,
            what,
            crate::worker::chain(&error),
            "raise the limit on threads (ulimit -u)",
        ),
        GovernorError::Probe(probe) => Failure::new(
            Exit::Unexpected,
            what,
            crate::worker::chain(probe),
            "mount /proc in this container",
        ),
    })
}

/// The memory budget as configured, on a machine with `total` bytes.
pub(super) fn memory_settings(session: &Session, total: u64, redis: u64) -> memory::Settings {
    let config = &session.loaded.config;
    let settings = memory::Settings {
        limit: config.memory.limit.map(|limit| limit.of(total)),
        reserve: config.memory.reserve.of(total),
        per_render: config.memory.per_render.bytes(),
        redis,
        slots: config.worker.concurrency.slots(cores()),
    };
    super::backend::memory(session, settings)
}

/// Makes fences around browsers possible, where they are wanted and the system
/// allows them; says where they are, or why there are none.
pub(super) fn fences(session: &Session, governor: &Governor) -> Option<Arc<dyn Fences>> {
    let config = &session.loaded.config;
    // Without a ledger nothing is to be killed.
    if config.memory.fence == values::FenceKind::Off || governor.live().is_none() {
        return None;
    }
    let (pid, nice) = (std::process::id(), config.renderer.nice.get());
    match memory::fence::Fences::prepare(Path::new("/"), pid, nice, cores()) {
        Ok(fences) => {
            let (place, cpu) = fences.places();
            let (below, cpu_weight) = (place.display(), cpu.is_some());
            let task_limit = fences.tasks().is_some();
            tracing::info!(%below, cpu_weight, task_limit, "each browser gets a fence of its own");
            governor.fence(fences.clone());
            Some(crate::worker::fences(fences))
        }
        Err(why) => {
            tracing::info!("browsers go without a fence of their own: {why}");
            None
        }
    }
}

/// The search for the engine.
pub(super) fn search(session: &Session) -> Search {
    Search {
        configured: session.loaded.config.renderer.path.clone(),
        home: session.home.clone(),
        path: session.path_dirs.clone(),
        ..Search::default()
    }
}

/// Finds engine and jail, and starts a pool of at most `contexts` warm pages.
/// Needs a runtime.
///
/// # Errors
/// Where there is no engine, no jail, or no thread to launch from.
pub(super) fn pool(
    session: &Session,
    (contexts, spares): (usize, usize),
    fences: Option<Arc<dyn Fences>>,
) -> Result<Pool, Failure> {
    let renderer = &session.loaded.config.renderer;
    let engine = engine::find(&search(session)).map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            "looking for Chromium",
            error,
            "apt-get install chromium-headless-shell, or set renderer.path to the program itself",
        )
    })?;
    let jail = match renderer.jail {
        values::Jail::Bwrap => Jail::find(&session.path_dirs).map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                "looking for the jail",
                error,
                "apt-get install bubblewrap",
            )
        })?,
        values::Jail::None => {
            tracing::warn!(
                "renderer.jail = none: documents are confined by Chromium's own sandbox at most, \
                 not by namespaces; scripts stay off and the network is denied by flags"
            );
            Jail::None
        }
    };
    let launcher = Launcher::start().map_err(|error| {
        Failure::new(
            Exit::Unexpected,
            "starting the launcher",
            error,
            "raise the limit on threads (ulimit -u)",
        )
    })?;
    sweep_profiles();
    let mut browser = BrowserConfig::new(engine, jail);
    browser.nice = i32::from(renderer.nice.get());
    browser.fences = fences;
    browser.frame_limit = cdp::frame_limit(renderer.max_pdf.bytes());
    Ok(Pool::start(PoolConfig {
        launcher,
        browser,
        max_contexts: contexts,
        // One more than the cores: while one waits for a reply, no core does.
        enough: cores() + 1,
        patience: crate::pool::PATIENCE,
        isolation: renderer.isolation,
        scripts: ScriptPolicy {
            allowed: renderer.scripts == values::Scripts::On,
            time: renderer.script_time,
        },
        max_timeout: renderer.timeout,
        recycle: RecyclePolicy {
            max_jobs: match renderer.recycle_jobs.0 {
                0 => u64::MAX,
                jobs => jobs,
            },
            max_age: renderer.recycle_age,
            max_bytes: renderer.recycle_memory.bytes(),
        },
        limits: Limits {
            nodes: renderer.max_nodes.0,
            depth: renderer.max_depth.0,
            pixels: renderer.max_pixels.0,
            pages: renderer.max_pages.0,
            pdf_bytes: renderer.max_pdf.bytes(),
        },
        files: Files::of_system(search(session)),
        look_every: renderer.look_every,
        spares,
    }))
}

/// Removes what workers without a jail left behind when they were killed.
fn sweep_profiles() {
    match profile::sweep(Path::new(PROFILE_ROOT)) {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed profiles of browsers whose worker is gone"),
        Err(error) => {
            tracing::warn!(%error, "profiles of browsers whose worker is gone could not be removed");
        }
    }
}

/// Waits for the first browser, so that a broken one is told at once.
///
/// # Errors
/// Why it could not be launched.
pub(super) async fn ready(pool: &Pool) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let unavailable =
        |why: String, fix: String| Failure::new(Exit::Unavailable, "launching Chromium", why, fix);
    match tokio::time::timeout(PATIENCE, pool.ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(unavailable(failure.message, failure.remedy)),
        Err(_) => Err(unavailable(
            format!("no browser was ready within {} s", PATIENCE.as_secs()),
            "look at the machine's load and free memory".to_owned(),
        )),
    }
}
