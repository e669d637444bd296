//! From what Chromium answers to a failure that a person can act on. Pure.

use std::time::Duration;

use crate::failure::{Class, Failure};
use crate::job::length::MAX_POINTS;
use crate::job::script::WaitFor;
use crate::renderer::cdp::{CdpError, CloseReason};
use crate::renderer::pdf::Malformed;

/// A render that failed, and whether the page may serve another job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What to tell the job.
    pub failure: Failure,
    /// Whether the page took no harm. Where not, its context is destroyed.
    pub page_is_sound: bool,
}

impl Failed {
    /// The job's own mistake: the page did what it should.
    fn by_job(class: Class, code: &'static str, message: String, remedy: &str) -> Self {
        Self { failure: Failure::new(class, code, message, remedy), page_is_sound: true }
    }

    pub(super) fn broken(class: Class, code: &'static str, message: String, remedy: &str) -> Self {
        Self { failure: Failure::new(class, code, message, remedy), page_is_sound: false }
    }

    pub(super) fn margin_too_large() -> Self {
        Self::by_job(
            Class::Document,
            "margin_too_large",
            "the margins leave no room for content on this paper".into(),
            "give smaller margins, or a larger paper",
        )
    }

    pub(super) fn page_too_long(points: f64) -> Self {
        Self::by_job(
            Class::Document,
            "page_too_long",
            format!(
                "the content makes a roll of {points:.0}pt, and a page of a PDF has at most \
                 {MAX_POINTS:.0}pt (200in, about 5m)"
            ),
            "give a paper with a fixed height, a smaller scale, or split the document",
        )
    }

    pub(super) fn roll_not_one_page(pages: usize) -> Self {
        Self::by_job(
            Class::Document,
            "roll_not_one_page",
            format!("the content filled {pages} pages where a roll has one, however high"),
            "take heights that follow the page (vh, %) and page breaks out of the document, \
             or give a paper with a fixed height",
        )
    }

    pub(super) fn malformed(error: Malformed) -> Self {
        Self::broken(
            Class::Bug,
            "pdf_malformed",
            error.to_string(),
            "report this with the version of Chromium that `tillroll doctor` prints",
        )
    }

    pub(super) fn lost_task() -> Self {
        Self::broken(
            Class::Bug,
            "pdf_task",
            "the task that finishes the PDF ended without a result".into(),
            "report this with the worker's log",
        )
    }

    /// The document was never set: the page took no harm.
    pub(super) fn not_looked_at() -> Self {
        Self::by_job(
            Class::Bug,
            "panicked",
            "the document could not be looked at".into(),
            "report this with the worker's log",
        )
    }

    /// The same, for want of time.
    pub(super) fn not_looked_at_in_time() -> Self {
        Self::by_job(
            Class::Document,
            "render_timeout",
            "the render time was over before the document was looked at".into(),
            "give it more time (`timeout_ms`), or the worker more cores",
        )
    }

    pub(super) fn undecodable() -> Self {
        Self::broken(
            Class::Bug,
            "protocol",
            "Chromium sent a PDF that is no base64".into(),
            "report this with the version of Chromium that `tillroll doctor` prints",
        )
    }

    /// The render time is over.
    pub(crate) fn timed_out(allowed: Duration) -> Self {
        Self::broken(
            Class::Document,
            "render_timeout",
            format!("the document was not rendered within {} ms", allowed.as_millis()),
            "make the document simpler, or give it more time (`timeout_ms`)",
        )
    }

    /// The same, while the document's scripts ran: they are to blame.
    pub(super) fn of_script(self, allowed: Duration) -> Self {
        if self.failure.code != "render_timeout" {
            return self;
        }
        Self::broken(
            Class::Document,
            "script_timeout",
            format!(
                "the document's scripts did not come to an end within {} ms",
                allowed.as_millis()
            ),
            "look for a loop without an end, or give it more time (`timeout_ms`)",
        )
    }

