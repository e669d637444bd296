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
//! `oom_score_adj`, limits are set, and the last fence stands around it. *ready*: `Browser.getVersion`
//! was answered and the jail was seen to hold ([`verify`]). One task per browser watches both the pipe and the child, so
//! death is noticed at once ([`Browser::died`]); it then makes sure that no
//! process is left ([`Browser::gone`]): it kills the first process of the
//! jail's pid namespace, with which the kernel kills the rest, or without a
//! jail the process group.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::browser::{CloseParams, GetVersionParams};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cdp::{CdpError, CloseReason, Connection};
use super::contain::{self, Containment};
use super::context::{Context, ContextOptions};
use super::engine::EngineKind;
use super::fence::{Fence, Killed};
use super::flags::{FlagOptions, flags};
use super::jail::{self, Host, Jail, JailError};
use super::launch::autopsy;
pub use super::launch::{BrowserConfig, DEFAULT_OOM_SCORE_ADJ, LaunchError, PROFILE_ROOT};
use super::launcher::{Child, Launcher, SpawnRequest};
use super::processes::{self, Process};
use super::profile::Profile;
use super::renderers::Renderers;
use super::supervisor::{self, Supervisor};
use super::{rlimits, verify};

#[derive(Debug)]
struct Inner {
    connection: Connection,
    child: Arc<Child>,
    gone: CancellationToken,
    fence: Option<Arc<dyn Fence>>,
    renderers: Arc<Renderers>,
    kind: EngineKind,
    /// Whether plain pages may start at no address.
    nowhere: Arc<AtomicBool>,
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
            // The call's own deadline may strike in the same tick.
            Err(_) | Ok(Err(LaunchError::Protocol(CdpError::Timeout { .. }))) => {
                let (after, stderr) = (config.launch_timeout, child.stderr_tail());
                LaunchError::NotReady { after, stderr }
            }
            Ok(Err(error)) => error,
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

    /// Cancelled when nothing of it is left: no process, no zombie, no file, no handle.
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

    /// Whether the kernel killed one of its processes for want of memory, and for which
    /// limit; once for each of them.
    #[must_use]
    pub fn claim_kill(&self) -> Option<Killed> {
        self.inner.fence.as_ref()?.claim_kill()
    }

    /// The protocol's connection, for commands of the browser itself.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// Opens an isolated context with one empty page. If the future is dropped, the
    /// context is closed again.
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
        let renderers = Arc::clone(&self.inner.renderers);
        let nowhere = Arc::clone(&self.inner.nowhere);
        let open = Context::open(connection.clone(), renderers, options, nowhere, timeout);
        // A task of its own, so that an abandoned opening still learns the context's id and
        // disposes of it: in the task, which the browser's end waits for.
        let (sender, opened) = oneshot::channel();
        connection.spawn(async move { drop(sender.send(open.await)) });
        opened.await.unwrap_or_else(|_| {
            let detail = "opening was interrupted".to_owned();
            Err(CdpError::Malformed { method: "Target.createTarget", detail })
        })
    }

    /// Whether its main process answers within `timeout`.
    pub async fn answers(&self, timeout: Duration) -> bool {
        self.inner.connection.call(GetVersionParams::default(), timeout).await.is_ok()
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
    /// What of the host is shown in the jail.
    shown: Vec<PathBuf>,
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
    let looking = config.jail.clone();
    let host = tokio::task::spawn_blocking(move || Host::probe(&looking)).await;
    let host = host.map_err(|error| prepare("the jail")(std::io::Error::other(error)))?;
    // The jail shows the engine's own directory: a link to it leads nowhere there.
    let program = std::fs::canonicalize(&engine.path).map_err(prepare("the engine"))?;
    let line = jail::command_line(&config.jail, &host, &program, flags(options), &home);
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
    // The jail's first process leaves the group when it is under way; until then
    // it does not die with bubblewrap, and would wait for it for ever.
    let request =
        SpawnRequest { program: line.program, args: line.args, env: line.env, fds, group: true };
    let child = Arc::new(launcher.spawn(request).await?);
    let mut shown = host.shown;
    shown.extend(program.parent().map(Path::to_owned));
    let gate = Gate { pipe: gate, child: Arc::clone(&child), open: false };
    let gone = CancellationToken::new();
    let leaving = gone.clone().drop_guard();
    Ok(Start { child, commands, replies, gate, info, shown, profile, gone, leaving })
}

impl Start {
    async fn ready(self, config: &BrowserConfig) -> Result<Browser, LaunchError> {
        let jailed = self.info.is_some();
        let first_pid = match self.info {
            Some(info) => contain::first_process(info).await?,
            None => self.child.pid(),
        };
        let limits = |source| LaunchError::Contain { what: "its limits", source };
        rlimits::set(first_pid, jailed).map_err(limits)?;
        let containment = Containment { nice: config.nice, oom_score_adj: config.oom_score_adj };
        let first = contain::apply(first_pid, containment)?;
        let fence = fence(config, first_pid);
        let prepare = |what| move |source| LaunchError::Prepare { what, source };
        let connection = Connection::start(self.commands, self.replies, config.frame_limit)
            .map_err(prepare("pipes"))?;
        let supervisor = Supervisor {
            connection: connection.clone(),
            child: Arc::clone(&self.child),
            first,
            group: self.profile.is_some(),
            fence: fence.clone(),
            profile: self.profile,
            leaving: self.leaving,
        };
        tokio::spawn(supervisor.run());
        let mut inner = Inner {
            connection,
            renderers: Arc::new(Renderers::of(Path::new("/proc"), self.child.pid())),
            child: self.child,
            gone: self.gone,
            fence,
            kind: config.engine.kind,
            nowhere: Arc::new(AtomicBool::new(true)),
            product: String::new(),
            close_timeout: config.close_timeout,
        };
        self.gate.open().map_err(prepare("the gate"))?;
        let version =
            inner.connection.call(GetVersionParams::default(), config.launch_timeout).await?;
        inner.product = version.product;
        if config.jail != Jail::None {
            contain::regroup(first_pid, config.nice);
        }
        let zygotes = supervisor::watch_zygotes(inner.connection.clone(), inner.child.pid());
        inner.connection.spawn(zygotes);
        let browser = Browser { inner: Arc::new(inner) };
        if jailed {
            verify::jail(Path::new("/proc"), verify::chromium(&browser)?, &self.shown)?;
            if !config.seen.is(browser.product()) {
                verify::document(&browser, config.launch_timeout).await??;
                config.seen.set(browser.product());
            }
        }
        Ok(browser)
    }
}

/// Puts what is behind the gate into a fence. Without one it goes on all the same.
fn fence(config: &BrowserConfig, first: u32) -> Option<Arc<dyn Fence>> {
    let fence = config.fences.as_ref()?.raise()?;
    match fence.take_in(first) {
        Ok(()) => Some(fence),
        Err(error) => {
            tracing::warn!(%error, "a browser goes without its fence");
            None
        }
    }
}
