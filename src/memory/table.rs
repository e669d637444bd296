//! The file in which workers of one machine write to each other: how it is found, who
//! may see it, and what a slot of it holds. See [`super::share`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};

/// Who comes waits so often, a millisecond each, for another that does.
const TRIES: u32 = 500;

const WORDS: usize = 16;
pub(super) const SLOT: usize = WORDS * 8;
/// Workers in one table: it fills two pages, the header in the place of one.
pub(super) const SLOTS: usize = 63;
const PAGE: usize = SLOT * (SLOTS + 1);
const HEADER: &[u8; 16] = b"tillroll-share-2";
/// Limits above one worker that are told of.
const LIMITS: usize = 8;

/// Why there is no shared ledger.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// A file cannot be made, read or written.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else made it.
    #[error("{path} belongs to user {owner}, or others may write to it: remove it")]
    NotOurs {
        /// What.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Another version of Tillroll, or none, has written it.
    #[error("{path} is not a ledger of this version: stop the other workers and remove it")]
    Foreign {
        /// What.
        path: PathBuf,
    },
    /// Another worker holds the lock and does not move.
    #[error("{path} is locked for too long: look for a stopped worker")]
    Busy {
        /// What.
        path: PathBuf,
    },
    /// All slots are taken.
    #[error("{SLOTS} workers share {path} already")]
    Full {
        /// What.
        path: PathBuf,
    },
}

/// What a worker says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Said {
    /// Bytes promised to its jobs and not used yet.
    pub owed: u64,
    /// Bytes that it uses, Chromium included.
    pub used: u64,
    /// Jobs that render.
    pub running: u32,
    /// Its idle contexts.
    pub idle: u32,
    /// One of its jobs has to have all the memory, or has waited for its turn.
    pub first: bool,
}

/// What a worker's memory counts against, beside the machine's: limits by the numbers of
/// their control groups. 0 is the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Under {
    /// Which of them leaves it the least, promises counted.
    pub(super) tightest: u64,
    /// All of them, nearest first; 0 where there are no more.
    limits: [u64; LIMITS],
}

impl Under {
    pub(super) fn new(tightest: u64, groups: impl Iterator<Item = u64>) -> Self {
        let mut limits = [0; LIMITS];
        for (place, group) in limits.iter_mut().zip(groups) {
            *place = group;
        }
        Self { tightest, limits }
    }

    /// Whether what it takes counts against this limit.
    pub(super) fn counts_against(&self, limit: u64) -> bool {
        // Of one that is under as many limits as can be told, some may have been left out.
        limit == 0 || self.limits.contains(&limit) || self.limits[LIMITS - 1] != 0
    }
}

/// A slot's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record {
    pub(super) pid: u32,
    /// When that process began (clock ticks since boot): with the pid, who it is.
    pub(super) began: u64,
    /// Grows with each writing.
    pub(super) turn: u64,
    pub(super) said: Said,
    pub(super) under: Under,
}

