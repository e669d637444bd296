//! Profile directories for browsers without a jail (in the jail the profile is
//! in a tmpfs that vanishes with it).
//!
//! A directory's name says which process it belongs to, and that process holds a
//! lock on it, which the kernel gives back whatever becomes of it. So a later start
//! can remove what a killed worker left ([`sweep`]), and nothing of one that lives,
//! even where each worker has pids of its own and both have the same /tmp.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::processes;

const PREFIX: &str = "tillroll-profile-";

/// Numbers the directories of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A private directory, removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Profile {
    path: PathBuf,
    /// Locked as long as it is open; `None` on a file system without locks.
    _lock: Option<File>,
}

impl Profile {
    /// Makes one below `root`, for the owner's eyes only.
    pub(super) fn create(root: &Path) -> std::io::Result<Self> {
        let own = std::process::id();
        let started = processes::started(Path::new("/proc"), own).unwrap_or_default();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{own}-{started}-{number}"));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = lock(&path).ok();
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Its browser is reaped by now, so nobody writes any more.
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a browser's profile directory could not be removed");
        }
    }
}

/// Opens and locks a directory; fails where another process has it.
fn lock(dir: &Path) -> std::io::Result<File> {
    let file = File::open(dir)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Removes the profile directories below `root` whose worker is gone, and
/// returns how many. For a worker's start.
///
/// # Errors
/// If `root` cannot be read, or a directory not be removed; then the others are
/// removed all the same.
pub fn sweep(root: &Path) -> std::io::Result<usize> {
    let (mut removed, mut failed) = (0, None);
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        // A link by that name is not ours; nor is what belongs to somebody else.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_dir || !orphaned(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let Ok(_lock) = lock(&entry.path()) else { continue };
        match std::fs::remove_dir_all(entry.path()) {
            Ok(()) => removed += 1,
            // Another worker starts at the same time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(removed), Err)
}

fn orphaned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let mut parts = rest.splitn(3, '-');
    let (Some(Ok(pid)), Some(Ok(started))) =
        (parts.next().map(str::parse::<u32>), parts.next().map(str::parse::<u64>))
    else {
        return false;
    };
    processes::started(Path::new("/proc"), pid) != Some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_removes_what_dead_workers_left_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let live = Profile::create(root.path()).unwrap();
        let own = std::process::id();
        let dead = root.path().join(format!("{PREFIX}{own}-1-0"));
        std::fs::create_dir_all(dead.join("Default")).unwrap();
        let foreign = root.path().join("tillroll-profile-notes");
        std::fs::create_dir(&foreign).unwrap();
        // Of a worker with other pids than ours.
        let elsewhere = root.path().join(format!("{PREFIX}{own}-2-0"));
        std::fs::create_dir(&elsewhere).unwrap();
        let held = lock(&elsewhere).unwrap();
        let link = root.path().join(format!("{PREFIX}{own}-3-0"));
        std::os::unix::fs::symlink(&foreign, &link).unwrap();
        assert_eq!(sweep(root.path()).unwrap(), 1);
        assert!(live.path().exists() && foreign.exists() && link.exists() && !dead.exists());
        assert!(elsewhere.exists());
        drop(held);
        assert_eq!(sweep(root.path()).unwrap(), 1);
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }
}
