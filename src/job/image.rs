//! How large an image is, from its header. Pure.
//!
//! A file of a few kilobytes may decode to gigabytes, so what it will take is
//! told before anything decodes it. The file's own marks decide, whatever its
//! name or media type says. A header that a browser would not read either says
//! nothing: such a file shows nothing.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// How much of an inlined file is looked at: a JPEG's size may follow a preview
/// picture and a colour profile.
const HEAD: usize = 256 * 1024;
/// An AVIF's boxes with its size stand before the pictures themselves.
const AVIF_HEAD: usize = 64 * 1024;

/// As browsers read it: padding or not, bits left over or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Width times height of a PNG, JPEG, GIF, WebP, AVIF or BMP; `None` for
/// anything else, such as SVG, and where the header does not say.
#[must_use]
pub fn pixels(file: &[u8]) -> Option<u64> {
    let (width, height) = size(file)?;
    Some(u64::from(width).saturating_mul(u64::from(height)))
}

/// Width and height, of which one may be 0; `None` where [`pixels`] is. Takes time
/// for the headers alone, which may be all of the file.
#[must_use]
pub fn size(file: &[u8]) -> Option<(u32, u32)> {
    match file {
        // The first chunk is the header, or it is no PNG.
        [0x89, b'P', b'N', b'G', ..] if file.get(12..16) == Some(b"IHDR") => {
            Some((be32(file, 16)?, be32(file, 20)?))
        }
        [b'G', b'I', b'F', b'8', ..] => Some((le16(file, 6)?, le16(file, 8)?)),
        [0xff, 0xd8, ..] => jpeg(file),
        [b'R', b'I', b'F', b'F', ..] if file.get(8..12) == Some(b"WEBP") => webp(file),
        [b'B', b'M', ..] => Some((le_magnitude(file, 18)?, le_magnitude(file, 22)?)),
        _ if file.get(4..8) == Some(b"ftyp") => avif(file),
        _ => None,
    }
}

/// The pixels of all images in `data:` URLs of a document or style sheet
/// together, as far as they can be told without parsing it: one that is spelt
/// with character references is not found.
#[must_use]
pub fn inline_pixels(text: &str) -> u64 {
    const SCHEME: &[u8] = b"data:";
    let bytes = text.as_bytes();
    let mut sum: u64 = 0;
    let mut at = 0;
    while let Some(colon) = bytes[at..].iter().position(|b| *b == b':') {
        let after = at + colon + 1;
        at = after;
        let is_data = after
            .checked_sub(SCHEME.len())
            .is_some_and(|start| bytes[start..after].eq_ignore_ascii_case(SCHEME));
        if !is_data {
            continue;
        }
        let url = &bytes[after..];
        let end = url.iter().position(|b| matches!(b, b'"' | b'\'' | b')' | b'<' | b'>'));
        let url = &url[..end.unwrap_or(url.len())];
        // Behind its end in any case, else a document of nothing but `data:` would be
        // looked through once for each.
        at = after + url.len();
        let Some(comma) = url.iter().position(|b| *b == b',') else { continue };
        let (kind, body) = (&url[..comma], &url[comma + 1..]);
        sum = sum.saturating_add(pixels(&decoded(kind, body)).unwrap_or(0));
    }
    sum
}

/// The beginning of what a `data:` URL holds.
fn decoded(kind: &[u8], body: &[u8]) -> Vec<u8> {
    let unescaped = unescape(&body[..body.len().min(2 * HEAD)]);
    let is_base64 = kind.len() >= 7 && kind[kind.len() - 7..].eq_ignore_ascii_case(b";base64");
    if !is_base64 {
        return unescaped;
    }
    let symbols: Vec<u8> = unescaped.into_iter().filter(|b| !b.is_ascii_whitespace()).collect();
    let whole = symbols.len().min(HEAD) / 4 * 4;
    let head =
        if whole < symbols.len() && symbols.len() > HEAD { &symbols[..whole] } else { &symbols };
    BASE64.decode(head).unwrap_or_else(|_| {
        // What is wrong may stand behind the header.
        BASE64.decode(&head[..head.len().min(64) / 4 * 4]).unwrap_or_default()
    })
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Walks the segments to the frame header.
fn jpeg(file: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        // Any number of fill bytes may stand before a marker.
        while *file.get(at)? == 0xff {
            at += 1;
        }
        let marker = *file.get(at)?;
        at += 1;
        match marker {
            // No segment follows these.
            0x01 | 0xd0..=0xd9 => {}
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be16(file, at + 5)?, be16(file, at + 3)?));
            }
            // The picture itself begins without a frame header.
            0xda => return None,
            _ => at = at.checked_add(usize::try_from(be16(file, at)?).ok()?)?,
        }
        if *file.get(at)? != 0xff {
            return None;
        }
    }
}

