//! What one document may ask for, whatever memory there is. Pure.
//!
//! Bombs are small: a megabyte of tags, a picture of a few kilobytes that decodes
//! to gigabytes, a box of ten million pixels' height. What can be told from the
//! document is told before anything renders it ([`Limits::check`]: some
//! microseconds for a receipt), the rest from the PDF ([`Limits::check_result`]).
//! Both are refusals of `input`: the same document would fail again.
//!
//! These are the outer bounds. Inside them memory is granted by what documents
//! are seen to take, and time by `timeout_ms`.

use super::{RenderRequest, Rendered, tags};
use crate::failure::{Class, Failure};
use crate::job::image;

/// The bounds of one document; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Tags and comments.
    pub nodes: u64,
    /// Elements within each other.
    pub depth: u64,
    /// Pixels of its images together, inlined and assets.
    pub pixels: u64,
    /// Pages of the PDF.
    pub pages: u64,
    /// Bytes of the PDF.
    pub pdf_bytes: u64,
}

impl Limits {
    /// Looks at a document with its header, footer and assets.
    ///
    /// # Errors
    /// `too_many_nodes`, `nested_too_deeply` or `images_too_large`.
    pub fn check(&self, request: &RenderRequest) -> Result<(), Failure> {
        let options = &request.options;
        let parts = [Some(&*request.html), options.header.as_deref(), options.footer.as_deref()];
        let (mut nodes, mut pixels) = (0, 0_u64);
        for text in parts.into_iter().flatten() {
            let shape = tags::shape(text, self.nodes, self.depth);
            nodes += shape.nodes;
            if over(nodes, self.nodes) {
                return Err(too_many_nodes(self.nodes));
            }
            if over(shape.depth, self.depth) {
                return Err(nested_too_deeply(self.depth));
            }
            pixels = pixels.saturating_add(image::inline_pixels(text));
        }
        for asset in request.assets.iter() {
            pixels = pixels.saturating_add(image::pixels(&asset.bytes).unwrap_or(0));
            if asset.media_type == "text/css" || asset.media_type == "image/svg+xml" {
                let text = String::from_utf8_lossy(&asset.bytes);
                pixels = pixels.saturating_add(image::inline_pixels(&text));
            }
        }
        if over(pixels, self.pixels) {
            return Err(images_too_large(pixels, self.pixels));
        }
        Ok(())
    }

    /// Looks at what became of it.
    ///
    /// # Errors
    /// `too_many_pages` or `pdf_too_large`.
    pub fn check_result(&self, rendered: &Rendered) -> Result<(), Failure> {
        if over(u64::from(rendered.pages), self.pages) {
            return Err(too_many_pages(self.pages));
        }
        let bytes = rendered.pdf.len() as u64;
        if over(bytes, self.pdf_bytes) {
            return Err(pdf_too_large(bytes, self.pdf_bytes));
        }
        Ok(())
    }

    /// The pages to ask Chromium for where the job asks for all: one more than
    /// allowed, so that a page bomb is not printed to its end and is seen to be
    /// one; `None` where there is no limit.
    #[must_use]
    pub fn page_range(&self) -> Option<String> {
        (self.pages > 0).then(|| format!("1-{}", self.pages.saturating_add(1)))
    }
}

fn over(found: u64, limit: u64) -> bool {
    limit > 0 && found > limit
}

fn too_many_nodes(limit: u64) -> Failure {
    Failure::new(
        Class::Input,
        "too_many_nodes",
        format!("the document has more than {limit} tags"),
        "split it, or raise renderer.max_nodes",
    )
}

fn nested_too_deeply(limit: u64) -> Failure {
    Failure::new(
        Class::Input,
        "nested_too_deeply",
        format!("elements of the document are nested more than {limit} deep"),
        "close what is opened, or raise renderer.max_depth (Chromium itself nests 512 deep at most)",
    )
}

fn images_too_large(pixels: u64, limit: u64) -> Failure {
    Failure::new(
        Class::Input,
        "images_too_large",
        format!("the document's images have {pixels} pixels together, {limit} are allowed"),
        "send images in the size in which they are printed (300 pixels an inch), or raise \
         renderer.max_pixels",
    )
}

