//! Which renderer belongs to which context of a browser.
//!
//! Chromium does not tell: the numbers that it knows are those of its own namespace.
//! So contexts are opened one after the other as far as that matters, and the renderer
//! that appears meanwhile is the new context's. Where two appear, one is a child
//! frame's, or of an opening that failed: no answer is better than a wrong one.
//!
//! ```text
//! turn ─▶ target created ─▶ fresh? ─ one ──────────────────────▶ claimed, the next turn begins
//!                             └ none yet ─▶ it answers ─▶ fresh? ─ one ─▶ claimed
//! ```
//!
//! Renderers are children of a zygote, which is asked for them; where it cannot be
//! asked (a kernel without `CONFIG_PROC_CHILDREN`), all processes are looked through. A
//! child that was forked a moment ago is called a zygote still, and may be anything.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{Mutex, MutexGuard};

use super::processes::{self, Identity, Kind};

/// A renderer process and a handle on it.
#[derive(Debug)]
pub(super) struct Renderer {
    pub(super) pid: u32,
    pub(super) handle: Arc<OwnedFd>,
}

/// The renderers of one browser.
#[derive(Debug)]
pub(super) struct Renderers {
    proc: PathBuf,
    browser: u32,
    known: Mutex<Known>,
    /// Which are there when the first context is opened: Chromium has no others later.
    zygotes: OnceLock<Vec<Identity>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Processes that were there before, claimed or not.
    seen: HashSet<Identity>,
    /// Whether the renderer of an earlier opening may still come.
    owes: bool,
}

/// The right to open a context. Until it is dropped nobody else opens one.
pub(super) struct Turn<'a> {
    renderers: &'a Renderers,
    known: MutexGuard<'a, Known>,
    is_sure: bool,
}

impl Renderers {
    /// Those below the process `browser`, as `proc` (`/proc`) has them.
    pub(super) fn of(proc: &Path, browser: u32) -> Self {
        let (known, zygotes) = (Mutex::default(), OnceLock::new());
        Self { proc: proc.to_owned(), browser, known, zygotes }
    }

    /// Waits until nobody else opens a context.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let mut known = self.known.lock().await;
        known.seen.retain(|(pid, started)| processes::started(&self.proc, *pid) == Some(*started));
        let there = self.unseen(&known.seen);
        known.seen.extend(there.into_iter().map(|(identity, _)| identity));
        let is_sure = !std::mem::replace(&mut known.owes, true);
        Turn { renderers: self, known, is_sure }
    }

    fn unseen(&self, seen: &HashSet<Identity>) -> Vec<(Identity, Kind)> {
        let tree = || processes::tree(&self.proc, self.browser).into_iter();
        let zygotes = self.zygotes.get_or_init(|| {
            tree()
                .filter(|process| process.kind == Kind::Zygote)
                .map(|zygote| (zygote.pid, zygote.started))
                .collect()
        });
        processes::forked(&self.proc, zygotes, seen).unwrap_or_else(|| {
            tree()
                .map(|process| ((process.pid, process.started), process.kind))
                .filter(|(identity, _)| !seen.contains(identity))
                .collect()
        })
    }
}

impl Turn<'_> {
    /// Whether what appears can only be of this turn's context, before that answers.
    pub(super) fn is_sure(&self) -> bool {
        self.is_sure
    }

    /// Renderers that appeared since the turn began.
    pub(super) fn fresh(&self) -> Vec<Identity> {
        let unseen = self.renderers.unseen(&self.known.seen).into_iter();
        unseen.filter(|(_, kind)| *kind == Kind::Renderer).map(|(identity, _)| identity).collect()
    }

    /// Takes the one that is fresh, if it is one, and still there.
    pub(super) fn claim(&mut self, fresh: &[Identity]) -> Option<Renderer> {
        let [identity @ (pid, started)] = *fresh else { return None };
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let handle = Arc::new(pidfd_open(raw, PidfdFlags::empty()).ok()?);
        if processes::started(&self.renderers.proc, pid) != Some(started) {
            return None;
        }
        self.known.seen.insert(identity);
        self.known.owes = false;
        Some(Renderer { pid, handle })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` with a browser 11, its zygote 12, and renderers of it.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fake.put(11, 1, "/u/c\0--headless\0");
            fake.put(12, 11, "/u/c\0--type=zygote\0");
            fake.children("");
            fake
        }

        fn put(&self, pid: u32, parent: u32, cmdline: &str) {
            let dir = self.0.path().join(pid.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let stat = format!("{pid} (c) S {parent}{} {} 0", " 0".repeat(17), pid * 10);
            std::fs::write(dir.join("stat"), stat).unwrap();
            std::fs::write(dir.join("cmdline"), cmdline).unwrap();
        }

        fn fork(&self, pid: u32, kind: &str) {
            self.put(pid, 12, &format!("/u/c --type={kind}"));
        }

        fn children(&self, list: &str) {
            let task = self.0.path().join("12/task/12");
            std::fs::create_dir_all(&task).unwrap();
            std::fs::write(task.join("children"), list).unwrap();
        }
    }

    #[tokio::test]
    async fn only_a_renderer_that_came_meanwhile_is_fresh() {
        let fake = Fake::new();
        let renderers = Renderers::of(fake.0.path(), 11);
        fake.fork(20, "renderer");
        fake.children("20");
        let turn = renderers.turn().await;
        assert_eq!(turn.fresh(), []);
        fake.fork(21, "zygote");
        fake.fork(22, "utility");
        fake.children("20 21 22");
        assert_eq!(turn.fresh(), [], "what has no name yet may be anything");
        fake.fork(21, "renderer");
        assert_eq!(turn.fresh(), [(21, 210)]);
        fake.fork(23, "renderer");
        fake.children("20 21 22 23");
        assert_eq!(turn.fresh(), [(21, 210), (23, 230)], "which one is not known");
        drop(turn);
        assert_eq!(renderers.turn().await.fresh(), []);
        fake.children("23");
        let turn = renderers.turn().await;
        fake.children("20 21 22 23");
        assert_eq!(turn.fresh(), [], "who was left out once is not new");
    }

    #[tokio::test]
    async fn after_an_opening_that_found_none_nothing_is_sure() {
        let fake = Fake::new();
        let renderers = Renderers::of(fake.0.path(), 11);
        assert!(renderers.turn().await.is_sure());
        let mut turn = renderers.turn().await;
        assert!(!turn.is_sure(), "its renderer may still come");
        let own = std::process::id();
        let started = processes::started(Path::new("/proc"), own).unwrap();
        assert!(turn.claim(&[(own, started + 1)]).is_none(), "another with its number");
        drop(turn);
        // This very process stands for a renderer.
        let renderers = Renderers::of(Path::new("/proc"), own);
        assert!(renderers.turn().await.claim(&[(own, started)]).is_some());
        assert!(renderers.turn().await.is_sure());
    }

    #[tokio::test]
    async fn where_zygotes_cannot_be_asked_all_processes_are_looked_through() {
        let fake = Fake::new();
        let renderers = Renderers::of(fake.0.path(), 11);
        std::fs::remove_file(fake.0.path().join("12/task/12/children")).unwrap();
        let turn = renderers.turn().await;
        fake.fork(20, "renderer");
        assert_eq!(turn.fresh(), [(20, 200)]);
    }
}
