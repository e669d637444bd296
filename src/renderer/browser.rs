//! One supervised Chromium: launch, watch, end.
//!
//! ```text
//! launch ─▶ gated ─▶ starting ─▶ ready ──▶ ending ──▶ gone
//!             │          │         │  pipe EOF, child exit,   (namespace empty,
//!             └──────────┴─▶ failed│  close(), last drop       child reaped,
//!                     LaunchError  └──────────────────────▶    profile removed)
//! ```
//!
//! *gated*: the jail exists, Chromium does not run yet; niceness,
//! `oom_score_adj`, limits and cgroup are set. *ready*: `Browser.getVersion`
//! was answered. One task per browser watches both the pipe and the child, so
//! death is noticed at once ([`Browser::died`]); it then makes sure that no
//! process is left ([`Browser::gone`]): it kills the first process of the
//! jail's pid namespace, with which the kernel kills the rest, or without a
//! jail the process group.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::browser::{CloseParams, GetVersionParams};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, pidfd_send_signal, test_kill_process_group};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cdp::{CdpError, CloseReason, Connection};
use super::contain::{self, Containment};
use super::context::{Context, ContextOptions};
use super::engine::{Engine, EngineKind};
use super::flags::{FlagOptions, flags};
use super::jail::{self, Host, Jail, JailError};
use super::launcher::{Child, Launcher, SpawnError, SpawnRequest};
use super::processes::{self, Process};
use super::profile::Profile;

/// What `oom_score_adj` should be at most: Chromium itself gives renderers 300,
/// and they must be found before the browser that holds everyone's pages.
pub const DEFAULT_OOM_SCORE_ADJ: i32 = 200;

/// How long a child whose pipe has ended may take to exit on its own.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// How long the kernel may take to clear away what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How a browser is launched.
#[derive(Debug, Clone)]
pub struct BrowserConfig {
    /// Which Chromium.
    pub engine: Engine,
    /// How it is confined.
    pub jail: Jail,
    /// Niceness, 0 to 19.
    pub nice: i32,
    /// See [`DEFAULT_OOM_SCORE_ADJ`].
    pub oom_score_adj: i32,
    /// A cgroup directory that all its processes join.
    pub cgroup: Option<PathBuf>,
    /// From spawn to ready.
    pub launch_timeout: Duration,
    /// How long a friendly end may take before it is killed.
    pub close_timeout: Duration,
    /// Where profile directories are made, if there is no jail.
    pub profile_root: PathBuf,
}

impl BrowserConfig {
    /// A configuration with the values that need no thought.
    #[must_use]
    pub fn new(engine: Engine, jail: Jail) -> Self {
        Self {
            engine,
            jail,
            nice: 10,
            oom_score_adj: DEFAULT_OOM_SCORE_ADJ,
            cgroup: None,
            launch_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(2),
            profile_root: PathBuf::from("/tmp"),
        }
    }
}

