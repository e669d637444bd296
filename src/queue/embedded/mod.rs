//! A private redis-server, for those who have none: started by the worker,
//! found by the other verbs, shared by the workers of one state directory.
//!
//! ```text
//!            start_or_join                      last worker leaves
//! (none) ───────────────────▶ running, in use ─────────────────────▶ (none)
//!    ▲                          │    ▲    │ ▲
//!    │                  workers │    │    │ └─ join: another worker comes
//!    │                  killed  ▼    │    │ dies: restarted on the same port
//!    └── never by itself ── orphaned ┘    ▼ with what its file holds
//!                               adopt   (dead)
//! ```
//!
//! It keeps an append-only file (synchronised each second), refuses pushes
//! when it is full rather than drop a job, and is reached on loopback and by a
//! socket, with a generated password. It survives the worker's death by
//! design: jobs are its own, not the worker's. Files stand in
//! `<state.dir>/redis`: `redis.conf`, `password`, `url`, `server.json`,
//! `redis.log`, the append-only files and the locks (see `dir.rs`).
//!
//! What can go wrong, and what then happens:
//!
//! * The server dies: every worker that uses it sees that within a second; one
//!   of them starts it again on the same port. Up to a second may be rolled back.
//! * The last worker dies: the server goes on; a later worker adopts it.
//! * A worker is dropped without [`Embedded::leave`]: as if it had died.
//! * It cannot be started: one error with what, why and remedy.

mod dir;
mod error;
mod server;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use dir::{Dir, Lock, Record};
pub use error::{Cause, EmbeddedError};
use server::Program;

/// How long a stopping server may write.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a living server may take to answer one who joins.
const JOIN_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at.
const WATCH: Duration = Duration::from_secs(1);
/// Wait between restarts that fail.
const RESTART_PAUSE: Duration = Duration::from_secs(10);

/// How to start one.
#[derive(Debug, Clone)]
pub struct Options {
    /// `state.dir`.
    pub state_dir: PathBuf,
    /// `redis.maxmemory`, in bytes.
    pub maxmemory: u64,
    /// Where `redis-server` is looked for: the directories of `PATH`.
    pub search: Vec<PathBuf>,
}

/// How we came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It did not run.
    Started,
    /// It ran without any worker.
    Adopted,
    /// Another worker uses it too.
    Joined,
}

impl Came {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Adopted => "adopted",
            Self::Joined => "joined",
        }
    }
}

/// The most that a server with this `maxmemory` takes, in bytes: half as much
/// again for pages copied while it rewrites its file in a fork, and 16 MiB for
/// itself, its connections and buffers.
#[must_use]
pub fn footprint(maxmemory: u64) -> u64 {
    maxmemory.saturating_add(maxmemory / 2).saturating_add(16 << 20)
}

/// The embedded Redis, in use by this worker until it [leaves](Embedded::leave).
/// Dropped without that, the server goes on and waits to be adopted.
#[derive(Debug)]
pub struct Embedded {
    dir: Dir,
    url: String,
    came: Came,
    still_to_take: u64,
    /// Counts us among its workers.
    using: Lock,
    record: Arc<Mutex<Record>>,
    watch: Watch,
}

/// Ends with the handle.
#[derive(Debug)]
struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Embedded {
    /// Starts one, adopts one that was orphaned, or joins one in use. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn start_or_join(options: &Options) -> Result<Self, EmbeddedError> {
        let dir = Dir::make(&options.state_dir)?;
        let start = dir.lock_start().await?;
        let (using, alone) = dir.enter()?;
        let (record, started) = ensure(&dir, options).await?;
        let password = dir.make_password()?;
        let silent = |error: redis::RedisError| EmbeddedError::Silent {
            dir: dir.path().into(),
            why: error.to_string(),
            pid: record.process.map(|(pid, _)| pid),
        };
        let came = match (started, alone) {
            (true, _) => Came::Started,
            (false, true) => Came::Adopted,
            (false, false) => Came::Joined,
        };
        let mut answer = server::ask(record.port, &password).await.map_err(silent)?;
        if answer.maxmemory != options.maxmemory && came == Came::Adopted {
            let set = server::set_maxmemory(record.port, &password, options.maxmemory);
            set.await.map_err(silent)?;
            answer.maxmemory = options.maxmemory;
        } else if answer.maxmemory != options.maxmemory {
            tracing::warn!(
                redis.maxmemory_bytes = answer.maxmemory,
                wanted_bytes = options.maxmemory,
                "the embedded Redis keeps the redis.maxmemory of the worker that started it"
            );
        }
        drop(start);
        let url = server::url(record.port, &password);
        let record = Arc::new(Mutex::new(record));
        let watch = tokio::spawn(watch(dir.clone(), options.clone(), Arc::clone(&record)));
        Ok(Self {
            dir,
            url,
            came,
            still_to_take: footprint(answer.maxmemory).saturating_sub(answer.rss),
            using,
            record,
            watch: Watch(watch),
        })
    }

    /// `redis://:PASSWORD@127.0.0.1:PORT/0`, for this worker and for app servers
    /// on this machine. Holds the password: print it for the operator only.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file (0600) that holds the URL as its only line.
    #[must_use]
    pub fn url_file(&self) -> PathBuf {
        self.dir.url_file()
    }

    /// How we came to it.
    #[must_use]
    pub fn came(&self) -> Came {
        self.came
    }

    /// Bytes that it may take beyond what it takes already: to be counted in
    /// the memory budget.
    #[must_use]
    pub fn still_to_take(&self) -> u64 {
        self.still_to_take
    }

    /// Stops using it; the last one stops it, and waits until everything is on
    /// disk. Returns whether it was stopped.
    ///
    /// # Errors
    /// Where it does not stop in time. It then stops later, or goes on and is
    /// adopted by the next worker; nothing is lost.
    pub async fn leave(self) -> Result<bool, EmbeddedError> {
        let Self { dir, using, record, mut watch, .. } = self;
        watch.0.abort();
        // Ends as cancelled; a restart that it was in the middle of is noted.
        if let Err(error) = (&mut watch.0).await
            && error.is_panic()
        {
            tracing::error!(%error, "watching the embedded Redis failed");
        }
        let start = dir.lock_start().await?;
        drop(using);
        let stopped = dir.is_unused()? && dir.server_lives()?;
        if stopped {
            let known = record.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Another worker may have restarted it after we last looked.
            stop(&dir, &dir.record()?.unwrap_or(known)).await?;
        }
        drop(start);
        Ok(stopped)
    }
}