    /// What was waited for did not come. `error` is the name of what it threw last.
    pub(super) fn wait_for_unmet(wait_for: &WaitFor, time: Duration, error: Option<&str>) -> Self {
        // Only a few names: whatever the document says must not get into a log.
        const NAMES: [&str; 3] = ["ReferenceError", "SyntaxError", "TypeError"];
        let what = match wait_for {
            WaitFor::Selector(_) => "no element came for the selector of `wait_for`",
            WaitFor::Expression(_) => "the expression of `wait_for` did not become true",
        };
        let threw = NAMES.iter().find(|name| Some(**name) == error);
        let threw = threw.map(|name| format!("; it threw a {name} last")).unwrap_or_default();
        Self::broken(
            Class::Document,
            "wait_for_unmet",
            format!("{what} in {} ms of the document's time{threw}", time.as_millis()),
            "try it in a browser's console; the document's warnings say what its scripts lacked, \
             and `renderer.script_time` is how much time they see pass",
        )
    }

    /// A script opened one dialog after the other.
    pub(super) fn too_many_dialogs(most: u32) -> Self {
        Self::broken(
            Class::Document,
            "too_many_dialogs",
            format!("the document's scripts opened more than {most} dialogs"),
            "take alert, confirm and prompt out of them: nobody is there to answer",
        )
    }

    /// The page went elsewhere.
    pub(super) fn page_left() -> Self {
        Self::broken(
            Class::Document,
            "page_left",
            "the document led its page away, to another address or to a new load of itself".into(),
            "take `location`, reloads and forms that submit themselves out of it: a document is \
             printed where it stands",
        )
    }

    /// More frames came to their documents than are watched.
    pub(super) fn too_many_frames() -> Self {
        Self::broken(
            Class::Document,
            "too_many_frames",
            "the document's frames went from place to place more than 1024 times".into(),
            "put what the frames hold into the document itself",
        )
    }

    /// The whole browser is gone.
    pub(crate) fn browser_died() -> Self {
        Self::browser_died_of(None)
    }

    /// The same, with the reason where a person should know it.
    pub(crate) fn browser_died_of(reason: Option<&CloseReason>) -> Self {
        let why = match reason {
            Some(reason @ CloseReason::Malformed(_)) => format!(": {reason}"),
            _ => String::new(),
        };
        Self::broken(
            Class::Interrupted,
            crate::failure::BROWSER_DIED,
            format!("the browser died while the document was being rendered{why}"),
            "nothing: the job runs again in a new browser",
        )
    }

    /// What a failed call means for a job that was given `allowed` time.
    pub(crate) fn from_cdp(error: &CdpError, allowed: Duration) -> Self {
        match error {
            CdpError::Timeout { .. } => Self::timed_out(allowed),
            CdpError::Oversized { method: "Page.printToPDF", limit } => Self::broken(
                Class::Input,
                "pdf_too_large",
                format!("the PDF has more than the {limit} bytes that are read from Chromium"),
                "use smaller images and fewer filters and shadows, split the document, or raise \
                 renderer.max_pdf",
            ),
            CdpError::Oversized { limit, .. } => Self::broken(
                Class::Document,
                "page_too_loud",
                format!("the document's page told of more than {limit} bytes at once"),
                "make the addresses, strings and request bodies in the document smaller",
            ),
            CdpError::Closed { reason, .. } => Self::browser_died_of(Some(reason)),
            CdpError::Untrusted { .. } => Self::broken(
                Class::Renderer,
                "renderer_untrusted",
                "the renderer did not keep to the protocol while it worked on the document, and \
                 was given up"
                    .into(),
                "try again; if it happens again, the document may be an attack: keep it, and report \
                 it with the version of Chromium that `tillroll doctor` prints",
            ),
            CdpError::Crashed { .. } => Self::broken(
                Class::Renderer,
                "renderer_crashed",
                "the renderer died while it worked on the document".into(),
                "try again; if it dies again, make the document smaller or simpler",
            ),
            CdpError::TooLarge { bytes, limit, .. } => Self::by_job(
                Class::Input,
                "document_too_large",
                format!(
                    "the document takes {bytes} bytes on its way to Chromium, the limit is {limit}"
                ),
                "make the document or its inline images smaller",
            ),
            CdpError::Refused { message, .. } => Self::refused(message, error),
            CdpError::Malformed { .. } => Self::broken(
                Class::Bug,
                "protocol",
                error.to_string(),
                "report this with the version of Chromium that `tillroll doctor` prints",
            ),
        }
    }

