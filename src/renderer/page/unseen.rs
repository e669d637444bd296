//! A sheet that nobody asks anything of is laid out on its pages only.
//!
//! ```text
//! hidden ─▶ set ─▶ [count its pages] ─▶ print ─▶ finished
//!                                         │ nothing on it
//!                                         └▶ laid out ─▶ print ─▶ finished
//! ```
//!
//! A style sheet hides the document where it is not on paper
//! ([`Plan::css_until_printed`]). An engine in which that holds on paper too would
//! print nothing: so a document that comes out without anything is laid out and
//! printed once more, and where there is something on it then, its page hides
//! nothing any more.

use std::sync::Arc;

use super::finish::finish;
use super::{Failed, Run};
use crate::renderer::RenderRequest;
use crate::renderer::markup::{Loads, Look};
use crate::renderer::paper::Plan;
use crate::renderer::pdf::Finished;

/// A PDF of more bytes has something on it.
const EMPTY: usize = 16 * 1024;

impl Run<'_> {
    /// Prepares the page for a document; says whether it is hidden until it is printed.
    pub(super) async fn prepare_for(&mut self, look: Look, plan: &Plan) -> Result<bool, Failed> {
        let hides = self.page.hides && !self.is_asked_before_print(look, plan);
        if hides {
            self.prepare(plan, &plan.css_until_printed()).await?;
        } else {
            self.prepare(plan, &plan.css).await?;
        }
        Ok(hides)
    }

    /// Whether anything needs the document's layout before it is printed: a roll its height,
    /// fonts and backgrounds somebody who uses them, what scrolls or sticks a place to do so
    /// from, scripts what they measure, tags what is on the page, and a frame what it is in.
    fn is_asked_before_print(&self, look: Look, plan: &Plan) -> bool {
        let options = self.options;
        plan.is_roll()
            || look.loads > Loads::Images
            || look.is_peculiar
            || look.may_navigate
            || look.may_be_measured()
            || options.tagged
            // Their text would make a page look full on which nothing else is.
            || options.header.is_some()
            || options.footer.is_some()
            || options.script.is_some()
    }

    /// Prints sheets. `hidden`: see [`Self::prepare_for`].
    pub(super) async fn print_sheets(
        &mut self,
        plan: &Plan,
        request: &RenderRequest,
        hidden: bool,
    ) -> Result<(Finished, usize), Failed> {
        let printed = self.printed(plan, request).await?;
        if !hidden || !is_empty(&printed.0.pdf) {
            return Ok(printed);
        }
        self.prepare(plan, &plan.css).await?;
        let printed = self.printed(plan, request).await?;
        if !is_empty(&printed.0.pdf) {
            self.page.hides = false;
            tracing::warn!(
                "this Chromium prints nothing of a document that is hidden on a screen only: \
                 its documents are laid out twice from now on, which takes a sixth more CPU"
            );
        }
        Ok(printed)
    }

    async fn printed(
        &self,
        plan: &Plan,
        request: &RenderRequest,
    ) -> Result<(Finished, usize), Failed> {
        let printed = self.print(plan, 0.0).await?;
        let options = Arc::clone(&request.options);
        Ok(finish(printed, &options, plan.exact_size(), request.date, None).await?)
    }
}

/// Whether there is neither text nor an image on it.
fn is_empty(pdf: &[u8]) -> bool {
    let has = |name: &[u8]| pdf.windows(name.len()).any(|bytes| bytes == name);
    pdf.len() <= EMPTY && !has(b"/FontFile") && !has(b"/Subtype /Image")
}
