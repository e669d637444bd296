//! The last fence around a browser, as the renderer sees it: something that the
//! first process is put into before Chromium runs, and that says when the kernel
//! has killed in there for want of memory. Who makes it is no matter of the
//! renderer's.

use std::fmt::Debug;
use std::sync::Arc;

/// Which limit the kernel has killed a process in a fence for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// The fence's own: the browser took too much.
    Inside,
    /// Another one, or the machine's memory: others did.
    Outside,
}

/// Makes fences.
pub trait Fences: Debug + Send + Sync {
    /// A fence for one browser; `None` where there can be none, and it goes without.
    fn raise(&self) -> Option<Arc<dyn Fence>>;
}

/// A fence around one browser. Dropping the last handle takes it down.
pub trait Fence: Debug + Send + Sync {
    /// Takes in a process, with all that it starts from then on.
    ///
    /// # Errors
    /// If the system refuses.
    fn take_in(&self, pid: u32) -> std::io::Result<()>;

    /// Whether the kernel killed a process in it for want of memory that was not
    /// claimed yet, and for which limit. Each is claimed once.
    fn claim_kill(&self) -> Option<Killed>;

    /// Removes it; true if nothing is left of it.
    fn take_down(&self) -> bool;
}
