//! What is rendered to calibrate: a till receipt, and invoices of any length.

use std::fmt::Write as _;
use std::time::Duration;

use crate::job::RenderOptions;
use crate::job::length::Paper;

/// The receipt that all figures are about: 80 mm, 20 rows, one drawing.
pub(super) const RECEIPT: &str = include_str!("../../../fixtures/receipts/thermal-80mm.html");

/// How the receipt is printed.
pub(super) fn on_a_roll() -> RenderOptions {
    RenderOptions { paper: Paper::named("80mm"), ..RenderOptions::default() }
}

/// How an invoice is printed.
pub(super) fn on_a4(timeout: Duration) -> RenderOptions {
    RenderOptions { paper: Paper::named("A4"), timeout, ..RenderOptions::default() }
}

/// An invoice of so many rows: 128 bytes each, and a head.
pub(super) fn invoice(rows: u64) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Invoice</title><style>\
         body{margin:0;font:9.5pt/1.4 'Liberation Sans',Arial,sans-serif}\
         table{width:100%;border-collapse:collapse}thead{display:table-header-group}\
         th{background:#14506b;color:#fff;text-align:left}tr{break-inside:avoid}\
         td{padding:1mm 2mm;border-bottom:.2mm solid #d9e1e6}.n{text-align:right}</style>\
         <h1>Invoice</h1><table><thead><tr><th>No<th>Item<th>Quantity<th>Each<th>Sum</thead><tbody>\n",
    );
    for row in 1..=rows {
        let (quantity, cents) = (row % 9 + 1, row % 90 + 10);
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            html,
            "<tr><td>{row:06}</td><td>Galvanised bracket, M8, set of {quantity}</td>\
             <td class=n>{quantity}</td><td class=n>{cents}.50</td><td class=n>{:5}.00</td></tr>",
            quantity * cents
        );
    }
    html.push_str("</table>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_long_as_those_that_the_figures_speak_of() {
        let row = (invoice(2_000).len() - invoice(1_000).len()) / 1_000;
        assert!((124..=132).contains(&row), "{row} bytes");
    }
}
