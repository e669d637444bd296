//! A large PDF, read from Chromium piece by piece.
//!
//! ```text
//! print as a stream ─▶ read ─▶ read ─▶ … ─▶ close ─▶ finish
//!                        └ over the bound ─▶ close ─▶ `pdf_too_large`
//! ```
//!
//! One answer with all of a PDF lies in Chromium's main process several times over:
//! as bytes, as base64, as the message. For 15.7 MB it grows by 92 MB, with pieces by
//! 45 MB beside the file itself, which lies in the jail's `/tmp`; that takes some 5 to
//! 8 % longer, and two calls more, so receipts are printed into the answer as ever
//! ([`is_wanted`]).
//!
//! Every call ends at the job's deadline and fails like any other; a stream in which
//! reading failed is left unread. So is one whose render was abandoned: in both cases
//! the page is destroyed, and the stream goes with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chromiumoxide::cdp::browser_protocol::io::{CloseParams, ReadParams, StreamHandle};
use chromiumoxide::cdp::browser_protocol::page::{PrintToPdfParams, PrintToPdfTransferMode};

use super::{Failed, Run};
use crate::renderer::RenderRequest;
use crate::renderer::cdp::{CdpError, FRAME_LIMIT};

/// From this many bytes of document and assets on, PDFs are read piece by piece: what
/// goes into a document comes out of it. At 1 MB the memory makes no difference yet, at
/// 5 MB it is half.
const LARGE: usize = 2 * 1024 * 1024;
/// How much is asked for at once, in bytes: decoding it holds the event loop up for little
/// more than a millisecond.
const PIECE: usize = 1024 * 1024;
/// How much more than the finished file Chromium's may have: it names its program and
/// writes numbers at length.
const ROOM: usize = PIECE;
pub(super) const PRINT: &str = "Page.printToPDF";

/// Whether a PDF as large as this request makes likely is read piece by piece.
pub(super) fn is_wanted(request: &RenderRequest) -> bool {
    let assets: usize = request.assets.iter().map(|asset| asset.bytes.len()).sum();
    request.html.len() + assets >= LARGE
}

/// How many bytes are read where PDFs have at most `max_pdf` (0: as many as fit into one
/// answer).
fn bound(max_pdf: u64) -> usize {
    match usize::try_from(max_pdf) {
        Ok(0) => FRAME_LIMIT / 4 * 3,
        Ok(bytes) => bytes.saturating_add(ROOM),
        Err(_) => usize::MAX,
    }
}

impl Run<'_> {
    /// Prints, and reads the file.
    pub(super) async fn print_to_stream(
        &self,
        params: PrintToPdfParams,
    ) -> Result<Vec<u8>, Failed> {
        let transfer_mode = Some(PrintToPdfTransferMode::ReturnAsStream);
        let printed = self.call(PrintToPdfParams { transfer_mode, ..params }).await?;
        let handle = printed.stream.ok_or_else(|| {
            let detail = "the answer names no stream".to_owned();
            self.failed(&CdpError::Malformed { method: PRINT, detail })
        })?;
        let limit = bound(self.limits.pdf_bytes);
        let file = self.read_up_to(limit, &handle).await?;
        self.call(CloseParams::new(handle)).await?;
        file.ok_or_else(|| {
            let failed = self.failed(&CdpError::Oversized { method: PRINT, limit });
            // What is left of it went with the stream.
            Failed { page_is_sound: true, ..failed }
        })
    }

    /// The whole stream; `None` where it has more than `limit` bytes.
    async fn read_up_to(
        &self,
        limit: usize,
        handle: &StreamHandle,
    ) -> Result<Option<Vec<u8>>, Failed> {
        let mut file = Vec::new();
        loop {
            let size = i64::try_from(PIECE).ok();
            let piece = self.call(ReadParams { size, ..ReadParams::new(handle.clone()) }).await?;
            if piece.base64_encoded != Some(true) && !piece.data.is_empty() {
                return Err(Failed::undecodable());
            }
            STANDARD.decode_vec(piece.data, &mut file).map_err(|_| Failed::undecodable())?;
            if file.len() > limit {
                return Ok(None);
            }
            if piece.eof {
                return Ok(Some(file));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::OffsetDateTime;

    use super::*;
    use crate::job::{Asset, RenderOptions, Rules};

    #[test]
    fn what_a_document_brings_along_counts_like_its_own_bytes() {
        let request = |html: usize, assets: &[usize]| RenderRequest {
            job: 0,
            tenant: "shop".into(),
            html: "x".repeat(html).into(),
            assets: assets
                .iter()
                .map(|bytes| Asset {
                    name: "a.png".into(),
                    media_type: "image/png",
                    bytes: vec![0; *bytes].into(),
                })
                .collect(),
            rules: Rules::default(),
            options: Arc::new(RenderOptions::default()),
            date: OffsetDateTime::UNIX_EPOCH,
        };
        assert!(!is_wanted(&request(LARGE - 1, &[])));
        assert!(is_wanted(&request(LARGE, &[])));
        assert!(!is_wanted(&request(1, &[LARGE / 2, LARGE / 2 - 2])));
        assert!(is_wanted(&request(1, &[LARGE / 2, LARGE / 2 - 1])));
    }

    #[test]
    fn a_pdf_that_may_be_finished_is_read_to_its_end() {
        assert_eq!(bound(0), 96 << 20);
        assert_eq!(bound(32_000_000), 32_000_000 + ROOM);
        assert_eq!(bound(u64::MAX), usize::MAX);
    }
}
