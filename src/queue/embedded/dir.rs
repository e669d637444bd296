//! The state directory: who may see it, the files in it, and the locks.
//!
//! Three locks (flock, so that the kernel gives them back when a process dies):
//!
//! * `start.lock`, exclusive and short: whoever starts, joins or stops.
//! * `workers.lock`, shared, for as long as a worker uses the Redis: who gets it
//!   exclusively is the last one.
//! * `server.lock`, exclusive, inherited by the redis-server itself: whether one
//!   lives is whether this is held, whatever became of the worker that started
//!   it. Two servers never write the same append-only file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::error::EmbeddedError;

pub(super) const SERVER_LOCK: &str = "server.lock";
pub(super) const LOG: &str = "redis.log";
const START_LOCK: &str = "start.lock";
const WORKERS_LOCK: &str = "workers.lock";
const PASSWORD: &str = "password";
const RECORD: &str = "server.json";
const URL: &str = "url";

/// A log that is longer is put aside; one such is kept.
const LOG_LIMIT: u64 = 1 << 20;
/// How long a start or a stop by another worker is waited for.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What is known of a server: enough to reach and to stop it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its port on 127.0.0.1; taken again by the next one if it is free.
    pub(super) port: u16,
    /// Its process, and when that began (clock ticks since boot): its identity.
    pub(super) process: Option<(u32, u64)>,
}

/// The directory of one embedded Redis: `<state.dir>/redis`.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    path: PathBuf,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::File { what, path, source }
}

/// Refuses a directory that another user owns or may look into.
fn private(dir: &Path) -> Result<(), EmbeddedError> {
    let own = rustix::process::geteuid().as_raw();
    let about = dir.metadata().map_err(failed("looking at", dir))?;
    if about.uid() != own {
        return Err(EmbeddedError::NotOurs { path: dir.into(), owner: about.uid(), own });
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(EmbeddedError::Open { path: dir.into(), mode });
    }
    Ok(())
}

impl Dir {
    /// Makes it where it is not there yet.
    pub(super) fn make(state_dir: &Path) -> Result<Self, EmbeddedError> {
        let path = state_dir.join("redis");
        for dir in [state_dir, &path] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(failed("making", dir))?;
        }
        Self::checked(state_dir, path)
    }

    /// Takes it as it is.
    pub(super) fn open(state_dir: &Path) -> Result<Self, EmbeddedError> {
        let path = state_dir.join("redis");
        let is_missing = |path: &Path| {
            path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        if is_missing(&path) {
            if !is_missing(state_dir) {
                private(state_dir)?;
            }
            return Err(EmbeddedError::NoneRuns { dir: path });
        }
        Self::checked(state_dir, path)
    }

    fn checked(state_dir: &Path, path: PathBuf) -> Result<Self, EmbeddedError> {
        private(state_dir)?;
        private(&path)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a file as a whole, so that no reader sees half of it. 0600.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), EmbeddedError> {
        let (path, new) = (self.file(name), self.file(&format!("{name}.new")));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(failed("writing", &path))
    }

    fn read(&self, name: &str) -> Result<Option<String>, EmbeddedError> {
        let path = self.file(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", &path)(error)),
        }
    }

    /// The password, where there is one.
    pub(super) fn password(&self) -> Result<Option<String>, EmbeddedError> {
        let password = self.read(PASSWORD)?.map(|text| text.trim().to_owned());
        Ok(password.filter(|password| !password.is_empty()))
    }

    /// The password; makes one of 256 random bits where there is none.
    pub(super) fn make_password(&self) -> Result<String, EmbeddedError> {
        if let Some(password) = self.password()? {
            return Ok(password);
        }
        let bits: [u8; 32] = rand::random();
        let password: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
        self.write(PASSWORD, &format!("{password}\n"))?;
        Ok(password)
    }

    /// What was last noted of a server. A record that cannot be read is none:
    /// the lock tells what is true.
    pub(super) fn record(&self) -> Result<Option<Record>, EmbeddedError> {
        Ok(self.read(RECORD)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Takes note of a server, and of the URL that leads to it.
    pub(super) fn note(&self, record: &Record, url: &str) -> Result<(), EmbeddedError> {
        let text = serde_json::to_string(record).unwrap_or_default();
        self.write(RECORD, &text)?;
        self.write(URL, &format!("{url}\n"))
    }

    /// The file that holds the URL, password included (0600).
    pub(super) fn url_file(&self) -> PathBuf {
        self.file(URL)
    }

    /// Puts a long log aside; the server opens it anew for each line.
    pub(super) fn bound_log(&self) -> Result<(), EmbeddedError> {
        let log = self.file(LOG);
        if log.metadata().is_ok_and(|about| about.len() > LOG_LIMIT) {
            let aside = self.file("redis.log.1");
            std::fs::rename(&log, aside).map_err(failed("putting aside", &log))?;
        }
        Ok(())
    }

    fn lock_file(&self, name: &str) -> Result<File, EmbeddedError> {
        let path = self.file(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).map_err(failed("opening", &path))
    }

    fn try_lock(
        &self,
        name: &str,
        operation: FlockOperation,
    ) -> Result<Option<Lock>, EmbeddedError> {
        let file = self.lock_file(name)?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed("locking", &self.file(name))(error.into())),
        }
    }

    /// Waits for the right to start, join or stop.
    pub(super) async fn lock_start(&self) -> Result<Lock, EmbeddedError> {
        let give_up = Instant::now() + START_PATIENCE;
        loop {
            if let Some(lock) =
                self.try_lock(START_LOCK, FlockOperation::NonBlockingLockExclusive)?
            {
                return Ok(lock);
            }
            if Instant::now() >= give_up {
                return Err(EmbeddedError::Busy { dir: self.path.clone() });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The lock that a server inherits; `None` while one lives.
    pub(super) fn lock_server(&self) -> Result<Option<Lock>, EmbeddedError> {
        self.try_lock(SERVER_LOCK, FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether a server lives.
    pub(super) fn server_lives(&self) -> Result<bool, EmbeddedError> {
        Ok(self.try_lock(SERVER_LOCK, FlockOperation::NonBlockingLockShared)?.is_none())
    }

    /// Counts us among the workers; true if we are the only one. Only under
    /// `start.lock`.
    pub(super) fn enter(&self) -> Result<(Lock, bool), EmbeddedError> {
        let alone = self.is_unused()?;
        let shared = self.try_lock(WORKERS_LOCK, FlockOperation::NonBlockingLockShared)?;
        let lock = shared.ok_or_else(|| EmbeddedError::Busy { dir: self.path.clone() })?;
        Ok((lock, alone))
    }

    /// Whether no worker uses it. Only under `start.lock`.
    pub(super) fn is_unused(&self) -> Result<bool, EmbeddedError> {
        Ok(self.try_lock(WORKERS_LOCK, FlockOperation::NonBlockingLockExclusive)?.is_some())
    }
}