impl Record {
    pub(crate) fn words(&self) -> [u8; SLOT] {
        let said = &self.said;
        let counts = u64::from(said.running) << 32
            | u64::from(said.idle & 0x7fff_ffff) << 1
            | u64::from(said.first);
        let under = &self.under;
        let own = [self.pid.into(), self.began, self.turn, said.owed, said.used, counts];
        let words = own.into_iter().chain([under.tightest]).chain(under.limits);
        let mut bytes = [0; SLOT];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&bytes);
        bytes[SLOT - 8..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` where the bytes are not of one writing. A free slot is all zeros.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let word = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        // Most are: by words, since all slots are read for each job.
        if bytes.chunks(8).all(|word| word == [0; 8]) {
            return Some(Self::default());
        }
        let counts = word(5)?;
        let mut limits = [0; LIMITS];
        for (place, at) in limits.iter_mut().zip(7..) {
            *place = word(at)?;
        }
        let record = Self {
            pid: u32::try_from(word(0)?).ok()?,
            began: word(1)?,
            turn: word(2)?,
            said: Said {
                owed: word(3)?,
                used: word(4)?,
                running: (counts >> 32) as u32,
                idle: (counts as u32) >> 1,
                first: counts & 1 == 1,
            },
            under: Under { tightest: word(6)?, limits },
        };
        (word(WORDS - 1)? == checksum(bytes)).then_some(record)
    }

    pub(crate) fn is_free(&self) -> bool {
        self.pid == 0
    }
}

/// FNV-1a over all words but the last.
fn checksum(bytes: &[u8]) -> u64 {
    bytes[..SLOT - 8].iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(super) fn offset(slot: usize) -> u64 {
    (SLOT * (slot + 1)) as u64
}

pub(super) fn span(slot: usize) -> std::ops::Range<usize> {
    SLOT * (slot + 1)..SLOT * (slot + 2)
}

pub(super) fn read_page(file: &File, path: &Path) -> Result<[u8; PAGE], ShareError> {
    let mut page = [0; PAGE];
    let failed = |source| ShareError::File { what: "reading", path: path.into(), source };
    file.read_exact_at(&mut page, 0).map_err(failed)?;
    Ok(page)
}

/// Finds or makes the table, and takes a place in it.
pub(super) fn enter(root: &Path, me: &Record) -> Result<(PathBuf, File, usize), ShareError> {
    let own = rustix::process::geteuid().as_raw();
    let dir = root.join(format!("dev/shm/tillroll-{own}"));
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ShareError::File { what, path, source }
    };
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("making", &dir)(error));
        }
        Ok(()) | Err(_) => {}
    }
    // Not through a link: everybody may write to /dev/shm.
    let about = dir.symlink_metadata().map_err(failed("looking at", &dir))?;
    if !about.is_dir() || about.uid() != own || about.mode() & 0o077 != 0 {
        return Err(ShareError::NotOurs { path: dir, owner: about.uid() });
    }
    let namespace = std::fs::metadata(root.join("proc/self/ns/pid")).map_or(0, |ns| ns.ino());
    // What an older release writes there is another file's matter.
    let path = dir.join(format!("ledger-2.{namespace}"));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(failed("opening", &path))?;
    lock(&file, &path)?;
    let slot = take_place(root, &file, &path, me);
    flock(&file, FlockOperation::Unlock)
        .map_err(|error| failed("unlocking", &path)(error.into()))?;
    Ok((path, file, slot?))
}

/// For those who come: they look for a free slot one after another.
fn lock(file: &File, path: &Path) -> Result<(), ShareError> {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err(error) => {
                let path = path.to_owned();
                return Err(ShareError::File { what: "locking", path, source: error.into() });
            }
        }
    }
    Err(ShareError::Busy { path: path.into() })
}

fn take_place(root: &Path, file: &File, path: &Path, me: &Record) -> Result<usize, ShareError> {
    let failed = |source| ShareError::File { what: "writing", path: path.into(), source };
    let length = file.metadata().map_err(failed)?.len();
    if length > 0 && length < PAGE as u64 {
        return Err(ShareError::Foreign { path: path.into() });
    }
    if length == 0 {
        // All of it, so that no later writing can fail for want of room.
        let mut page = [0; PAGE];
        page[..HEADER.len()].copy_from_slice(HEADER);
        file.write_all_at(&page, 0).map_err(failed)?;
    }
    let page = read_page(file, path)?;
    if !page.starts_with(HEADER) {
        return Err(ShareError::Foreign { path: path.into() });
    }
    let free = |slot: &usize| match Record::parse(&page[span(*slot)]) {
        Some(record) => record.is_free() || !lives(root, me, &record),
        // Its writer is at it now.
        None => false,
    };
    let slot = (0..SLOTS).find(free).ok_or_else(|| ShareError::Full { path: path.into() })?;
    file.write_all_at(&me.words(), offset(slot)).map_err(failed)?;
    Ok(slot)
}

/// Whether a slot's process is there, and is the one that wrote it.
pub(super) fn lives(root: &Path, me: &Record, record: &Record) -> bool {
    (record.pid, record.began) == (me.pid, me.began)
        || began(root, record.pid) == Some(record.began)
}

/// When a process began, in clock ticks since boot; `None` where there is none.
pub(super) fn began(root: &Path, pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    // The name may hold spaces and brackets; the 20th field after it is the time.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}
