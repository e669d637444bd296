//! What can be told about a document's footprint before it is rendered. Pure.
//!
//! The bytes of a document say little: an image inlined as a data: URL costs its
//! pixels, a table row costs a thousand times its markup. So both are counted
//! apart, in one pass, without parsing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

const MIB: u64 = 1 << 20;
/// What a warm page takes with the smallest receipt.
pub const RECEIPT: u64 = 64 * MIB;
/// What a page takes before its document.
const PAGE: u64 = 40 * MIB;
/// Markup up to this takes 1 MB a KB (measured: 1,000 table rows, 128 KB, 156 MB).
const LIGHT: u64 = 128 << 10;
/// Markup of this takes 1.6 MB a KB (measured: 5,000 rows, 640 KB, 1,050 MB).
const HEAVY: u64 = 640 << 10;
/// What a fresh context with scripts takes more.
const SCRIPTS: u64 = 48 * MIB;
/// Pixels of an image whose size cannot be read: bytes of its file times this.
const DECODED: u64 = 12;
/// What a PDF has beside its text and images: fonts.
const FONTS: u64 = 256 << 10;
/// A tagged PDF of a table has so many times the bytes of its markup (measured: 15 KB, 182 KB).
const PRINTED: u64 = 12;
/// An image's file grows at most by so much in a PDF, mostly.
const EMBEDDED: u64 = 3;
/// Characters of a data: URL that are looked at for the image's size.
const HEAD: usize = 64;

/// What was counted in a document and its assets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Bytes of markup, without data: URLs.
    pub markup: u64,
    /// Bytes that its images take when they are decoded, as far as can be told.
    pub images: u64,
    /// Whether its scripts run.
    pub scripts: bool,
}

impl Features {
    /// Counts in a document; add its assets with [`Self::with_image`].
    #[must_use]
    pub fn of(html: &str, scripts: bool) -> Self {
        let mut features = Self { markup: html.len() as u64, images: 0, scripts };
        let bytes = html.as_bytes();
        let mut rest = 0;
        while let Some(at) = find(&bytes[rest..], b"data:") {
            let start = rest + at;
            let end = start
                + bytes[start..].iter().position(|b| ends_url(*b)).unwrap_or(bytes.len() - start);
            rest = end.max(start + 5);
            let url = &bytes[start..end];
            let Some(comma) = url.iter().position(|b| *b == b',') else { continue };
            features.markup -= url.len() as u64;
            let (kind, body) = url.split_at(comma);
            let body = &body[1..];
            if find(kind, b"image/svg").is_some() {
                // Markup in disguise; base64 makes four bytes of three.
                features.markup += body.len() as u64 * 3 / 4;
            } else if find(kind, b"image/").is_some() {
                features.images = features.images.saturating_add(decoded_data(body));
            }
        }
        features
    }

    /// Adds an image that travels beside the document.
    #[must_use]
    pub fn with_image(mut self, file: &[u8]) -> Self {
        self.images = self.images.saturating_add(decoded(file, file.len() as u64));
        self
    }

    /// Bytes to expect of the PDF of a kind of document that was never seen, where document
    /// and assets have `brought` bytes together.
    #[must_use]
    pub fn printed(&self, brought: u64) -> u64 {
        let files = brought.saturating_sub(self.markup).saturating_mul(EMBEDDED);
        FONTS.saturating_add(self.markup.saturating_mul(PRINTED)).saturating_add(files)
    }

    /// The footprint to expect of a kind of document that was never seen, in bytes.
    #[must_use]
    pub fn prior(&self) -> u64 {
        let scripts = if self.scripts { SCRIPTS } else { 0 };
        let markup = PAGE.saturating_add(of_markup(self.markup)).max(RECEIPT);
        markup.saturating_add(self.images).saturating_add(scripts)
    }
}

/// 1,000 times the markup up to [`LIGHT`], rising evenly to 1,600 times at
/// [`HEAVY`] and on with that slope to 4,000 times.
fn of_markup(bytes: u64) -> u64 {
    let above = bytes.saturating_sub(LIGHT);
    let times = 1000 + (above.saturating_mul(600) / (HEAVY - LIGHT)).min(3000);
    bytes.saturating_mul(times)
}

