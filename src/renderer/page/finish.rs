//! From what Chromium printed to the finished file.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use time::OffsetDateTime;

use super::Failed;
use crate::job::RenderOptions;
use crate::renderer::cdp::RawReply;
use crate::renderer::pdf::{Document, Finished, Stamp};

/// A PDF of more bytes than this, as they came, is finished away from the event loop.
const LARGE: usize = 1024 * 1024;

/// What Chromium printed.
pub(super) enum Printed {
    /// In its answer, as base64.
    Reply(RawReply),
    /// Read piece by piece.
    File(Vec<u8>),
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl Printed {
    fn is_large(&self) -> bool {
        let bytes = match self {
            Self::Reply(reply) => reply.json().len(),
            Self::File(file) => file.len(),
        };
        bytes >= LARGE
    }

    fn into_file(self, allowed: Duration) -> Result<Vec<u8>, Failed> {
        match self {
            Self::Reply(raw) => {
                let reply: Reply<'_> =
                    raw.deserialize().map_err(|e| Failed::from_cdp(&e, allowed))?;
                // `decode` asks for zeroed memory, which the allocator may have to fetch
                // from the kernel.
                let mut file = Vec::with_capacity(reply.data.len().div_ceil(4) * 3);
                let decoded = STANDARD.decode_vec(reply.data.as_bytes(), &mut file);
                decoded.map(|()| file).map_err(|_| Failed::undecodable())
            }
            Self::File(file) => Ok(file),
        }
    }
}

/// A print that did not become a PDF.
pub(super) enum Unfinished {
    /// It has this many pages, and was to have another number.
    Pages(usize),
    Failed(Failed),
}

impl From<Unfinished> for Failed {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::Pages(pages) => Self::roll_not_one_page(pages),
            Unfinished::Failed(failed) => failed,
        }
    }
}

/// Decodes and finishes a printed PDF; a large one away from the event loop.
/// `want` is the number of pages that it must have, if it must.
pub(super) async fn finish(
    printed: Printed,
    options: &Arc<RenderOptions>,
    size: (f64, Option<f64>),
    date: OffsetDateTime,
    want: Option<usize>,
) -> Result<(Finished, usize), Unfinished> {
    if !printed.is_large() {
        return finish_here(printed, options, size, date, want);
    }
    let options = Arc::clone(options);
    tokio::task::spawn_blocking(move || finish_here(printed, &options, size, date, want))
        .await
        .unwrap_or(Err(Unfinished::Failed(Failed::lost_task())))
}

fn finish_here(
    printed: Printed,
    options: &RenderOptions,
    size: (f64, Option<f64>),
    date: OffsetDateTime,
    want: Option<usize>,
) -> Result<(Finished, usize), Unfinished> {
    let broken = |failed| Unfinished::Failed(failed);
    let raw = printed.into_file(options.timeout).map_err(broken)?;
    let document = Document::read(&raw).map_err(|e| broken(Failed::malformed(e)))?;
    let pages = document.pages().len();
    if want.is_some_and(|want| want != pages) {
        return Err(Unfinished::Pages(pages));
    }
    let stamp = Stamp { info: &options.info, date, size };
    let pdf = document.finish(&stamp).map_err(|e| broken(Failed::malformed(e)))?;
    Ok((pdf, pages))
}