fn webp(file: &[u8]) -> Option<(u32, u32)> {
    match file.get(12..16)? {
        b"VP8X" => Some((le24(file, 24)? + 1, le24(file, 27)? + 1)),
        b"VP8 " if file.get(23..26) == Some(b"\x9d\x01\x2a") => {
            Some((le16(file, 26)? & 0x3fff, le16(file, 28)? & 0x3fff))
        }
        b"VP8L" if file.get(20) == Some(&0x2f) => {
            let bits = u32::from_le_bytes(file.get(21..25)?.try_into().ok()?);
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        _ => None,
    }
}

/// The largest of the sizes that its boxes name.
fn avif(file: &[u8]) -> Option<(u32, u32)> {
    let head = file.get(..AVIF_HEAD).unwrap_or(file);
    let sizes = head.windows(4).enumerate().filter(|(_, word)| word == b"ispe");
    let sizes = sizes.filter_map(|(at, _)| Some((be32(file, at + 8)?, be32(file, at + 12)?)));
    sizes.max_by_key(|(width, height)| u64::from(*width).saturating_mul(u64::from(*height)))
}

fn be32(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?))
}

/// A signed number of a BMP, without its sign.
fn le_magnitude(file: &[u8], at: usize) -> Option<u32> {
    Some(i32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?).unsigned_abs())
}

fn be16(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(file.get(at..at + 2)?.try_into().ok()?)))
}

fn le16(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?)))
}