/// A browser could not be launched. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The engine is not there any more.
    #[error("the engine {} is gone; install it again or set renderer.path", path.display())]
    EngineMissing {
        /// Where it was.
        path: PathBuf,
    },
    /// There is no bubblewrap.
    #[error(transparent)]
    JailMissing(#[from] JailError),
    /// Namespaces are forbidden here.
    #[error("the jail was refused: {said}; {}", jail::REMEDY)]
    JailRefused {
        /// What bubblewrap or Chromium said.
        said: String,
    },
    /// The child could not be spawned.
    #[error("Chromium could not be started")]
    Spawn(#[from] SpawnError),
    /// Pipes or a profile directory could not be made.
    #[error("could not prepare {what} for Chromium")]
    Prepare {
        /// What was to be made.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Niceness, `oom_score_adj`, limit or cgroup could not be set.
    #[error("could not set {what} for Chromium; nothing was started")]
    Contain {
        /// What was to be set.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("Chromium ended during its start ({status}); it said: {stderr:?}")]
    Exited {
        /// How it ended.
        status: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// It was not ready in time.
    #[error(
        "Chromium was not ready within {after:?}; the machine may be out of memory or CPU, \
         else raise renderer.launch_timeout; it said: {stderr:?}"
    )]
    NotReady {
        /// The time allowed.
        after: Duration,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// It refused its first command.
    #[error("Chromium does not answer as it should")]
    Protocol(#[from] CdpError),
}

/// Renderers that belong to a context, by pid and start time.
pub(super) type Claimed = Arc<Mutex<HashSet<(u32, u64)>>>;

#[derive(Debug)]
struct Inner {
    connection: Connection,
    child: Arc<Child>,
    gone: CancellationToken,
    claimed: Claimed,
    kind: EngineKind,
    product: String,
    close_timeout: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(CloseReason::Requested);
    }
}

/// A running browser. Cheap to clone; when the last clone is dropped it is
/// killed, whatever contexts are still open.
#[derive(Debug, Clone)]
pub struct Browser {
    inner: Arc<Inner>,
}

impl Browser {
    /// Launches a browser and waits until it is ready.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(launcher: &Launcher, config: &BrowserConfig) -> Result<Self, LaunchError> {
        let deadline = Instant::now() + config.launch_timeout;
        let start = spawn(launcher, config).await?;
        let (child, gone) = (Arc::clone(&start.child), start.gone.clone());
        let error = match tokio::time::timeout_at(deadline, start.ready(config)).await {
            Ok(Ok(browser)) => return Ok(browser),
            Ok(Err(error)) => error,
            Err(_) => {
                let (after, stderr) = (config.launch_timeout, child.stderr_tail());
                LaunchError::NotReady { after, stderr }
            }
        };
        let error = autopsy(&child, error).await;
        gone.cancelled().await;
        Err(error)
    }

    /// Cancelled as soon as the browser is known to be dead or dying.
    #[must_use]
    pub fn died(&self) -> &CancellationToken {
        self.inner.connection.closed()
    }

    /// Whether it is dead or dying.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.died().is_cancelled()
    }

    /// Why it died, once it has.
    #[must_use]
    pub fn death(&self) -> Option<CloseReason> {
        self.inner.connection.close_reason()
    }

    /// Cancelled when nothing of it is left: no process, no zombie, no file.
    #[must_use]
    pub fn gone(&self) -> &CancellationToken {
        &self.inner.gone
    }

    /// The child's pid: bubblewrap's in the jail, else Chromium's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.child.pid()
    }

    /// What it calls itself, such as `HeadlessChrome/156.0.8078.79`.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.inner.product
    }

    /// All its processes (reads `/proc`: about a millisecond).
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes::tree(Path::new("/proc"), self.pid())
    }

    /// The protocol's connection, for commands of the browser itself.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// Opens an isolated context with one page in `about:blank`. If the future
    /// is dropped, the context is closed again.
    ///
    /// # Errors
    /// See [`CdpError`].
    pub async fn open_context(
        &self,
        options: ContextOptions,
        timeout: Duration,
    ) -> Result<Context, CdpError> {
        let framed = options.frames || self.inner.kind == EngineKind::Chromium;
        let options = ContextOptions { frames: framed, ..options };
        let connection = self.inner.connection.clone();
        let claimed = Arc::clone(&self.inner.claimed);
        let open = Context::open(connection, claimed, self.pid(), options, timeout);
        // A task of its own, so that an abandoned opening still learns the
        // context's id and disposes of it. It ends at the time-out.
        match tokio::spawn(open).await {
            Ok(opened) => opened,
            Err(error) => {
                let detail = format!("opening was interrupted: {error}");
                Err(CdpError::Malformed { method: "Target.createTarget", detail })
            }
        }
    }

    /// Ends it: asks first, kills after `close_timeout`. Returns when nothing
    /// of it is left.
    pub async fn close(&self) {
        let timeout = self.inner.close_timeout;
        let connection = &self.inner.connection;
        match connection.call(CloseParams::default(), timeout).await {
            // It agreed; its end shows as the end of the pipe.
            Ok(_) => drop(tokio::time::timeout(timeout, connection.closed().cancelled()).await),
            Err(error) => tracing::debug!(%error, "a browser is killed"),
        }
        self.kill().await;
    }

    /// Kills it at once. Returns when nothing of it is left.
    pub async fn kill(&self) {
        self.inner.connection.close(CloseReason::Requested);
        self.inner.gone.cancelled().await;
    }
}

