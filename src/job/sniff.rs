//! What a file is, by its first bytes and its name. Pure.
//!
//! An asset that stays is served to every document of its tenant, so what it says
//! of itself is looked at once, when it is stored: images and fonts by the bytes
//! that their formats begin with, SVG by its root, a style sheet by its name and
//! by being text. Whatever else there is, is refused, and so is what could show
//! nothing: an image whose header does not say how large it is, a font of which a
//! part is missing.

use super::assets::media_type_of;
use super::fields::Problem;
use super::{font, image};

/// SVG's root stands within so many bytes: comments and a doctype may come before it.
const HEAD: usize = 4096;

/// The media type of a file, where its content and its name agree.
///
/// # Errors
/// Where it is of no kind that is served, its name says another one, or it is
/// damaged.
pub fn media_type(name: &str, bytes: &[u8]) -> Result<&'static str, Problem> {
    if bytes.is_empty() {
        return Err(Problem::new(
            "asset_length",
            format!("{name} is empty"),
            "give the file that the documents are to show",
        ));
    }
    let named = media_type_of(name);
    let found = by_content(bytes).or_else(|| named.filter(|_| is_style_sheet(named, bytes)));
    match (found, named) {
        (Some(found), Some(named)) if found != named => Err(Problem::new(
            "asset_type",
            format!("{name} is {named} by its name and {found} by its content"),
            "give it the ending of what it is, here and in the documents, or convert it",
        )),
        (Some(found), _) => whole(name, bytes, found),
        (None, named) => Err(Problem::new(
            "asset_type",
            match named {
                Some(named) => format!("{name} is {named} by its name, but not by its content"),
                None => format!("{name} is no image, no font and no style sheet"),
            },
            "use PNG, JPEG, GIF, WebP, AVIF, SVG, WOFF, WOFF2, TrueType, OpenType, or UTF-8 text \
             whose name ends in .css; convert other formats first",
        )),
    }
}

/// Refuses what begins as a file of its kind and is none.
fn whole(name: &str, bytes: &[u8], media: &'static str) -> Result<&'static str, Problem> {
    let length = bytes.len();
    let what = match media {
        "image/svg+xml" | "text/css" => return Ok(media),
        _ if media.starts_with("font/") => {
            (!font::is_whole(bytes)).then_some("its table directory does not fit into")
        }
        _ => image::size(bytes)
            .is_none_or(|(width, height)| width == 0 || height == 0)
            .then_some("its width and height cannot be read from"),
    };
    match what {
        None => Ok(media),
        Some(what) => Err(Problem::new(
            "asset_damaged",
            format!("{name} begins as {media}, but {what} its {length} bytes"),
            "look whether all of the file is there (an upload or a copy may have been cut off), \
             and export it again from the program that made it",
        )),
    }
}

fn by_content(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f' | b's', ..] => "image/avif",
        [b'w', b'O', b'F', b'F', ..] => "font/woff",
        [b'w', b'O', b'F', b'2', ..] => "font/woff2",
        [0, 1, 0, 0, ..] | [b't', b'r', b'u', b'e', ..] => "font/ttf",
        [b'O', b'T', b'T', b'O', ..] => "font/otf",
        _ if is_svg(bytes) => "image/svg+xml",
        _ => return None,
    })
}

/// Whether its first element, after a declaration, comments and a doctype, is `<svg>`.
fn is_svg(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD)];
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    // A cut may go through a character; the whole was checked already.
    let mut rest = text.get(..head.len()).unwrap_or(text);
    rest = rest.strip_prefix('\u{feff}').unwrap_or(rest);
    loop {
        rest = rest.trim_start();
        let end = if let Some(comment) = rest.strip_prefix("<!--") {
            comment.find("-->").map(|at| &comment[at + 3..])
        } else if rest.starts_with("<?") || rest.starts_with("<!") {
            // A doctype with declarations of its own ends after them.
            let close = if rest.split('>').next().is_some_and(|open| open.contains('[')) {
                rest.find("]>").map(|at| at + 2)
            } else {
                rest.find('>').map(|at| at + 1)
            };
            close.map(|at| &rest[at..])
        } else {
            let Some(after) = rest.strip_prefix("<svg") else { return false };
            return after.starts_with(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/');
        };
        match end {
            Some(after) => rest = after,
            None => return false,
        }
    }
}

