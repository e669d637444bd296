//! What a page needs between two documents, and before a print of thousands of
//! pages. Both are for rare documents only: others pay nothing.

use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::page::NavigateParams;
use tokio::time::{Instant, timeout_at};

use super::{Failed, Page, Run, guard};
use crate::job::length::{MAX_POINTS, PIXELS_PER_INCH, POINTS_PER_INCH};
use crate::renderer::cdp::CdpError;
use crate::renderer::paper::Plan;
use crate::renderer::{limits, markup};

impl Page {
    /// Gives the page a new document where the one before left something in it
    /// that replacing it does not take away (15 ms, where a new context takes 75).
    pub(super) async fn wash(&mut self, html: &str, deadline: Instant) {
        if !markup::leaves_traces(html) {
            return;
        }
        if let Err(error) = self.renew(deadline).await {
            tracing::debug!(%error, "a page could not be renewed, and is given up");
            self.spent = true;
        }
    }

    async fn renew(&mut self, deadline: Instant) -> Result<(), CdpError> {
        // Our style sheet goes with the document.
        self.css.clear();
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = self.session.call(NavigateParams::new("about:blank"), left).await?;
        match reply.error_text {
            None => self.arrived(deadline, left).await,
            Some(detail) => Err(CdpError::Malformed { method: "Page.navigate", detail }),
        }
    }

    /// Waits for the news of our own navigation: the next document must not be blamed for it.
    async fn arrived(&mut self, deadline: Instant, left: Duration) -> Result<(), CdpError> {
        const METHOD: &str = "Page.frameNavigated";
        let news = async {
            loop {
                match self.strays.next().await {
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
}

impl Run<'_> {
    /// Refuses a document that is so high that it would fill more pages than it
    /// may: Chromium lays out all of them before it prints the first.
    pub(super) async fn check_height(
        &self,
        html: &str,
        plan: &Plan,
        has_page_rules: bool,
    ) -> Result<(), Failed> {
        if self.limits.pages == 0 || !markup::may_be_tall(html) {
            return Ok(());
        }
        let size = self.content_size().await?;
        let points = size.height * plan.scale * POINTS_PER_INCH / PIXELS_PER_INCH;
        // A document with `@page` rules may make its pages as long as a page can be.
        let longest = if has_page_rules { MAX_POINTS } else { plan.longest_side() };
        #[allow(clippy::cast_precision_loss, reason = "a limit on pages is no such number")]
        let limit = self.limits.pages as f64;
        if points / longest <= limit {
            return Ok(());
        }
        Err(Failed { failure: limits::too_many_pages(self.limits.pages), page_is_sound: true })
    }
}