fn le24(file: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = file.get(at..at + 3)?.try_into().ok()?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        file.extend_from_slice(&width.to_be_bytes());
        file.extend_from_slice(&height.to_be_bytes());
        file.extend_from_slice(&[8, 2, 0, 0, 0]);
        file
    }

    fn jpeg_after(segments: &[(u8, usize)]) -> Vec<u8> {
        let mut file = vec![0xff, 0xd8];
        for (marker, length) in segments {
            file.extend_from_slice(&[0xff, *marker]);
            file.extend_from_slice(&u16::try_from(*length).unwrap().to_be_bytes());
            file.resize(file.len() + length - 2, 0x20);
        }
        file.extend_from_slice(&[0xff, 0xff, 0xc2, 0, 17, 8, 0x0b, 0xb8, 0x0f, 0xa0, 3]);
        file
    }

    #[test]
    fn beginnings_without_end_are_looked_at_once() {
        assert_eq!(inline_pixels(&"data:".repeat(1_500_000)), 0);
    }

    #[test]
    fn every_format_says_its_size() {
        let riff = |kind: &[u8], rest: &[u8]| [b"RIFF\0\0\0\0WEBP", kind, rest].concat();
        let bmp = |height: i32| {
            let mut file = b"BM".to_vec();
            file.resize(18, 0);
            file.extend_from_slice(&640i32.to_le_bytes());
            file.extend_from_slice(&height.to_le_bytes());
            file
        };
        let mut avif = b"\0\0\0\x1cftypavif".to_vec();
        for (width, height) in [(16u32, 16u32), (500, 300)] {
            avif.extend_from_slice(b"\0\0\0\x14ispe\0\0\0\0");
            avif.extend_from_slice(&[width.to_be_bytes(), height.to_be_bytes()].concat());
        }
        for (name, file, want) in [
            ("png", png(50_000, 50_000), 2_500_000_000),
            ("gif", b"GIF89a\x10\x27\x20\x4e".to_vec(), 200_000_000),
            ("jpeg", jpeg_after(&[(0xe0, 16)]), 12_000_000),
            ("jpeg with a preview", jpeg_after(&[(0xe1, 65_000), (0xe2, 60_000)]), 12_000_000),
            ("webp x", riff(b"VP8X", &[0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 19, 0, 0]), 200),
            ("webp lossy", riff(b"VP8 ", b"\0\0\0\0\0\0\0\x9d\x01\x2a\x0a\x40\x14\x80"), 200),
            ("webp lossless", riff(b"VP8L", b"\0\0\0\0\x2f\x09\xc0\x04\x00"), 200),
            ("bmp upside down", bmp(-480), 640 * 480),
            ("avif", avif, 150_000),
        ] {
            assert_eq!(pixels(&file), Some(want), "{name}");
        }
        let no_header = [&png(5, 5)[..12], b"IDAT", &png(5, 5)[16..]].concat();
        for other in [
            &b"<svg/>"[..],
            b"",
            b"\x89PNG",
            b"\xff\xd8\xff\xda\0\0",
            b"RIFF1234WAVE",
            &riff(b"VP8 ", &[7; 20]),
            &riff(b"VP8L", &[7; 20]),
            &no_header,
        ] {
            assert_eq!(size(other), None, "{other:?}");
        }
        assert_eq!(size(&png(3, 0)), Some((3, 0)));
    }

    /// A photograph from a printing house: its profile alone is longer than what is
    /// looked at of an inlined one.
    #[test]
    fn a_size_behind_long_segments_is_found() {
        let file = jpeg_after(&[(0xe2, 65_000); 9]);
        assert!(file.len() > 2 * HEAD);
        assert_eq!(pixels(&file), Some(12_000_000));
    }

    #[test]
    fn images_in_a_document_are_summed_however_their_urls_are_spelt() {
        let body = STANDARD.encode(png(1000, 1000));
        let wrapped: String = body.chars().flat_map(|c| [c, '\n']).collect();
        let escaped: String = png(1000, 1000).iter().map(|b| format!("%{b:02x}")).collect();
        for (html, want) in [
            (format!("<img src=\"data:image/png;base64,{body}\">"), 1),
            (format!("<img src='DATA:image/png;name=x;BASE64,{wrapped}'>"), 1),
            (format!("<p style=background:url(data:,{escaped})>"), 1),
            (
                format!(
                    "<img src='data:image/gif;base64,{body}'><i data:><img src='data:;base64,{body}'>"
                ),
                2,
            ),
            (format!("<img src='data:image/png;base64,{}!!'>", &body[..36]), 1),
            ("data: data:, data:;base64, the data:".into(), 0),
        ] {
            assert_eq!(inline_pixels(&html), want * 1_000_000, "{html}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(
            start in proptest::sample::select(vec![
                &b""[..], b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"\0\0\0\0ftyp", b"GIF8", b"BM", b"\x89PNG",
            ]),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            proptest::prop_assert_ne!(pixels(&[start, &rest].concat()), Some(u64::MAX));
        }

        #[test]
        fn any_text_is_survived(text in "(data:|;base64|,|%|[a-z0-9]{0,9}|\"|é){0,20}") {
            proptest::prop_assert_eq!(inline_pixels(&text), 0);
        }

        #[test]
        fn a_jpegs_size_is_found_behind_any_segments(
            lengths in proptest::collection::vec(2usize..5000, 0..12),
        ) {
            let segments: Vec<(u8, usize)> = lengths.into_iter().map(|l| (0xe1, l)).collect();
            proptest::prop_assert_eq!(pixels(&jpeg_after(&segments)), Some(12_000_000));
        }
    }

    #[test]
    #[allow(clippy::disallowed_types, reason = "it is real time that must not be lost")]
    fn a_document_of_nothing_but_schemes_is_looked_through_once() {
        let html = "data:".repeat(1_600_000);
        let began = std::time::Instant::now();
        assert_eq!(inline_pixels(&html), 0);
        // It took hours.
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }
}
