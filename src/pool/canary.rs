//! The canary: one document that a new browser must print before it may take the
//! place of one that works. It has what receipts have: text in a table, digits
//! and currency signs, a rule, a drawing and an image.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::OPEN_TIMEOUT;
use crate::failure::{Class, Failure};
use crate::job::length::Paper;
use crate::job::{RenderOptions, Rules};
use crate::renderer::browser::Browser;
use crate::renderer::context::ContextOptions;
use crate::renderer::limits::Limits;
use crate::renderer::page::Page;
use crate::renderer::{RenderRequest, Rendered};

/// It takes 50 ms; on a machine that is busy with receipts, some hundred.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long its context may take to be gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

const DOCUMENT: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Canary</title>\
    <style>body{font:12px sans-serif}td:last-child{text-align:right}hr{border:1px dashed}</style>\
    <h3>Canary 0123456789</h3><table><tr><td>Tea &amp; cake<td>12.50 \u{20ac}<tr><td>Total\
    <td><b>$ 25.00</b></table><hr><svg width=40 height=10><rect width=40 height=10 fill=teal>\
    </svg><img alt='' width=10 height=10 src='data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADE\
    lEQVR4nGNgaGgAAAGEAQFWjyAjAAAAAElFTkSuQmCC'>";

/// Prints it in a context of its own, with scripts' clock at `script_time`.
///
/// # Errors
/// What does not come out right.
pub(super) async fn check(
    browser: &Browser,
    script_time: Duration,
    limits: &Limits,
) -> Result<(), Failure> {
    let opened = browser.open_context(ContextOptions::default(), OPEN_TIMEOUT).await;
    let context = opened.map_err(|error| failed(&error.to_string()))?;
    let mut page = Page::of(&context, script_time);
    let rendered = page.render(&request(), limits, Instant::now() + PATIENCE).await;
    let closed = context.close(CLOSE_TIMEOUT).await;
    judge(&rendered.map_err(|failed_render| failed(&failed_render.failure.message))?)?;
    closed.map_err(|error| failed(&error.to_string()))
}

/// Prints it in a page that is to be warm, as a receipt on a roll.
///
/// # Errors
/// Where it cannot be printed.
pub(super) async fn warm_up(page: &mut Page, limits: &Limits) -> Result<(), Failure> {
    let roll = RenderOptions { paper: Paper::named("80mm"), ..RenderOptions::default() };
    let request = RenderRequest { options: Arc::new(roll), ..request() };
    let rendered = page.render(&request, limits, Instant::now() + PATIENCE).await;
    rendered.map(drop).map_err(|failed| failed.failure)
}

fn request() -> RenderRequest {
    RenderRequest {
        job: 0,
        tenant: "canary".into(),
        html: DOCUMENT.into(),
        assets: Arc::default(),
        rules: Rules::default(),
        options: Arc::new(RenderOptions::default()),
        date: OffsetDateTime::UNIX_EPOCH,
    }
}

fn judge(rendered: &Rendered) -> Result<(), Failure> {
    let has = |word: &[u8]| rendered.pdf.windows(word.len()).any(|bytes| bytes == word);
    if rendered.pages != 1 {
        return Err(failed(&format!("it has {} pages instead of one", rendered.pages)));
    }
    if let Some(warning) = rendered.warnings.first() {
        return Err(failed(&warning.message));
    }
    // Without any font the text is left out, and nothing else is wrong.
    if !has(b"/FontFile") {
        return Err(failed("its text was printed without a font"));
    }
    if !has(b"/Subtype /Image") {
        return Err(failed("its image is missing"));
    }
    Ok(())
}

fn failed(why: &str) -> Failure {
    Failure::new(
        Class::Dependency,
        "canary_failed",
        format!("a test document does not come out right: {why}"),
        "install the engine and the fonts again (fc-list shows them)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_too_many_a_warning_or_no_font_is_not_good_enough() {
        let good = Rendered {
            sha256: None,
            pdf: b"%PDF /FontFile2 /Subtype /Image".to_vec(),
            pages: 1,
            warnings: Vec::new(),
        };
        judge(&good).unwrap();
        let why = |bad: Rendered| judge(&bad).unwrap_err().message;
        assert!(why(Rendered { pages: 2, ..good.clone() }).contains("2 pages"));
        assert!(
            why(Rendered { pdf: b"/ImageB /Subtype /Image".to_vec(), ..good.clone() })
                .contains("font")
        );
        assert!(why(Rendered { pdf: b"/FontFile3 /ImageB".to_vec(), ..good }).contains("image"));
    }
}
