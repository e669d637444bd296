//! From Chromium's reply to the finished file.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use time::OffsetDateTime;

use super::Failed;
use crate::job::RenderOptions;
use crate::renderer::cdp::RawReply;
use crate::renderer::pdf::{Document, Stamp};

/// A PDF of more base64 than this is finished away from the event loop.
const LARGE_REPLY: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Printed<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
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
    reply: RawReply,
    options: &Arc<RenderOptions>,
    size: (f64, Option<f64>),
    date: OffsetDateTime,
    want: Option<usize>,
) -> Result<(Vec<u8>, usize), Unfinished> {
    if reply.json().len() < LARGE_REPLY {
        return finish_here(&reply, options, size, date, want);
    }
    let options = Arc::clone(options);
    tokio::task::spawn_blocking(move || finish_here(&reply, &options, size, date, want))
        .await
        .unwrap_or(Err(Unfinished::Failed(Failed::lost_task())))
}

fn finish_here(
    reply: &RawReply,
    options: &RenderOptions,
    size: (f64, Option<f64>),
    date: OffsetDateTime,
    want: Option<usize>,
) -> Result<(Vec<u8>, usize), Unfinished> {
    let broken = |failed| Unfinished::Failed(failed);
    let printed: Printed<'_> =
        reply.deserialize().map_err(|e| broken(Failed::from_cdp(&e, options.timeout)))?;
    let raw =
        STANDARD.decode(printed.data.as_bytes()).map_err(|_| broken(Failed::undecodable()))?;
    let document = Document::read(&raw).map_err(|e| broken(Failed::malformed(e)))?;
    let pages = document.pages().len();
    if want.is_some_and(|want| want != pages) {
        return Err(Unfinished::Pages(pages));
    }
    let stamp = Stamp { info: &options.info, date, size };
    let pdf = document.finish(&stamp).map_err(|e| broken(Failed::malformed(e)))?;
    Ok((pdf, pages))
}
