//! A document as it is set, and what is known of it before.
//!
//! The passes over its bytes take 10 ms for each MiB (measured with an optimised
//! build): 35 µs for a receipt, 80 ms for the largest element, in which a worker
//! would neither renew a lease nor serve another page. So a large document is looked
//! at in a thread of its own.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::Failed;
use crate::renderer::markup::{self, Look};

/// Documents from this on, in bytes, are looked at away from the event loop: it is
/// held up for little more than a millisecond.
const LARGE: usize = 128 * 1024;

pub(super) struct Prepared {
    original: Arc<str>,
    /// Where something had to be taken out.
    disarmed: Option<String>,
    pub(super) look: Look,
    #[cfg(test)]
    looked_in: std::thread::ThreadId,
}

impl Prepared {
    /// Looks at a document of which at most `pages` pages may come (0: any number).
    pub(super) async fn of(html: &Arc<str>, pages: u64, deadline: Instant) -> Result<Self, Failed> {
        if html.len() < LARGE {
            return Ok(Self::here(Arc::clone(html), pages));
        }
        let html = Arc::clone(html);
        let looking = tokio::task::spawn_blocking(move || Self::here(html, pages));
        match timeout_at(deadline, looking).await {
            Ok(Ok(prepared)) => Ok(prepared),
            Ok(Err(_)) => Err(Failed::not_looked_at()),
            Err(_) => Err(Failed::not_looked_at_in_time()),
        }
    }

    fn here(original: Arc<str>, pages: u64) -> Self {
        let disarmed = match markup::disarm(&original) {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(text),
        };
        let look = markup::look(disarmed.as_deref().unwrap_or(&original), pages);
        Self {
            original,
            disarmed,
            look,
            #[cfg(test)]
            looked_in: std::thread::current().id(),
        }
    }

    /// The document to set.
    pub(super) fn html(&self) -> &str {
        self.disarmed.as_deref().unwrap_or(&self.original)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_large_document_is_looked_at_in_a_thread_of_its_own_and_comes_to_the_same() {
        let row = "<tr><td>Tea<td>2.00\n";
        let (small, large) = (LARGE - 50, LARGE + 50);
        for bytes in [small, large] {
            let html = format!("<meta http-equiv=refresh>{}", row.repeat(bytes / row.len()));
            let blanks = " ".repeat(bytes.saturating_sub(html.len()));
            let html: Arc<str> = (html + &blanks).into();
            let deadline = Instant::now() + Duration::from_secs(60);
            let prepared = Prepared::of(&html, 10, deadline).await;
            let prepared = prepared.map_err(|failed| failed.failure).unwrap();
            let here = prepared.looked_in == std::thread::current().id();
            assert_eq!(here, bytes < LARGE, "{bytes} bytes");
            assert!(prepared.html().starts_with("<meta data-equiv=refresh>"));
            assert_eq!(prepared.look, markup::look(prepared.html(), 10));
        }
    }
}
