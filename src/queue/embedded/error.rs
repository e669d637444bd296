//! Why there is no embedded Redis: what failed, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded Redis cannot be started, joined, found or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The state directory cannot be made or used.
    #[error("{what} {} failed", path.display())]
    File {
        /// What was done: "making", "reading".
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The state directory belongs to another user, who could read every receipt.
    #[error("the state directory {} belongs to user {owner}, and this is user {own}", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Others may look into the state directory: the password is in it.
    #[error("the state directory {} is open to others (mode {mode:04o})", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no `redis-server`.
    #[error(
        "neither redis-server nor valkey-server was found in {}",
        looked.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoServer {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// It does not say its version, or says one that we cannot use.
    #[error("{} cannot be used: {why}", program.display())]
    Unusable {
        /// The program.
        program: PathBuf,
        /// What it said.
        why: String,
    },
    /// It was started and ended, or did not get ready.
    #[error("the embedded redis-server did not start: {}: {said}", cause.why())]
    NotStarted {
        /// As far as its log tells.
        cause: Cause,
        /// The end of its log.
        said: String,
        /// Its directory.
        dir: PathBuf,
    },
    /// One lives, but does not answer.
    #[error("an embedded redis-server lives in {} but does not answer: {why}", dir.display())]
    Silent {
        /// Its directory.
        dir: PathBuf,
        /// What happened.
        why: String,
        /// Its process, where that is known.
        pid: Option<u32>,
    },
    /// Another worker is starting or stopping it, and takes too long.
    #[error("another worker has been starting or stopping the embedded Redis in {} for a minute", dir.display())]
    Busy {
        /// Its directory.
        dir: PathBuf,
    },
    /// None runs.
    #[error("no embedded Redis runs in {}", dir.display())]
    NoneRuns {
        /// Where it would be.
        dir: PathBuf,
    },
    /// It was told to stop, and did not within this time.
    #[error("the embedded redis-server (process {pid}) has not stopped after {seconds} s")]
    NotStopped {
        /// Its process.
        pid: u32,
        /// How long was waited.
        seconds: u64,
    },
}

impl EmbeddedError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::File { .. } => {
                "check free space and permissions there, or set state.dir to another directory"
                    .into()
            }
            Self::NotOurs { .. } => {
                "run tillroll as that user, or set state.dir to a directory of your own".into()
            }
            Self::Open { path, .. } => format!("chmod 700 {}", path.display()),
            Self::NoServer { .. } => {
                "apt-get install redis-server, or name a Redis that runs already: --redis URL"
                    .into()
            }
            Self::Unusable { .. } => {
                "install Redis 6.0 or later (apt-get install redis-server) or Valkey 7.2 or later, \
                 or name one that runs already: --redis URL"
                    .into()
            }
            Self::NotStarted { cause, dir, .. } => cause.remedy(dir),
            Self::Silent { pid: Some(pid), .. } => format!(
                "see whether process {pid} is stopped or the machine is overloaded; `kill {pid}` \
                 ends it, and what it holds is kept"
            ),
            Self::Silent { pid: None, dir, .. } => format!(
                "find it with `fuser {}` and end it with `kill`; what it holds is kept",
                dir.join(super::dir::SERVER_LOCK).display()
            ),
            Self::Busy { .. } => "wait for it or end it, then try again".into(),
            Self::NoneRuns { .. } => {
                "start one with `tillroll worker --redis embedded` (as the same user and with the \
                 same state.dir), or name a Redis: --redis URL"
                    .into()
            }
            Self::NotStopped { pid, .. } => format!(
                "a slow disk may keep it; leave it to the next worker, or end it with `kill {pid}`"
            ),
        }
    }
}

