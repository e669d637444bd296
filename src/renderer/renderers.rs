//! Which renderer belongs to which context of a browser.
//!
//! Chromium does not tell: the numbers that it knows are those of its own namespace.
//! So contexts are opened one after the other as far as that matters, and the renderer
//! that appears meanwhile is the new context's. Where two appear, one is a child
//! frame's: no answer is better than a wrong one.
//!
//! Renderers are children of a zygote, which is asked for them; where it cannot be
//! asked (a kernel without `CONFIG_PROC_CHILDREN`), all processes are looked through.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{Mutex, MutexGuard};

use super::processes::{self, Kind};

/// A renderer process and a handle on it.
#[derive(Debug)]
pub(super) struct Renderer {
    pub(super) pid: u32,
    pub(super) handle: Arc<OwnedFd>,
}

/// A process, by its number and the time of its start.
type Identity = (u32, u64);

/// The renderers of one browser.
#[derive(Debug)]
pub(super) struct Renderers {
    browser: u32,
    /// Those that are nobody's who comes later.
    seen: Mutex<HashSet<Identity>>,
    /// Which are there when the first context is opened: Chromium has no others later.
    zygotes: OnceLock<Vec<u32>>,
}

/// The right to open a context. Until it is dropped nobody else opens one.
pub(super) struct Turn<'a> {
    renderers: &'a Renderers,
    seen: MutexGuard<'a, HashSet<Identity>>,
}

impl Renderers {
    /// Those below the process `browser`.
    pub(super) fn of(browser: u32) -> Self {
        Self { browser, seen: Mutex::default(), zygotes: OnceLock::new() }
    }

    /// Waits until nobody else opens a context.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let mut seen = self.seen.lock().await;
        *seen = self.alive(Path::new("/proc")).into_iter().collect();
        Turn { seen, renderers: self }
    }

    fn alive(&self, proc: &Path) -> Vec<Identity> {
        let zygotes = self.zygotes.get_or_init(|| {
            let tree = processes::tree(proc, self.browser).into_iter();
            tree.filter(|p| p.kind == Kind::Zygote).map(|p| p.pid).collect()
        });
        let forked = processes::renderers_of(proc, zygotes);
        forked.unwrap_or_else(|| {
            let tree = processes::tree(proc, self.browser).into_iter();
            tree.filter(|p| p.kind == Kind::Renderer).map(|p| (p.pid, p.started)).collect()
        })
    }
}

impl Turn<'_> {
    /// The renderer that appeared since the turn began, if it is one.
    pub(super) fn find(&self) -> Option<Renderer> {
        let alive = self.renderers.alive(Path::new("/proc"));
        let mut fresh = alive.into_iter().filter(|one| !self.seen.contains(one));
        let (Some((pid, started)), None) = (fresh.next(), fresh.next()) else { return None };
        watch(pid, started)
    }
}

/// A handle on a renderer, if it is still the one that was seen.
fn watch(pid: u32, started: u64) -> Option<Renderer> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let handle = Arc::new(pidfd_open(raw, PidfdFlags::empty()).ok()?);
    let same = processes::started(Path::new("/proc"), pid) == Some(started);
    same.then_some(Renderer { pid, handle })
}
