//! The task that watches one browser to its very end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::cdp::{CloseReason, Connection};
use super::contain;
use super::fence::Fence;
use super::launcher::Child;
use super::processes::{self, Kind};
use super::profile::Profile;

/// How long a child whose pipe has ended may take to exit on its own.
pub(super) const EXIT_GRACE: Duration = Duration::from_millis(500);

/// How much later than its zygote's the end of a killed browser may be seen.
const ZYGOTE_GRACE: Duration = Duration::from_millis(50);

/// How long the kernel may take to clear away what was killed.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Watches a browser to its very end.
pub(super) struct Supervisor {
    pub(super) connection: Connection,
    pub(super) child: Arc<Child>,
    /// The first process of the jail, or Chromium itself.
    pub(super) first: OwnedFd,
    pub(super) group: bool,
    pub(super) fence: Option<Arc<dyn Fence>>,
    pub(super) profile: Option<Profile>,
    /// Cancels `gone` when it is dropped.
    pub(super) leaving: DropGuard,
}

impl Supervisor {
    pub(super) async fn run(self) {
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
        if let Some(fence) = &self.fence {
            taken_down(&**fence).await;
        }
        self.connection.finished().await;
        let Self { connection, child, first, profile, fence, group: _, leaving } = self;
        drop((connection, child, first, profile, fence));
        // Only now: whoever waits for this finds nothing left.
        drop(leaving);
    }
}

/// The zygotes of a browser. The sandboxed one has a fork that does its work, and ends
/// with it; any other fork called so is the GPU process or a renderer in its first moment,
/// whose end is not the browser's.
fn zygotes(proc: &Path, browser: u32) -> impl Iterator<Item = u32> {
    let all = processes::tree(proc, browser).into_iter();
    all.filter(|process| process.kind == Kind::Zygote && !process.forked).map(|process| process.pid)
}

/// Declares a browser dead as soon as one of its zygotes is: Chromium does not
/// replace them, so every context opened from then on would crash at once and
/// its jobs would be blamed for it.
pub(super) async fn watch_zygotes(connection: Connection, browser: u32) {
    let zygotes = zygotes(Path::new("/proc"), browser).filter_map(|pid| {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    });
    let mut watched = JoinSet::new();
    for zygote in zygotes {
        watched.spawn(async move { contain::ended(&zygote, Duration::MAX).await });
    }
    let closed = connection.closed().clone();
    tokio::select! {
        () = closed.cancelled() => {}
        Some(Ok(true)) = watched.join_next() => {
            // A zygote that dies with its whole browser is not the reason of it.
            if tokio::time::timeout(ZYGOTE_GRACE, closed.cancelled()).await.is_err() {
                connection.close(CloseReason::ZygoteEnded);
            }
        }
    }
    // With their handles.
    watched.shutdown().await;
}

/// Takes a fence down. The kernel may count a process that has ended for a moment
/// longer; what is left after that is removed later.
async fn taken_down(fence: &dyn Fence) {
    let deadline = Instant::now() + KILL_PATIENCE;
    while !fence.take_down() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the last process of a killed group has ended. Those that the
/// leader left behind are not our children, so there is nothing to wait on.
async fn group_emptied(leader: u32) {
    let deadline = Instant::now() + KILL_PATIENCE;
    while processes::group_alive(Path::new("/proc"), leader) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_in_its_first_moment_is_no_zygote() {
        let proc = tempfile::tempdir().unwrap();
        let put = |pid: u32, parent: u32, flags: u32, cmdline: &str| {
            let dir = proc.path().join(pid.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let (before, after) = (" 0".repeat(4), " 0".repeat(12));
            let stat = format!("{pid} (c) S {parent}{before} {flags}{after} 7 0");
            std::fs::write(dir.join("stat"), stat).unwrap();
            std::fs::write(dir.join("cmdline"), cmdline).unwrap();
        };
        put(11, 1, 0x40_0100, "/u/c\0--headless\0");
        put(12, 11, 0x40_0100, "/u/c\0--type=zygote\0--no-zygote-sandbox\0");
        put(13, 11, 0x40_0100, "/u/c\0--type=zygote\0");
        put(14, 13, 0x40_0140, "/u/c\0--type=zygote\0");
        // The GPU process and a renderer, which do not say so yet.
        put(15, 12, 0x40_0140, "/u/c\0--type=zygote\0--no-zygote-sandbox\0");
        put(16, 14, 0x40_0140, "/u/c\0--type=zygote\0");
        assert_eq!(zygotes(proc.path(), 11).collect::<Vec<_>>(), [12, 13]);
    }
}