/// The version of the server that would be started, such as `7.0`.
///
/// # Errors
/// Where there is none in `search`, or none that can be used.
pub async fn server_version(search: &[PathBuf]) -> Result<String, EmbeddedError> {
    let (major, minor) = Program::find(search).await?.version;
    Ok(format!("{major}.{minor}"))
}

/// The URL of the server that runs for this `state.dir`.
///
/// # Errors
/// Where none runs, or the directory is not ours alone.
pub fn find(state_dir: &Path) -> Result<String, EmbeddedError> {
    let dir = Dir::open(state_dir)?;
    match (dir.server_lives()?, dir.record()?, dir.password()?) {
        (true, Some(record), Some(password)) => Ok(server::url(record.port, &password)),
        _ => Err(EmbeddedError::NoneRuns { dir: dir.path().into() }),
    }
}

/// Makes sure that a server runs and answers; true if it was started. Only
/// under `start.lock`.
async fn ensure(dir: &Dir, options: &Options) -> Result<(Record, bool), EmbeddedError> {
    let give_up = Instant::now() + JOIN_PATIENCE;
    loop {
        if let Some(lock) = dir.lock_server()? {
            let program = Program::find(&options.search).await?;
            let record = server::start(dir, &program, options.maxmemory, lock).await?;
            return Ok((record, true));
        }
        // One lives. It may be loading, or on its way out: a fork of a killed
        // one holds the lock for a moment longer.
        let record = dir.record()?;
        let why = match (&record, dir.password()?) {
            (Some(record), Some(password)) => match server::ask(record.port, &password).await {
                Ok(answer) => return Ok((known(dir, record, &password, answer.pid)?, false)),
                Err(error) => error.to_string(),
            },
            _ => "its port and password are not in its directory any more".into(),
        };
        if Instant::now() >= give_up {
            let pid = record.and_then(|record| record.process).map(|(pid, _)| pid);
            return Err(EmbeddedError::Silent { dir: dir.path().into(), why, pid });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The record with the process in it, should its starter have been killed
/// before it could note that.
fn known(dir: &Dir, record: &Record, password: &str, pid: u32) -> Result<Record, EmbeddedError> {
    if record.process.is_some_and(|(noted, at)| noted == pid && server::started(pid) == Some(at)) {
        return Ok(record.clone());
    }
    let process = server::started(pid).map(|started| (pid, started));
    let record = Record { process, ..record.clone() };
    dir.note(&record, &server::url(record.port, password))?;
    Ok(record)
}

/// Tells the server to stop and waits until it is gone.
async fn stop(dir: &Dir, record: &Record) -> Result<(), EmbeddedError> {
    let Some((pid, started)) = record.process else {
        let why = "its process is not known".into();
        return Err(EmbeddedError::Silent { dir: dir.path().into(), why, pid: None });
    };
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|raw| pidfd_open(raw, PidfdFlags::empty()).ok());
    // With the handle in hand the number cannot be given to another process, so
    // that looking now is looking at the one that is signalled. One that is gone
    // already needs no signal.
    if let Some(handle) = handle
        && server::started(pid) == Some(started)
        && let Err(error) = pidfd_send_signal(&handle, Signal::TERM)
    {
        tracing::debug!(%error, pid, "the embedded Redis ended before it was told to");
    }
    let give_up = Instant::now() + STOP_PATIENCE;
    while dir.server_lives()? {
        if Instant::now() >= give_up {
            return Err(EmbeddedError::NotStopped { pid, seconds: STOP_PATIENCE.as_secs() });
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Restarts a server that died, and keeps its log short.
async fn watch(dir: Dir, options: Options, record: Arc<Mutex<Record>>) {
    let mut tick = interval(WATCH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = look(&dir, &options, &record).await {
            tracing::error!(
                error = %chain(&error),
                remedy = error.remedy(),
                "the embedded Redis is down and cannot be restarted; trying again"
            );
            sleep(RESTART_PAUSE).await;
        }
    }
}

async fn look(dir: &Dir, options: &Options, record: &Mutex<Record>) -> Result<(), EmbeddedError> {
    dir.bound_log()?;
    if dir.server_lives()? {
        return Ok(());
    }
    let start = dir.lock_start().await?;
    let (found, started) = ensure(dir, options).await?;
    drop(start);
    if started {
        tracing::error!("the embedded Redis had died and was restarted; see its log for why");
    }
    *record.lock().unwrap_or_else(PoisonError::into_inner) = found;
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