pub(super) fn too_many_pages(limit: u64) -> Failure {
    Failure::new(
        Class::Input,
        "too_many_pages",
        format!("the document fills more than {limit} pages"),
        "look for heights that were not meant, split it, ask for some `pages`, or raise \
         renderer.max_pages",
    )
}

fn pdf_too_large(bytes: u64, limit: u64) -> Failure {
    Failure::new(
        Class::Input,
        "pdf_too_large",
        format!("the PDF has {bytes} bytes, {limit} are allowed"),
        "use smaller images and fewer filters and shadows, split the document, or raise \
         renderer.max_pdf",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::macros::datetime;

    use super::*;
    use crate::job::{Asset, RenderOptions};

    const LIMITS: Limits = Limits { nodes: 10, depth: 3, pixels: 100, pages: 2, pdf_bytes: 9 };

    fn request(
        html: &str,
        header: Option<&str>,
        assets: &[(&'static str, Vec<u8>)],
    ) -> RenderRequest {
        let asset = |(media_type, bytes): &(&'static str, Vec<u8>)| Asset {
            name: "a".to_owned(),
            media_type,
            bytes: bytes.clone().into(),
        };
        RenderRequest {
            job: 0,
            tenant: "shop".into(),
            html: html.into(),
            rules: crate::job::Rules::default(),
            assets: assets.iter().map(asset).collect(),
            options: Arc::new(RenderOptions {
                header: header.map(str::to_owned),
                ..RenderOptions::default()
            }),
            date: datetime!(2026-01-02 3:04 UTC),
        }
    }

    fn gif(side: u8) -> Vec<u8> {
        vec![b'G', b'I', b'F', b'8', b'9', b'a', side, 0, side, 0]
    }

    fn code(limits: Limits, request: &RenderRequest) -> &'static str {
        limits.check(request).map_or_else(|failure| failure.code, |()| "ok")
    }

    #[test]
    fn every_limit_has_its_code_and_names_its_key() {
        let css = b"p{background:url(data:image/gif;base64,R0lGODlhCwALAA==)}".to_vec();
        for (request, want) in [
            (request(&"<br>".repeat(10), None, &[]), "ok"),
            (request(&"<br>".repeat(11), None, &[]), "too_many_nodes"),
            (request(&"<br>".repeat(6), Some(&"<br>".repeat(5)), &[]), "too_many_nodes"),
            (request("<b><b><b>", None, &[]), "ok"),
            (request("<b><b><b><b>", None, &[]), "nested_too_deeply"),
            (request("x", None, &[("image/gif", gif(10))]), "ok"),
            (request("x", None, &[("image/gif", gif(11))]), "images_too_large"),
            (
                request("x", None, &[("image/png", gif(8)), ("image/gif", gif(8))]),
                "images_too_large",
            ),
            (request("x", None, &[("text/css", css.clone())]), "images_too_large"),
            (
                request(&format!("<style>{}", String::from_utf8(css).unwrap()), None, &[]),
                "images_too_large",
            ),
        ] {
            assert_eq!(code(LIMITS, &request), want, "{}", request.html);
            assert_eq!(code(Limits::default(), &request), "ok");
        }
        let rendered = |pages, bytes| Rendered {
            sha256: None,
            pdf: vec![0; bytes],
            pages,
            warnings: Vec::new(),
        };
        for (rendered, want) in [
            (rendered(2, 9), "ok"),
            (rendered(3, 9), "too_many_pages"),
            (rendered(2, 10), "pdf_too_large"),
        ] {
            let found =
                LIMITS.check_result(&rendered).map_or_else(|failure| failure.code, |()| "ok");
            assert_eq!(found, want);
            assert!(Limits::default().check_result(&rendered).is_ok());
        }
        assert_eq!(LIMITS.page_range().unwrap(), "1-3");
        assert_eq!(Limits::default().page_range(), None);
    }
}