    fn refused(message: &str, error: &CdpError) -> Self {
        if message.contains("content area is empty") {
            return Self::margin_too_large();
        }
        if message.contains("Page range") {
            return Self::by_job(
                Class::Document,
                "page_range",
                "`pages` asks for pages that the document does not have".into(),
                "ask for pages that are there, or leave `pages` out",
            );
        }
        if message.contains("Printing failed") || message.contains("already being printed") {
            return Self::broken(
                Class::Renderer,
                "print_failed",
                "Chromium could not print the document; most often it ran out of memory".into(),
                "try again; if it fails again, make the document smaller or simpler",
            );
        }
        Self::broken(
            Class::Renderer,
            "renderer_refused",
            error.to_string(),
            "try again; if it fails again, report it with the version of Chromium that \
             `tillroll doctor` prints",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> Failed {
        let error = CdpError::Refused {
            method: "Page.printToPDF",
            code: -32000,
            message: message.to_owned(),
        };
        Failed::from_cdp(&error, Duration::from_secs(1))
    }

    #[test]
    fn chromiums_words_have_their_codes() {
        for (message, class, code, sound) in [
            ("Page range exceeds page count", Class::Document, "page_range", true),
            ("Page range syntax error", Class::Document, "page_range", true),
            (
                "invalid print parameters: content area is empty",
                Class::Document,
                "margin_too_large",
                true,
            ),
            ("Printing failed", Class::Renderer, "print_failed", false),
            ("Page is already being printed", Class::Renderer, "print_failed", false),
            ("something new", Class::Renderer, "renderer_refused", false),
        ] {
            let failed = refused(message);
            assert_eq!((failed.failure.class, failed.failure.code), (class, code), "{message}");
            assert_eq!(failed.page_is_sound, sound, "{message}");
            assert!(!failed.failure.remedy.is_empty());
        }
    }

    #[test]
    fn only_known_names_of_errors_are_told() {
        let wait_for = WaitFor::Expression("x".into());
        let told = |error| {
            Failed::wait_for_unmet(&wait_for, Duration::from_secs(5), error).failure.message
        };
        assert!(
            told(Some("TypeError"))
                .ends_with("5000 ms of the document's time; it threw a TypeError last")
        );
        assert!(told(Some("Total 12.00 for M. Moreau")).ends_with("time"));
    }

    #[test]
    fn scripts_are_blamed_for_time_and_nothing_else() {
        let allowed = Duration::from_secs(1);
        assert_eq!(Failed::timed_out(allowed).of_script(allowed).failure.code, "script_timeout");
        assert_eq!(Failed::browser_died().of_script(allowed).failure.code, "browser_died");
    }

    #[test]
    fn what_is_too_large_is_the_documents_own_fault() {
        for (method, class, code) in [
            ("Page.printToPDF", Class::Input, "pdf_too_large"),
            ("Runtime.evaluate", Class::Document, "page_too_loud"),
        ] {
            let failed =
                Failed::from_cdp(&CdpError::Oversized { method, limit: 9 }, Duration::ZERO);
            assert_eq!((failed.failure.class, failed.failure.code), (class, code));
            assert!(!failed.page_is_sound);
        }
    }

    #[test]
    fn who_does_not_keep_to_the_protocol_is_told() {
        let closed =
            |reason| Failed::from_cdp(&CdpError::Closed { method: "x", reason }, Duration::ZERO);
        let garbled = closed(CloseReason::Malformed("it is no JSON"));
        assert_eq!(garbled.failure.code, crate::failure::BROWSER_DIED);
        assert_eq!(garbled.failure.class, Class::Interrupted, "the job is not to blame");
        assert!(garbled.failure.message.ends_with("not a protocol message: it is no JSON"));
        assert_eq!(closed(CloseReason::EndOfFile), Failed::browser_died());
        let untrusted = Failed::from_cdp(&CdpError::Untrusted { method: "x" }, Duration::ZERO);
        assert_eq!(untrusted.failure.code, "renderer_untrusted");
        assert!(untrusted.failure.class == Class::Renderer && !untrusted.page_is_sound);
    }

    #[test]
    fn a_timeout_says_how_long_it_waited() {
        let error = CdpError::Timeout { method: "x", after: Duration::from_millis(3) };
        let failed = Failed::from_cdp(&error, Duration::from_millis(250));
        assert_eq!(failed.failure.code, "render_timeout");
        assert!(failed.failure.message.contains("250 ms"), "{}", failed.failure.message);
        assert!(!failed.page_is_sound);
    }
}