/// A child behind its gate.
struct Start {
    child: Arc<Child>,
    commands: OwnedFd,
    replies: OwnedFd,
    gate: Gate,
    info: Option<OwnedFd>,
    profile: Option<Profile>,
    gone: CancellationToken,
    leaving: DropGuard,
}

/// What keeps Chromium from running. Giving it up kills the child first, since
/// the end of the pipe would let it go on.
struct Gate {
    pipe: OwnedFd,
    child: Arc<Child>,
    open: bool,
}

impl Gate {
    /// Lets Chromium run: one line, for which a shell's `read` waits too.
    fn open(mut self) -> std::io::Result<()> {
        rustix::io::write(&self.pipe, b"\n")?;
        self.open = true;
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if !self.open {
            self.child.kill();
        }
    }
}

async fn spawn(launcher: &Launcher, config: &BrowserConfig) -> Result<Start, LaunchError> {
    let engine = &config.engine;
    if !engine.path.is_file() {
        return Err(LaunchError::EngineMissing { path: engine.path.clone() });
    }
    let jailed = match &config.jail {
        Jail::Bwrap { path } if !path.is_file() => {
            return Err(JailError::Missing { looked: vec![path.clone()] }.into());
        }
        Jail::Bwrap { .. } => true,
        Jail::None => false,
    };
    let prepare = |what| move |source| LaunchError::Prepare { what, source };
    let profile = match jailed {
        true => None,
        false => {
            Some(Profile::create(&config.profile_root).map_err(prepare("a profile directory"))?)
        }
    };
    let (home, user_data) = match &profile {
        Some(profile) => (profile.path().to_owned(), profile.path().join("ud")),
        None => (PathBuf::from("/tmp"), PathBuf::from(jail::PROFILE_IN_JAIL)),
    };
    let options = FlagOptions {
        kind: engine.kind,
        profile: &user_data,
        unjailed: !jailed,
        root: rustix::process::geteuid().is_root(),
    };
    let host = Host::probe();
    let line = jail::command_line(&config.jail, &host, &engine.path, flags(options), &home);
    let pipe =
        || pipe_with(PipeFlags::CLOEXEC).map_err(|e| prepare("pipes")(std::io::Error::from(e)));
    let (commands_in, commands) = pipe()?;
    let (replies, replies_out) = pipe()?;
    let (gate_in, gate) = pipe()?;
    let mut fds = vec![
        (commands_in, jail::COMMANDS_FD),
        (replies_out, jail::REPLIES_FD),
        (gate_in, jail::GATE_FD),
    ];
    for end in [&commands, &replies] {
        // Large documents and PDFs in few turns. Without it, it is just slower.
        rustix::pipe::fcntl_setpipe_size(end, 1 << 20).ok();
    }
    let info = if jailed {
        let (info, info_out) = pipe()?;
        fds.push((info_out, jail::INFO_FD));
        Some(info)
    } else {
        None
    };
    let request =
        SpawnRequest { program: line.program, args: line.args, env: line.env, fds, group: !jailed };
    let child = Arc::new(launcher.spawn(request).await?);
    let gate = Gate { pipe: gate, child: Arc::clone(&child), open: false };
    let gone = CancellationToken::new();
    let leaving = gone.clone().drop_guard();
    Ok(Start { child, commands, replies, gate, info, profile, gone, leaving })
}

