//! What is rendered, and how it is printed: the same for the worker, the floor and
//! the peers.

use base64::Engine as _;
use tillroll::job::{RenderOptions, options};
use tillroll::renderer::paper::{self, Plan};

#[path = "../governor/documents.rs"]
#[allow(dead_code, reason = "only its invoices are used here")]
mod generated;

use generated::Kind;

const RECEIPT: &str = include_str!("../../fixtures/receipts/thermal-80mm.html");
const INVOICE: &str = include_str!("../../fixtures/receipts/invoice-a4-120-rows.html");
const INVOICE_JOB: &str = include_str!("../../fixtures/receipts/invoice-a4-120-rows.json");
const BARCODE: &str = include_str!("../../fixtures/scripts/barcode.html");

/// A receipt's sheet: as high as its content and a little more.
const SHEET: &str = r#"{"paper":{"width":"80mm","height":"297mm"},"margin":"0mm"}"#;

/// A document with its options.
pub(crate) struct Document {
    pub(crate) options: String,
    pub(crate) html: String,
}

impl Document {
    /// 3 KB, 20 rows, one sheet of 80 × 297 mm.
    pub(crate) fn receipt() -> Self {
        Self { options: SHEET.to_owned(), html: RECEIPT.to_owned() }
    }

    /// The same on a roll as high as its content, which must be measured first.
    pub(crate) fn roll() -> Self {
        Self { options: r#"{"paper":"80mm"}"#.to_owned(), html: RECEIPT.to_owned() }
    }

    /// 15 KB, 120 rows, four pages A4.
    pub(crate) fn invoice() -> Self {
        let job: serde_json::Value = serde_json::from_str(INVOICE_JOB).unwrap();
        Self { options: job["options"].to_string(), html: INVOICE.to_owned() }
    }

    /// A barcode drawn by a script after a quarter of a second of its own time.
    pub(crate) fn script() -> Self {
        let options = r#"{"paper":{"width":"80mm","height":"60mm"},"margin":"0mm","script":true}"#;
        Self { options: options.to_owned(), html: BARCODE.to_owned() }
    }

    /// An invoice of so many rows, A4: 1,000 are 130 KB, 5,000 are 650 KB.
    pub(crate) fn rows(rows: usize) -> Self {
        let html = if rows > 1_000 { Kind::Statement.html(1) } else { Kind::Invoice.html(1) };
        Self { options: r#"{"paper":"A4","timeout_ms":30000}"#.to_owned(), html }
    }

    /// Five photographs of a megabyte each, inlined.
    pub(crate) fn images() -> Self {
        let mut html = String::from(
            "<!doctype html><meta charset=utf-8><title>Handover</title><h1>Handover</h1>",
        );
        for seed in 1..=5 {
            let image = base64::engine::general_purpose::STANDARD.encode(noise(seed));
            html +=
                &format!("<p>Room {seed}</p><img width=590 src=\"data:image/bmp;base64,{image}\">");
        }
        Self { options: r#"{"paper":"A4","timeout_ms":30000}"#.to_owned(), html }
    }

    /// A job for an inbox; `more` is further fields of its header, each with a comma before it.
    pub(crate) fn element(&self, tenant: &str, id: &str, more: &str) -> Vec<u8> {
        let Self { options, html } = self;
        format!("{{\"id\":\"{id}\",\"tenant\":\"{tenant}\",\"options\":{options}{more}}}\n{html}")
            .into_bytes()
    }

    /// How the worker prints it.
    pub(crate) fn plan(&self) -> (RenderOptions, Plan) {
        let object: serde_json::Value = serde_json::from_str(&self.options).unwrap();
        let read = options::parse(object.as_object().unwrap());
        let options = read.unwrap_or_else(|problem| panic!("{}", problem.message));
        assert!(!self.html.contains("@page"), "then the worker asks for its margins too");
        let plan = paper::plan(&options, false);
        (options, plan)
    }
}

/// A BMP of 591 × 591 pixels that no compression makes smaller.
fn noise(seed: u32) -> Vec<u8> {
    const SIDE: u32 = 591;
    let line = (SIDE * 3).next_multiple_of(4);
    let bytes = 54 + line * SIDE;
    let mut bmp = b"BM".to_vec();
    for word in [bytes, 0, 54, 40, SIDE, SIDE, 1 | 24 << 16, 0, line * SIDE, 2835, 2835, 0, 0] {
        bmp.extend(word.to_le_bytes());
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9);
    while bmp.len() < bytes as usize {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bmp.push((state >> 24) as u8);
    }
    bmp
}
