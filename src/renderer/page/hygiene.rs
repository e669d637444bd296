//! What a page needs before a document with frames, between two documents, after a
//! large one, and before a print of thousands of pages. All are for rare documents only:
//! others pay nothing.

use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::page::{NavigateParams, PrintToPdfParams};
use tokio::time::{Instant, timeout_at};

use super::{Failed, Page, Run, SetContent, guard, probe, stream};
use crate::job::length::{MAX_POINTS, PIXELS_PER_INCH, POINTS_PER_INCH};
use crate::renderer::RenderRequest;
use crate::renderer::cdp::{CdpError, Events};
use crate::renderer::limits;
use crate::renderer::markup::{self, Loads, Look, Tall};
use crate::renderer::paper::{self, Plan};

/// What a document of more tags makes of itself in a renderer is not kept: of 1,000 rows
/// 40 MB, which a collection leaves.
const MANY_TAGS: u64 = 2_000;
/// The PDF is there already, and waits.
const EMPTYING: Duration = Duration::from_millis(500);

impl Page {
    /// Gives the page a new document where the one before left something in it
    /// that replacing it does not take away (15 ms, where a new context takes 65).
    pub(super) async fn wash(&mut self, look: Look, deadline: Instant) {
        if !look.leaves_traces {
            return;
        }
        if let Err(error) = self.renew(deadline).await {
            tracing::debug!(%error, "a page could not be renewed, and is given up");
            self.spent = true;
        }
    }

    /// Whether a document of this kind is taken away before its page [rests](Self::rest).
    pub(super) fn is_large(request: &RenderRequest, look: Look) -> bool {
        look.tags > MANY_TAGS || stream::is_wanted(request)
    }

    /// For a page that may wait long for its next document: takes the last one away, if it
    /// was large (3 to 10 ms), and leaves the page as it is otherwise.
    pub async fn rest(&mut self) {
        if !std::mem::take(&mut self.large) || self.spent {
            return;
        }
        match self.empty(EMPTYING).await {
            Ok(()) => {}
            // The document is away, which is what matters to the next one.
            Err(CdpError::Refused { method: stream::PRINT, message, .. }) => {
                tracing::debug!(message, "an empty page could not be printed");
            }
            Err(error) => {
                tracing::debug!(%error, "a page could not be emptied, and is given up");
                self.spent = true;
            }
        }
    }

    /// What was printed last is held until something else is: without that a collection
    /// frees half as much (seen).
    async fn empty(&self, timeout: Duration) -> Result<(), CdpError> {
        let content = SetContent { frame_id: &self.frame, html: "" };
        self.session.call_raw("Page.setDocumentContent", &content, timeout).await?;
        self.session.call(PrintToPdfParams::default(), timeout).await.map(drop)
    }

    /// Gives the page an empty document that comes from an address.
    pub(super) async fn renew(&mut self, deadline: Instant) -> Result<(), CdpError> {
        // Our style sheet goes with the document.
        self.css.clear();
        let left = || deadline.saturating_duration_since(Instant::now());
        self.watch(left()).await?;
        let reply = self.session.call(NavigateParams::new("about:blank"), left()).await?;
        if let Some(message) = reply.error_text {
            return Err(CdpError::Refused { method: "Page.navigate", code: 0, message });
        }
        arrived(self.watch(left()).await?, deadline, left()).await?;
        self.nowhere = false;
        Ok(())
    }
}

/// Waits for the news of our own navigation: the next document must not be blamed for it.
async fn arrived(strays: &mut Events, deadline: Instant, left: Duration) -> Result<(), CdpError> {
    const METHOD: &str = "Page.frameNavigated";
    let news = async {
        loop {
            match strays.next().await {
                Ok(Some(event)) if guard::went_elsewhere(&event) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(CdpError::Crashed { method: METHOD }),
            }
        }
    };
    timeout_at(deadline, news)
        .await
        .unwrap_or(Err(CdpError::Timeout { method: METHOD, after: left }))
}

impl Run<'_> {
    /// Refuses a document that would fill more pages than it may, as far as its
    /// layout on a screen tells: Chromium lays out all pages before it prints the
    /// first, which takes seconds for some thousands. What cannot be told so ends at
    /// its time, or where it is printed, after one page more than allowed.
    ///
    /// Its height divided by the longest side of a page is a lower bound, and so is
    /// the number of breaks that it forces. Where it loads something it is laid out
    /// already, and measuring is free; where that is images only, it is not, and is
    /// measured if they are as high as to matter.
    pub(super) async fn check_pages(&mut self, look: Look, plan: &Plan) -> Result<(), Failed> {
        let limit = self.limits.pages;
        if limit == 0 {
            return Ok(());
        }
        // A document with `@page` rules may make its pages as long as a page can be.
        let longest = if look.has_page_rules { MAX_POINTS } else { plan.longest_side() };
        if look.tall == Tall::ByView {
            let height = paper::whole_pixels(longest * PIXELS_PER_INCH / POINTS_PER_INCH);
            self.set_viewport(plan.viewport_width(), height).await?;
        }
        let mut least = 0.0;
        let may_be_high = look.loads == Loads::Images && !self.are_images_low(limit);
        if may_be_high {
            self.prepare(plan, &plan.css).await?;
        }
        if look.tall > Tall::No || look.loads == Loads::Anything || may_be_high {
            let size = self.content_size().await?;
            least = size.height * plan.scale * POINTS_PER_INCH / PIXELS_PER_INCH / longest;
        }
        // What the document shows may depend on it.
        self.set_viewport(plan.viewport_width(), 1).await?;
        if look.many_tags && look.forces_breaks {
            let breaks: f64 = self.evaluate(probe::FORCED_BREAKS).await?;
            least = least.max(breaks + 1.0);
        }
        #[allow(clippy::cast_precision_loss, reason = "a limit on pages is no such number")]
        let is_within = least <= limit as f64;
        if is_within {
            return Ok(());
        }
        Err(Failed { failure: limits::too_many_pages(limit), page_is_sound: true })
    }

    /// Whether its images cannot fill `pages` pages: each is taken to be as wide as the
    /// largest length that the markup may have without being measured anyway.
    fn are_images_low(&self, pages: u64) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "a limit on pages is no such number")]
        let most = pages.saturating_mul(markup::PAGE_PIXELS) as f64;
        let heights = self.loaded.as_ref().map(|loaded| loaded.heights * markup::WIDEST_PIXELS);
        heights.is_some_and(|heights| heights <= most)
    }
}