impl Start {
    async fn ready(self, config: &BrowserConfig) -> Result<Browser, LaunchError> {
        let first = match self.info {
            Some(info) => contain::first_process(info).await?,
            None => self.child.pid(),
        };
        let containment = Containment {
            nice: config.nice,
            oom_score_adj: config.oom_score_adj,
            cgroup: config.cgroup.as_deref(),
        };
        let first = contain::apply(first, containment)?;
        let prepare = |what| move |source| LaunchError::Prepare { what, source };
        let connection =
            Connection::start(self.commands, self.replies).map_err(prepare("pipes"))?;
        let supervisor = Supervisor {
            connection: connection.clone(),
            child: Arc::clone(&self.child),
            first,
            group: self.profile.is_some(),
            profile: self.profile,
            leaving: self.leaving,
        };
        tokio::spawn(supervisor.run());
        let mut inner = Inner {
            connection,
            child: self.child,
            gone: self.gone,
            claimed: Claimed::default(),
            kind: config.engine.kind,
            product: String::new(),
            close_timeout: config.close_timeout,
        };
        self.gate.open().map_err(prepare("the gate"))?;
        let version =
            inner.connection.call(GetVersionParams::default(), config.launch_timeout).await?;
        inner.product = version.product;
        Ok(Browser { inner: Arc::new(inner) })
    }
}

/// Turns a failed start into what a person needs to know, after its end.
async fn autopsy(child: &Child, error: LaunchError) -> LaunchError {
    // It may be about to exit on its own, and then how says more than a kill.
    let exited = match &error {
        LaunchError::NotReady { .. } | LaunchError::Contain { .. } => false,
        _ => tokio::time::timeout(EXIT_GRACE, child.exited()).await.is_ok(),
    };
    if !exited {
        child.kill();
        drop(tokio::time::timeout(KILL_PATIENCE, child.exited()).await);
    }
    let stderr = child.stderr_tail();
    let refused = stderr
        .lines()
        .find(|line| line.starts_with("bwrap: ") || line.contains("No usable sandbox"))
        .map(str::to_owned);
    match (refused, error) {
        (Some(said), _) => LaunchError::JailRefused { said },
        (None, error @ (LaunchError::NotReady { .. } | LaunchError::Contain { .. })) => error,
        (None, _) if exited => {
            let status = child.status().map_or("unknown".to_owned(), |s| s.to_string());
            LaunchError::Exited { status, stderr }
        }
        (None, error) => error,
    }
}

/// Watches a browser to its very end.
struct Supervisor {
    connection: Connection,
    child: Arc<Child>,
    /// The first process of the jail, or Chromium itself.
    first: OwnedFd,
    group: bool,
    profile: Option<Profile>,
    /// Cancels `gone` when it is dropped.
    leaving: DropGuard,
}

impl Supervisor {
    async fn run(self) {
        tokio::select! {
            status = self.child.exited() => {
                let status = status.map_or("unknown".to_owned(), |status| status.to_string());
                self.connection.close(CloseReason::Exited(status));
            }
            () = self.connection.closed().cancelled() => {
                if self.connection.close_reason() == Some(CloseReason::EndOfFile) {
                    drop(tokio::time::timeout(EXIT_GRACE, self.child.exited()).await);
                }
            }
        }
        // Of a dead process this is refused, which is as good.
        pidfd_send_signal(&self.first, Signal::KILL).ok();
        if tokio::time::timeout(KILL_PATIENCE, self.child.exited()).await.is_err() {
            tracing::warn!(pid = self.child.pid(), "a jail outlives its first process; killing it");
            self.child.kill();
            self.child.exited().await;
        }
        if !contain::ended(&self.first, KILL_PATIENCE).await {
            tracing::error!(pid = self.child.pid(), "processes of a browser cannot be killed");
        }
        if self.group {
            group_emptied(self.child.pid()).await;
        }
        self.connection.finished().await;
        let Self { connection, child, first, profile, leaving, .. } = self;
        drop((connection, child, first, profile));
        // Only now: whoever waits for this finds nothing left.
        drop(leaving);
    }
}

/// Waits until the last process of a killed group is gone. Those that the
/// leader left behind are not our children, so there is nothing to wait on.
async fn group_emptied(leader: u32) {
    let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) else { return };
    let deadline = Instant::now() + KILL_PATIENCE;
    while test_kill_process_group(group).is_ok() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