fn ends_url(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b')' | b'<' | b'>')
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    let first = *word.first()?;
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|b| *b == first) {
        if text[from + at..].starts_with(word) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn decoded_data(body: &[u8]) -> u64 {
    let head = &body[..body.len().min(HEAD) / 4 * 4];
    let file = STANDARD_NO_PAD.decode(head).unwrap_or_default();
    decoded(&file, body.len() as u64 * 3 / 4)
}

/// Bytes of an image's pixels, from the first bytes of its file where they say
/// its size (PNG, GIF), else from the length of the file.
fn decoded(head: &[u8], length: u64) -> u64 {
    let pixels = match head {
        [
            0x89,
            b'P',
            b'N',
            b'G',
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            b'I',
            b'H',
            b'D',
            b'R',
            w0,
            w1,
            w2,
            w3,
            h0,
            h1,
            h2,
            h3,
            ..,
        ] => {
            let width = u32::from_be_bytes([*w0, *w1, *w2, *w3]);
            let height = u32::from_be_bytes([*h0, *h1, *h2, *h3]);
            Some(u64::from(width).saturating_mul(u64::from(height)))
        }
        [b'G', b'I', b'F', b'8', _, _, w0, w1, h0, h1, ..] => {
            let width = u16::from_le_bytes([*w0, *w1]);
            let height = u16::from_le_bytes([*h0, *h1]);
            Some(u64::from(width) * u64::from(height))
        }
        _ => None,
    };
    // The file itself stays in memory beside its pixels.
    let pixels = pixels.map_or(length.saturating_mul(DECODED), |pixels| pixels.saturating_mul(4));
    pixels.saturating_add(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prior_follows_what_was_measured() {
        let prior = |kb: u64| Features { markup: kb << 10, ..Features::default() }.prior() / MIB;
        assert_eq!(prior(3), 64);
        assert!((156..=190).contains(&prior(128)), "{} MiB", prior(128));
        assert!((1000..=1150).contains(&prior(640)), "{} MiB", prior(640));
        assert!(prior(2600) > 8000);
        assert!(Features { markup: u64::MAX, images: u64::MAX, scripts: true }.prior() > 0);
    }

    #[test]
    fn a_pdf_is_expected_to_be_larger_than_what_was_measured() {
        // The invoice, tagged; 1,000 rows; a photo beside a receipt.
        for (markup, brought, measured) in
            [(15 << 10, 15 << 10, 182 << 10), (128 << 10, 128 << 10, MIB), (4_000, MIB, MIB)]
        {
            let printed = Features { markup, ..Features::default() }.printed(brought);
            assert!(printed > measured && printed < 4 * MIB, "{markup} {brought}: {printed}");
        }
        let most = Features { markup: u64::MAX, ..Features::default() };
        assert_eq!(most.printed(u64::MAX), u64::MAX);
    }

    #[test]
    fn inlined_images_count_by_their_pixels_and_not_as_markup() {
        // The first bytes of a PNG of 1000 × 500 pixels, then 4,000 characters.
        let mut head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x03\xe8\0\0\x01\xf4\x08\x06".to_vec();
        head.resize(3000, 0);
        let body = base64::engine::general_purpose::STANDARD.encode(&head);
        let html = format!("<p>one</p><img src=\"data:image/png;base64,{body}\"><p>two</p>");
        let features = Features::of(&html, false);
        assert_eq!(features.markup, "<p>one</p><img src=\"\"><p>two</p>".len() as u64);
        assert_eq!(features.images, 1000 * 500 * 4 + 3000);
        assert_eq!(Features::default().with_image(&head).images, features.images);
    }

    #[test]
    fn an_image_bomb_is_seen_in_its_head() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend_from_slice(&50_000u32.to_be_bytes());
        png.extend_from_slice(&50_000u32.to_be_bytes());
        assert!(Features::default().with_image(&png).prior() > 9_000 * MIB);
    }

    #[test]
    fn several_bombs_do_not_add_up_to_a_small_number() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend_from_slice(&[0xff; 8]);
        let body = base64::engine::general_purpose::STANDARD.encode(&png);
        let html = format!("<img src='data:image/png;base64,{body}'>").repeat(3);
        assert_eq!(Features::of(&html, false).images, u64::MAX);
    }

    #[test]
    fn other_data_urls_are_neither_markup_nor_images() {
        let font = "A".repeat(40_000);
        let html = format!("<style>@font-face{{src:url(data:font/woff2;base64,{font})}}</style>");
        let features = Features::of(&html, false);
        assert!(features.markup < 60 && features.images == 0, "{features:?}");
        let svg = format!("<img src='data:image/svg+xml;base64,{}'>", "A".repeat(4_000));
        assert!((3_000..3_100).contains(&Features::of(&svg, false).markup));
    }

    #[test]
    fn text_that_only_looks_like_a_data_url_stays_markup() {
        for html in ["data:", "the data: was lost", "data:data:", "x data:,"] {
            let features = Features::of(html, false);
            assert!(features.markup <= html.len() as u64 && features.images == 0, "{html}");
        }
        assert_eq!(Features::of("the data: was lost", false).markup, 18);
    }
}
