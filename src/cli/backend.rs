//! What a verb renders with: the pool of Chromium's pages, or the null renderer.

use std::sync::Arc;

use super::exit::Failure;
use super::{Session, parts};
use crate::config::values::RendererKind;
use crate::memory;
use crate::pool::Pool;
use crate::renderer::Render;
use crate::renderer::fence::Fences;
use crate::renderer::null::{self, Null};

/// The null renderer's share of memory: next to nothing.
const NULL_RENDER_BYTES: u64 = 1 << 20;

/// What renders, as `renderer.kind` says.
pub(super) enum Backend {
    /// Chromium.
    Chromium(Arc<Pool>),
    /// Nothing.
    Null(Arc<Null>),
}

impl Backend {
    /// Finds what is needed and starts it, with at most `contexts` warm pages, of which
    /// `spares` are made ready ahead, and with fences around its browsers where there can be any.
    /// Needs a runtime.
    ///
    /// # Errors
    /// Where there is no engine, no jail, or no thread to launch from.
    pub(super) fn start(
        session: &Session,
        (contexts, spares): (usize, usize),
        fences: Option<Arc<dyn Fences>>,
    ) -> Result<Self, Failure> {
        match session.loaded.config.renderer.kind {
            RendererKind::Chromium => {
                Ok(Self::Chromium(Arc::new(parts::pool(session, (contexts, spares), fences)?)))
            }
            RendererKind::Null => {
                tracing::warn!(remedy = null::REMEDY, "renderer.kind = null: {}", null::NOTICE);
                Ok(Self::Null(Arc::new(Null::new())))
            }
        }
    }

    /// Waits for the first browser, so that a broken one is told at once.
    ///
    /// # Errors
    /// Why it could not be launched.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        match self {
            Self::Chromium(pool) => parts::ready(pool).await,
            Self::Null(_) => Ok(()),
        }
    }

    /// What renders.
    pub(super) fn renderer(&self) -> Arc<dyn Render> {
        match self {
            Self::Chromium(pool) => Arc::clone(pool) as Arc<dyn Render>,
            Self::Null(null) => Arc::clone(null) as Arc<dyn Render>,
        }
    }

    /// What the browser calls itself, where there is one.
    pub(super) fn version(&self) -> Option<String> {
        match self {
            Self::Chromium(pool) => pool.status().version,
            Self::Null(_) => None,
        }
    }

    /// Ends every process that was started.
    pub(super) async fn close(&self) {
        if let Self::Chromium(pool) = self {
            pool.close().await;
        }
    }
}

/// The memory that is planned with: the null renderer takes none of Chromium's.
pub(super) fn memory(session: &Session, settings: memory::Settings) -> memory::Settings {
    match session.loaded.config.renderer.kind {
        RendererKind::Chromium => settings,
        RendererKind::Null => {
            memory::Settings { reserve: 0, per_render: NULL_RENDER_BYTES, ..settings }
        }
    }
}
