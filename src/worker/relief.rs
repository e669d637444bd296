//! Ties the memory governor to the renderer, which know nothing of each other:
//! what the renderer tells of its contexts goes to the governor, what the
//! governor orders goes to the renderer; and the fences that the one makes stand
//! around the browsers of the other.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::memory::fence;
use crate::memory::live::{Hands, Live};
use crate::memory::terms::{ContextId, JobId};
use crate::renderer::fence::{Fence, Fences, Killed};
use crate::renderer::{Relief, Render, Watch};

/// Has them work together. Returns the news of whether memory lets a job be
/// claimed; without a governor there is none.
pub(super) fn connect(
    governor: Option<&Live>,
    renderer: &Arc<dyn Render>,
) -> watch::Receiver<(bool, usize)> {
    let Some(live) = governor else { return watch::Sender::new((true, 0)).subscribe() };
    if renderer.watched_by(Arc::new(News(live.clone()))) {
        // Not to keep each other alive.
        live.attach(Arc::new(Orders(Arc::downgrade(renderer))));
    }
    live.room()
}

struct News(Live);

impl Watch for News {
    fn entered(&self, job: u64, context: u64, tenant: &Arc<str>, pid: Option<u32>) {
        self.0.entered(JobId(job), ContextId(context), tenant, pid);
    }

    fn left(&self, job: u64, context: u64, sound: bool, bytes: Option<u64>) -> bool {
        self.0.left(JobId(job), ContextId(context), sound, bytes)
    }

    fn ended(&self, context: u64) {
        self.0.ended(ContextId(context));
    }

    fn has_room_to_spare(&self) -> bool {
        self.0.has_room_to_spare()
    }
}

struct Orders(Weak<dyn Render>);

impl Orders {
    /// A renderer that is gone has nothing left to give.
    fn relieve(&self, context: ContextId, relief: Relief) {
        if let Some(renderer) = self.0.upgrade() {
            renderer.relieve(context.0, relief);
        }
    }
}

impl Hands for Orders {
    fn trim(&self, context: ContextId) {
        self.relieve(context, Relief::Trim);
    }

    fn close(&self, context: ContextId) {
        self.relieve(context, Relief::Close);
    }

    fn kill(&self, context: ContextId, job: JobId) {
        self.relieve(context, Relief::Kill(job.0));
    }
}

/// Fences for the renderer, made by the memory's side.
#[must_use]
pub fn fences(fences: fence::Fences) -> Arc<dyn Fences> {
    Arc::new(Around(fences))
}

#[derive(Debug)]
struct Around(fence::Fences);

impl Fences for Around {
    fn raise(&self) -> Option<Arc<dyn Fence>> {
        match self.0.raise() {
            Ok(fence) => Some(Arc::new(Stands(fence))),
            Err(error) => {
                tracing::warn!(%error, "a browser goes without its fence");
                None
            }
        }
    }
}

#[derive(Debug)]
struct Stands(fence::Fence);

impl Fence for Stands {
    fn take_in(&self, pid: u32) -> std::io::Result<()> {
        self.0.take_in(pid)
    }

    fn claim_kill(&self) -> Option<Killed> {
        self.0.claim_kill().map(|killed| match killed {
            fence::Killed::Inside => Killed::Inside,
            fence::Killed::Outside => Killed::Outside,
        })
    }

    fn take_down(&self) -> bool {
        self.0.take_down()
    }
}
