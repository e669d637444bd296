//! How a browser is launched, and what is said when that fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::cdp::{CdpError, FRAME_LIMIT};
use super::engine::Engine;
use super::fence::Fences;
use super::jail::{self, Jail, JailError};
use super::launcher::{Child, SpawnError};
use super::supervisor::{EXIT_GRACE, KILL_PATIENCE};
use super::verify::{Exposure, Seen};

/// What `oom_score_adj` should be at most: Chromium itself gives renderers 300 at
/// first, and they must be found before the browser that holds everyone's pages.
pub const DEFAULT_OOM_SCORE_ADJ: i32 = 200;

/// Where profile directories are made, if there is no jail.
pub const PROFILE_ROOT: &str = "/tmp";

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
    /// Who makes the last fence around all its processes.
    pub fences: Option<Arc<dyn Fences>>,
    /// From spawn to ready.
    pub launch_timeout: Duration,
    /// How long a friendly end may take before it is killed.
    pub close_timeout: Duration,
    /// The largest answer that is read from it, in bytes: see
    /// [`frame_limit`](super::cdp::frame_limit).
    pub frame_limit: usize,
    /// Where profile directories are made, if there is no jail.
    pub profile_root: PathBuf,
    /// Which engine was seen to be locked in; share it between launches.
    pub seen: Seen,
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
            fences: None,
            launch_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(2),
            frame_limit: FRAME_LIMIT,
            profile_root: PathBuf::from(PROFILE_ROOT),
            seen: Seen::default(),
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
    #[error("the jail was refused: {said}")]
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
    /// Niceness, `oom_score_adj` or a limit could not be set.
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
    #[error("Chromium was not ready within {after:?}; it said: {stderr:?}")]
    NotReady {
        /// The time allowed.
        after: Duration,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The jail does not hold.
    #[error("the jail does not hold: {0}; nothing is rendered in it")]
    Exposed(#[from] Exposure),
    /// It refused its first command.
    #[error("Chromium does not answer as it should")]
    Protocol(#[from] CdpError),
}

impl LaunchError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::EngineMissing { .. } => {
                "apt-get install chromium-headless-shell, or set renderer.path to the program itself"
            }
            Self::JailMissing(_) => "apt-get install bubblewrap",
            Self::JailRefused { .. } => jail::REMEDY,
            Self::Exposed(_) => {
                "report this with the output of `tillroll doctor`; do not render documents that \
                 others wrote on this machine until it is explained"
            }
            Self::Spawn(_) | Self::Prepare { .. } | Self::Contain { .. } => {
                "look at the limits on processes, threads and open files (ulimit -a), and at free \
                 disk space"
            }
            Self::NotReady { .. } => "look at free memory and at the load of this machine",
            Self::Exited { .. } | Self::Protocol(_) => {
                "look at what it said; install the engine again, or name another in renderer.path"
            }
        }
    }
}

/// Turns a failed start into what a person needs to know, after its end.
pub(super) async fn autopsy(child: &Child, error: LaunchError) -> LaunchError {
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
    // That the engine cannot be executed is not the jail's doing.
    let refuses = |line: &&str| {
        (line.starts_with("bwrap: ") && !line.starts_with("bwrap: execvp"))
            || line.contains("No usable sandbox")
    };
    let refused = stderr.lines().find(refuses).map(str::to_owned);
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