fn is_style_sheet(named: Option<&str>, bytes: &[u8]) -> bool {
    named == Some("text/css")
        && !bytes.contains(&0)
        && std::str::from_utf8(bytes).is_ok_and(|text| !text.trim_start().starts_with('<'))
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::font::tests::{sfnt_file, woff_file, woff2_file};

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x02\0\0\0\x03";
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x04\0\0\xff\xc0\0\x11\x08\0\x03\0\x02\x03";
    const GIF: &[u8] = b"GIF89a\x02\0\x03\0";
    const WEBP: &[u8] = b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\x01\x80\0\0";
    const AVIF: &[u8] = b"\0\0\0\x10ftypavif\0\0\0\0\0\0\0\x14ispe\0\0\0\0\0\0\0\x02\0\0\0\x03";

    #[test]
    fn content_and_name_agree() {
        let (ttf, otf) = (sfnt_file(&[0, 1, 0, 0]), sfnt_file(b"OTTO"));
        let (woff, woff2) = (woff_file(), woff2_file());
        let cases: &[(&str, &[u8], &str)] = &[
            ("logo.png", PNG, "image/png"),
            ("LOGO.PNG", PNG, "image/png"),
            ("logo", PNG, "image/png"),
            ("a.jpeg", JPEG, "image/jpeg"),
            ("a.gif", GIF, "image/gif"),
            ("a.webp", WEBP, "image/webp"),
            ("a.avif", AVIF, "image/avif"),
            ("a.woff", &woff, "font/woff"),
            ("a.woff2", &woff2, "font/woff2"),
            ("a.ttf", &ttf, "font/ttf"),
            ("a.otf", &otf, "font/otf"),
            ("a.css", b"@font-face{}", "text/css"),
            ("a.css", "p::after{content:'\u{20b9}'}".as_bytes(), "text/css"),
            ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
            (
                "a.svg",
                "\u{feff}<?xml version='1.0'?>\n<!-- > -->\n<svg>".as_bytes(),
                "image/svg+xml",
            ),
            ("a.svg", b"<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>", "image/svg+xml"),
        ];
        for (name, bytes, media) in cases {
            assert_eq!(media_type(name, bytes).ok(), Some(*media), "{name}");
        }
    }

    #[test]
    fn what_begins_well_and_could_show_nothing_is_refused() {
        let refused = |name: &str, bytes: &[u8]| {
            let problem = media_type(name, bytes).unwrap_err();
            assert_eq!(problem.code, "asset_damaged", "{name}: {}", problem.message);
            let length = format!("{} bytes", bytes.len());
            assert!(problem.message.contains(&length), "{}", problem.message);
            assert!(problem.remedy.contains("export it again"), "{}", problem.remedy);
        };
        let fonts = [
            ("a.ttf", sfnt_file(&[0, 1, 0, 0])),
            ("a.otf", sfnt_file(b"OTTO")),
            ("a.woff", woff_file()),
            ("a.woff2", woff2_file()),
        ];
        for (name, font) in &fonts {
            refused(name, &font[..font.len() - 1]);
            refused(name, &font[..6]);
        }
        for (name, file, signature) in [
            ("a.png", PNG, 8),
            ("a.jpg", JPEG, 3),
            ("a.gif", GIF, 6),
            ("a.webp", WEBP, 12),
            ("a.avif", AVIF, 12),
        ] {
            refused(name, &file[..signature]);
            // In a GIF any bytes are a width and a height.
            if name != "a.gif" {
                refused(name, &[&file[..signature], b"no header, though of some length"].concat());
            }
        }
        // No height.
        refused("a.png", &[&PNG[..20], &[0; 4]].concat());
        refused("a.gif", &[&GIF[..8], &[0; 2]].concat());
    }

    #[test]
    fn what_is_no_asset_is_refused() {
        let code = |name: &str, bytes: &[u8]| {
            let problem = media_type(name, bytes).unwrap_err();
            assert!(problem.message.contains(name) && !problem.remedy.is_empty());
            problem.code
        };
        assert_eq!(code("logo.png", b""), "asset_length");
        for (name, bytes) in [
            ("logo.jpg", PNG),
            ("logo.css", PNG),
            ("logo.png", b"<html>".as_slice()),
            ("page.html", b"<html><script>"),
            ("a.js", b"alert(1)"),
            ("a.json", b"{}"),
            ("a.css", b"<html><style>"),
            ("a.css", b"p{}\0"),
            ("a.css", b"p{content:'\xe9'}"),
            ("a.svg", b"<svgx>"),
            ("a.svg", b"<html><svg>"),
            ("a.svg", b"<!-- never closed <svg>"),
            ("a.pdf", b"%PDF-1.7"),
            ("a.bin", b"\x7fELF"),
            ("a", b"GIF"),
        ] {
            assert_eq!(code(name, bytes), "asset_type", "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(name in "[a-z.]{0,8}", bytes in ".{0,64}", raw: Vec<u8>) {
            for bytes in [bytes.as_bytes(), &raw, &[b"<!", &raw[..]].concat()] {
                if let Ok(media) = media_type(&name, bytes) {
                    proptest::prop_assert!(
                        media == "text/css" || media.starts_with("image/") || media.starts_with("font/")
                    );
                }
            }
        }
    }
}
