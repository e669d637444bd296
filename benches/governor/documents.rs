//! What is rendered: receipts, and invoices of as many rows as one likes, each with a
//! text of its own.

use std::fmt::Write as _;

const RECEIPT: &str = include_str!("../../fixtures/receipts/thermal-80mm.html");
const INVOICE_STYLE: &str = "body{font:9.5pt/1.4 'Liberation Sans',Arial,sans-serif}\
    table{width:100%;border-collapse:collapse}\
    td,th{border:.2mm solid #ccc;padding:1.4mm 2mm;text-align:right}\
    tr{break-inside:avoid}tbody tr:nth-child(even){background:#f3f7f9}";

/// What a document is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// 20 rows on a roll: 40 to 70 MB.
    Receipt,
    /// 1,000 rows, some 130 KB: about 170 MB.
    Invoice,
    /// 5,000 rows, some 650 KB: more than 1 GB.
    Statement,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Receipt, Self::Invoice, Self::Statement];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Receipt => "receipts",
            Self::Invoice => "invoices of 1,000 rows",
            Self::Statement => "statements of 5,000 rows",
        }
    }

    /// The `number`th document of its kind.
    pub(crate) fn html(self, number: usize) -> String {
        match self {
            Self::Receipt => receipt(number),
            Self::Invoice => invoice(1_000, number),
            Self::Statement => invoice(5_000, number),
        }
    }

    pub(crate) fn paper(self) -> &'static str {
        if self == Self::Receipt { "80mm" } else { "A4" }
    }
}

pub(crate) fn receipt(number: usize) -> String {
    RECEIPT.replace("r-1042", &format!("r-{number}"))
}

/// A receipt of about `bytes`.
pub(crate) fn long_receipt(number: usize, bytes: usize) -> String {
    let row = "<tr><td>Espresso, single origin, to go<td>1<td>2.40<td>2.40\n";
    let rows = row.repeat(bytes.saturating_sub(RECEIPT.len()) / row.len());
    receipt(number).replace("</tbody>", &format!("{rows}</tbody>"))
}

fn invoice(rows: usize, number: usize) -> String {
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Invoice {number}</title>\
         <style>{INVOICE_STYLE}</style><h1>Invoice {number}</h1><table><thead><tr><th>No<th>Article\
         <th>Code<th>Unit<th>Quantity<th>Each<th>Net<th>VAT<th>Tax<th>Due<th>Sum</thead><tbody>"
    );
    let money = |cents: usize| format!("{}.{:02}", cents / 100, cents % 100);
    for row in 1..=rows {
        let (quantity, each) = ((row * 7 + number) % 90 + 1, (row * 37 + number) % 900 + 100);
        let (net, tax) = (quantity * each, quantity * each / 5);
        writeln!(
            html,
            "<tr><td>{row}<td><b>Article {row:05}</b> <i>of 12</i><td>A-{row:05}<td>box<td>{quantity}\
             <td>{}<td>{}<td>20%<td>{}<td>30 d<td>{}",
            money(each),
            money(net),
            money(tax),
            money(net + tax)
        )
        .unwrap();
    }
    html + "</tbody></table></html>"
}

/// One job of a flood.
pub(crate) struct Document {
    pub(crate) kind: Kind,
    pub(crate) tenant: String,
    pub(crate) id: String,
    pub(crate) html: String,
}

impl Document {
    pub(crate) fn new(kind: Kind, number: usize, tenants: usize) -> Self {
        let tenant = format!("shop-{}", number % tenants);
        Self { kind, tenant, id: format!("d-{number}"), html: kind.html(number) }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.tenant, self.id)
    }

    pub(crate) fn element(&self) -> String {
        format!(
            "{{\"id\":\"{}\",\"tenant\":\"{}\",\"options\":{{\"paper\":\"{}\",\"timeout_ms\":30000}}}}\n{}",
            self.id,
            self.tenant,
            self.kind.paper(),
            self.html
        )
    }
}

/// So many documents of seven tenants: 2 % statements, 8 % invoices, receipts; mixed,
/// and the same each time.
pub(crate) fn mixed(jobs: usize) -> Vec<Document> {
    let kind = |number: usize| match number % 50 {
        11 => Kind::Statement,
        3 | 19 | 28 | 42 => Kind::Invoice,
        _ => Kind::Receipt,
    };
    (0..jobs).map(|number| Document::new(kind(number), number, 7)).collect()
}
