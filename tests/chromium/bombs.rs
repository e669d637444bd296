//! Hostile documents that are too large, or too broken, to be kept as files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::printed::page;

const TOTAL: &str = "<p>Total 12.00</p>";
const MIB: usize = 1 << 20;

/// What a producer pushes: a header line, then this.
pub(crate) fn make(name: &str) -> Vec<u8> {
    let html = match name {
        "million_tags" => page(&"<i></i>".repeat(1_000_000)),
        "nesting" => page(&format!("{}{TOTAL}", "<div>".repeat(100_000))),
        "nesting_svg" => page(&format!("<svg>{}", "<g><a>".repeat(50_000))),
        "rows" => {
            page(&format!("<table>{}</table>", "<tr><td>Tea<td>1<td>2.00<td>2.00".repeat(50_000)))
        }
        "png" => page(&format!("<img src='data:image/png;base64,{}'>", STANDARD.encode(png()))),
        "png_asset" => page("<img src=logo.png>"),
        "jpeg" => {
            let url: String = jpeg().iter().map(|byte| format!("%{byte:02X}")).collect();
            page(&format!("<style>p{{background:url(\"data:image/jpeg,{url}\")}}</style>{TOTAL}"))
        }
        "many" => {
            let gif = STANDARD.encode(b"GIF89a\x10\x27\x10\x27\0\0\0");
            page(&format!("<img src='data:image/gif;base64,{gif}'>").repeat(3))
        }
        "data" => {
            let junk = STANDARD.encode(vec![0x5a; 6 * MIB * 3 / 4]);
            page(&format!("<img alt='' src='data:image/png;base64,{junk}'>{TOTAL}"))
        }
        "font" => {
            let junk = STANDARD.encode(vec![0x5a; 6 * MIB * 3 / 4]);
            page(&format!(
                "<style>@font-face{{font-family:F;src:url(data:font/woff2;base64,{junk})}}\
                 p{{font-family:F,sans-serif}}</style>{TOTAL}"
            ))
        }
        "addresses" => {
            let base = format!("<base href='http://x.invalid/{}/'>", "a".repeat(1_900_000));
            page(&format!("{base}{}{TOTAL}", "<img alt='' src=b>".repeat(100)))
        }
        "beginnings" => format!("{}{}", page(TOTAL), "<meta ".repeat(1_200_000)),
        "data_beginnings" => page(&format!("{TOTAL}<p title='{}'>", "data:".repeat(1_400_000))),
        "tall" => page(&format!("<div style='height:10000000px'></div>{TOTAL}")),
        "breaks" => page(&"<p style='break-after:page'>x".repeat(1_500)),
        "breaks_20000" => {
            page(&format!("<style>p{{break-after:page}}</style>{}", "<p>x".repeat(20_000)))
        }
        "breaks_20000_asset" => {
            page(&format!("<link rel=stylesheet href=pages.css>{}", "<p>x".repeat(20_000)))
        }
        // What elements are called must not stand in the way of who counts.
        "breaks_20000_named" => page(&format!(
            "<style>p{{page-break-before:always}}</style><form name=body><input name=children>\
             </form>{}",
            "<p>x".repeat(20_000)
        )),
        "high_20000" => page(&format!("<style>p{{height:999px}}</style>{}", "<p>".repeat(20_000))),
        "views_20000" => page(&format!("<style>p{{height:100vh}}</style>{}", "<p>".repeat(20_000))),
        "exponent" => page(&format!("<div style='height:9e6px'></div>{TOTAL}")),
        "line" => page(&format!("<p>{}", "x".repeat(7 * MIB))),
        "bom" => format!("\u{feff}{}", page(TOTAL)),
        "one_line" => page(&"<p>x</p>\u{20b9}<b>".repeat(7 * MIB / 14)).replace("<b>", ""),
        "huge" => page(&"x".repeat(9 * MIB)),
        "cut" => format!("{}<table><tr><td title=\"", page(TOTAL)),
        "comment" => "<!-- nothing".to_owned(),
        "controls" => page(&format!(
            "&#xD800;&#xDFFF;\u{1}\u{8}\u{b}\u{7f}\u{9f}\u{200f}\u{202e}\u{2028}\u{ffff}{TOTAL}"
        )),
        "empty" => String::new(),
        "blank" => " \r\n\t\n ".to_owned(),
        "latin1" => return b"<p>Caf\xe9 12,00 \x80".to_vec(),
        "nul" => return b"<p>Total\0 12.00".to_vec(),
        "utf16" => return utf16(&page(TOTAL)),
        "utf16_bom" => return [b"\xff\xfe".to_vec(), utf16(&page(TOTAL))].concat(),
        "bom_header" => page(TOTAL),
        other => panic!("nobody makes {other}"),
    };
    html.into_bytes()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The head of a picture of 50,000 × 50,000 points: 10 GB once it is decoded.
pub(crate) fn png() -> Vec<u8> {
    let side = 50_000u32.to_be_bytes();
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &side, &side, &[8, 6, 0, 0, 0]].concat()
}

/// The head of a picture of 65,500 × 65,500 points.
fn jpeg() -> Vec<u8> {
    let side = 65_500u16.to_be_bytes();
    let frame = [&[0xff, 0xc0, 0, 17, 8][..], &side, &side, &[3, 1, 17, 0]].concat();
    [&[0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0][..], &frame].concat()
}
