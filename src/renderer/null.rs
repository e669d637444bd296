//! The renderer that renders nothing: it answers every document with the same
//! one page, without any Chromium, for tests of other programs and for
//! measuring the queue alone.
//!
//! The page goes through the same finishing as a printed one, so the job's
//! `info` and date are in the file, and the same job gives the same bytes.
//! Nobody can take it for a receipt: the page says what it is, every PDF
//! carries the warning `null_renderer`, and so do log and status.

use time::OffsetDateTime;
use tokio::sync::watch;

use super::pdf::{Document, Finished, Malformed, Stamp};
use super::{Readiness, Render, RenderFuture, RenderRequest, Rendered, Warning};
use crate::failure::{Class, Failure};
use crate::job::RenderOptions;

/// What is shown wherever somebody might take the page for a receipt.
pub const NOTICE: &str = "the null renderer answers every document with the same page";
/// What to do about it.
pub const REMEDY: &str = "start the worker without --renderer null (renderer.kind = \"chromium\")";

/// 80 by 40 mm, in points.
const SIZE: (f64, Option<f64>) = (226.772, Some(113.386));
const PAGE: &str = "BT /F1 11 Tf 12 84 Td (Tillroll) Tj 0 -20 Td (This page was made by the) Tj \
                    0 -16 Td (null renderer: it is no receipt.) Tj ET";

/// See the module.
#[derive(Debug)]
pub struct Null {
    page: Vec<u8>,
    readiness: watch::Sender<Readiness>,
}

impl Default for Null {
    fn default() -> Self {
        Self::new()
    }
}

impl Null {
    /// Makes the page, once.
    #[must_use]
    pub fn new() -> Self {
        Self { page: page(), readiness: watch::Sender::new(Ok(())) }
    }

    fn finished(
        &self,
        options: &RenderOptions,
        date: OffsetDateTime,
    ) -> Result<Finished, Malformed> {
        Document::read(&self.page)?.finish(&Stamp { info: &options.info, date, size: SIZE })
    }
}

impl Render for Null {
    fn render(&self, request: RenderRequest) -> RenderFuture<'_> {
        Box::pin(async move {
            let finished = self.finished(&request.options, request.date);
            let Finished { pdf, sha256 } = finished.map_err(|error| {
                Failure::new(Class::Bug, "pdf_malformed", error.to_string(), "please report this")
            })?;
            let warning = Warning {
                code: "null_renderer",
                message: NOTICE.to_owned(),
                remedy: REMEDY.to_owned(),
            };
            Ok(Rendered { pdf, sha256: Some(sha256), pages: 1, warnings: vec![warning] })
        })
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    fn kind(&self) -> &'static str {
        "null"
    }
}

/// One page, in the form that [`Document`] reads.
fn page() -> Vec<u8> {
    let (width, height) = (SIZE.0, SIZE.1.unwrap_or(SIZE.0));
    let objects = [
        "<</Title (Tillroll null renderer)\n/Creator (Tillroll)>>".to_owned(),
        format!("<</Length {}>> stream\n{PAGE}\nendstream", PAGE.len()),
        "<</Type /Font\n/Subtype /Type1\n/BaseFont /Helvetica>>".to_owned(),
        format!(
            "<</Type /Page\n/Resources <</ProcSet [/PDF /Text]\n/Font <</F1 3 0 R>>>>\n\
             /MediaBox [0 0 {width} {height}]\n/Contents 2 0 R\n/Parent 5 0 R>>"
        ),
        "<</Type /Pages\n/Count 1\n/Kids [4 0 R]>>".to_owned(),
        "<</Type /Catalog\n/Pages 5 0 R>>".to_owned(),
    ];
    let mut out = b"%PDF-1.4\n%\xd3\xeb\xe9\xe1\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in (1..).zip(&objects) {
        table.push_str(&format!("{:010} 00000 n \n", out.len()));
        out.extend_from_slice(format!("{number} 0 obj\n{object}\nendobj\n").as_bytes());
    }
    let start = out.len();
    out.extend_from_slice(table.as_bytes());
    out.extend_from_slice(
        format!(
            "trailer\n<</Size {}\n/Root 6 0 R\n/Info 1 0 R>>\nstartxref\n{start}\n%%EOF\n",
            objects.len() + 1
        )
        .as_bytes(),
    );
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::options::Info;
    use time::macros::datetime;

    async fn rendered(html: &str, title: Option<&str>) -> Rendered {
        let options = RenderOptions {
            info: Info { title: title.map(str::to_owned), ..Info::default() },
            ..RenderOptions::default()
        };
        let request = RenderRequest {
            job: 0,
            tenant: "t".into(),
            rules: crate::job::Rules::default(),
            html: html.into(),
            assets: Arc::default(),
            options: Arc::new(options),
            date: datetime!(2026-03-31 12:00:05 UTC),
        };
        Null::new().render(request).await.unwrap()
    }

    #[tokio::test]
    async fn every_document_becomes_the_same_page_that_says_what_it_is() {
        let one = rendered("<p>one", None).await;
        assert_eq!(one.pdf, rendered("<p>two", None).await.pdf);
        assert_eq!(one.warnings[0].code, "null_renderer");
        let document = Document::read(&one.pdf).unwrap();
        assert_eq!(document.pages().len(), 1);
        assert_eq!(document.pages()[0].media_box, [0.0, 0.0, 226.772, 113.386]);
        let text = String::from_utf8_lossy(&one.pdf);
        assert!(text.contains("it is no receipt"));
        assert!(text.contains("/Title (Tillroll null renderer)"));
    }

    #[tokio::test]
    async fn title_and_date_are_the_jobs() {
        let text = String::from_utf8_lossy(&rendered("<p>", Some("Bill")).await.pdf).into_owned();
        assert!(text.contains("/Title (Bill)"), "{text}");
        assert!(text.contains("(D:20260331120005+00'00')"), "{text}");
    }
}