/// What a log of a failed start tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Somebody else took the port between our look and its start.
    PortTaken,
    /// The append-only file is damaged.
    Corrupt,
    /// The append-only file is of a newer release.
    NewerData,
    /// The disk is full.
    DiskFull,
    /// It may not write its files.
    Forbidden,
    /// There is not enough memory.
    Memory,
    /// It does not understand its configuration.
    Config,
    /// It was not ready in time.
    Slow,
    /// Something else.
    Unknown,
}

impl Cause {
    /// Reads the log of a start that failed.
    #[must_use]
    pub fn of(log: &str) -> Self {
        const SIGNS: &[(&str, Cause)] = &[
            ("No space left on device", Cause::DiskFull),
            ("Can't handle RDB format version", Cause::NewerData),
            ("Bad file format reading the append only file", Cause::Corrupt),
            ("Unexpected end of file reading the append only file", Cause::Corrupt),
            ("Error reading the RDB preamble", Cause::Corrupt),
            ("Invalid AOF manifest", Cause::Corrupt),
            ("AOF manifest", Cause::Corrupt),
            ("Wrong signature trying to load DB", Cause::Corrupt),
            ("Internal error in RDB reading", Cause::Corrupt),
            ("Terminating server after rdb file reading failure", Cause::Corrupt),
            ("FATAL CONFIG FILE ERROR", Cause::Config),
            ("Address already in use", Cause::PortTaken),
            ("Out Of Memory", Cause::Memory),
            ("Cannot allocate memory", Cause::Memory),
            ("Permission denied", Cause::Forbidden),
        ];
        let found = SIGNS.iter().find(|(sign, _)| log.contains(sign));
        found.map_or(Self::Unknown, |(_, cause)| *cause)
    }

    fn why(self) -> &'static str {
        match self {
            Self::PortTaken => "its port was taken by another program",
            Self::Corrupt => "its append-only file is damaged",
            Self::NewerData => "its files were written by a newer release of Redis",
            Self::DiskFull => "the disk is full",
            Self::Forbidden => "it may not use its files",
            Self::Memory => "there is not enough memory",
            Self::Config => "this release does not know a line of its configuration",
            Self::Slow => "it was not ready in time",
            Self::Unknown => "it ended",
        }
    }

    fn remedy(self, dir: &Path) -> String {
        let shown = dir.display();
        match self {
            Self::PortTaken => "try again: another port is taken then".into(),
            Self::Corrupt => format!(
                "copy {shown} away, then run redis-check-aof --fix on the manifest (or the .aof \
                 file) in it and look at what it drops; jobs in a damaged part are lost"
            ),
            Self::NewerData => {
                "install that release again (redis-server --version tells this one's)".into()
            }
            Self::DiskFull => format!("free space on the disk of {shown}"),
            Self::Forbidden => format!("give {shown} and all in it to the user that runs tillroll"),
            Self::Memory => "free memory, or lower redis.maxmemory".into(),
            Self::Config => "install Redis 6.0 or later, or Valkey 7.2 or later".into(),
            Self::Slow | Self::Unknown => {
                format!("read {}", dir.join(super::dir::LOG).display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_is_explained_by_its_log() {
        for (line, cause) in [
            (
                "# Warning: Could not create server TCP listening socket 127.0.0.1:6379: bind: Address already in use",
                Cause::PortTaken,
            ),
            (
                "# Bad file format reading the append only file appendonly.aof.1.incr.aof: make a backup",
                Cause::Corrupt,
            ),
            ("# Can't handle RDB format version 12", Cause::NewerData),
            (
                "# Can't open or create append-only dir appendonlydir: No space left on device",
                Cause::DiskFull,
            ),
            ("# Can't open the append-only file: Permission denied", Cause::Forbidden),
            ("*** FATAL CONFIG FILE ERROR (Redis 5.0.3) ***", Cause::Config),
            ("something else", Cause::Unknown),
        ] {
            assert_eq!(Cause::of(line), cause, "{line}");
            assert!(!cause.remedy(Path::new("/s")).is_empty());
        }
    }
}
