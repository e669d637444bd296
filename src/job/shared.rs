//! Which of its tenant's assets a job gets. Pure.
//!
//! A tenant may have fifty of them, and a receipt shows its logo. What a document
//! cannot ask for is left out, so that it neither counts against the document's
//! limits nor costs anything: a name is looked for in the document, in the style
//! sheets and drawings that it brings, and in those that it reaches.
//!
//! Only the longest run of letters and digits of a name is looked for, in what
//! comes after its last slash: templates escape the rest (`logo&#46;png`,
//! `logo%2Epng`), and one asset too many does no harm. A document whose scripts run
//! may put names together, and gets all.

use super::Asset;

/// Adds those of `of_tenant` to a job's own that the document may ask for; of the same
/// name, the job's own counts.
pub fn share(html: &str, scripts: bool, own: &mut Vec<Asset>, of_tenant: &[Asset]) {
    let brought = own.len();
    let mut left: Vec<&Asset> =
        of_tenant.iter().filter(|asset| own.iter().all(|one| one.name != asset.name)).collect();
    if scripts {
        own.extend(left.into_iter().cloned());
        return;
    }
    // The document, and then what it reaches, one after the other.
    let mut looked_at = 0;
    let mut text = html.as_bytes().to_vec();
    for asset in own.iter().filter(|asset| refers(asset)) {
        text.push(b'\n');
        text.extend_from_slice(&asset.bytes);
    }
    loop {
        let (reached, rest): (Vec<&Asset>, Vec<&Asset>) =
            left.into_iter().partition(|asset| is_in(&text, word(&asset.name).as_bytes()));
        own.extend(reached.into_iter().cloned());
        left = rest;
        let next = own[brought + looked_at..].iter().filter(|asset| refers(asset));
        text = next.flat_map(|asset| asset.bytes.iter().copied().chain([b'\n'])).collect();
        looked_at = own.len() - brought;
        if left.is_empty() || text.is_empty() {
            return;
        }
    }
}

/// Whether it may ask for others.
fn refers(asset: &Asset) -> bool {
    matches!(asset.media_type, "text/css" | "image/svg+xml")
}

/// The longest run of letters and digits in a name's last part, without its ending
/// where that leaves any.
fn word(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    let stem = last.rsplit_once('.').map_or(last, |(stem, _)| stem);
    let runs = stem.split(|c: char| !c.is_ascii_alphanumeric());
    runs.max_by_key(|run| run.len()).filter(|run| !run.is_empty()).unwrap_or(last)
}

fn is_in(text: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else { return true };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(word) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::assets::media_type_of;

    fn asset(name: &str, bytes: &str) -> Asset {
        let media_type = media_type_of(name).unwrap_or("image/png");
        Asset { name: name.to_owned(), media_type, bytes: bytes.to_owned().into() }
    }

    fn shared(html: &str, scripts: bool, own: &[Asset], of_tenant: &[Asset]) -> Vec<String> {
        let mut all = own.to_vec();
        share(html, scripts, &mut all, of_tenant);
        assert_eq!(&all[..own.len()], own, "the job's own stay what they are");
        all[own.len()..].iter().map(|asset| asset.name.clone()).collect()
    }

    #[test]
    fn a_jobs_own_asset_goes_before_its_tenants() {
        let own = [asset("a.css", "own"), asset("img/b.css", "own")];
        let of_tenant = [asset("a.css", "theirs"), asset("b.css", "theirs")];
        let html = "<link href=a.css><link href=b.css>";
        assert_eq!(shared(html, false, &own, &of_tenant), ["b.css"]);
        assert_eq!(shared(html, true, &own, &of_tenant), ["b.css"]);
    }

    #[test]
    fn what_a_document_may_ask_for_is_there_however_it_is_written() {
        let of_tenant = [asset("img/shop_logo-2x.png", "")];
        for html in [
            "<img src=shop_logo-2x.png>",
            "<img src='/static/img/shop_logo-2x.png?v=3'>",
            "<img src=shop&#95;logo&#45;2x&#46;png>",
            "<img src=shop%5Flogo-2x%2Epng>",
            "<style>p{background:url(shop\\_logo-2x\\.png)}</style>",
        ] {
            assert_eq!(shared(html, false, &[], &of_tenant).len(), 1, "{html}");
        }
        assert_eq!(shared("<img src=log.png>", false, &[], &of_tenant), Vec::<String>::new());
        assert_eq!(shared("", true, &[], &of_tenant).len(), 1, "a script may ask for anything");
        assert_eq!(shared("<img src='-.-'>", false, &[], &[asset("-.-", "")]).len(), 1);
    }

    #[test]
    fn what_is_reached_through_style_sheets_and_drawings_is_there() {
        let of_tenant = [
            asset("dot.png", ""),
            asset("seal.svg", "<image href=dot.png>"),
            asset("base.css", "@font-face{src:url(till.woff)} p{background:url(seal.svg)}"),
            asset("till.woff", "main"),
            asset("main.css", "@import 'base.css';"),
            asset("else.css", "p{background:url(never.png)}"),
            asset("never.png", "dot"),
        ];
        let all = ["main.css", "base.css", "seal.svg", "till.woff", "dot.png"];
        assert_eq!(shared("<link href=main.css>", false, &[], &of_tenant), all);
        let own = [asset("own.css", "@import 'main.css';")];
        assert_eq!(shared("<link href=own.css>", false, &own, &of_tenant), all);
        assert_eq!(shared("<p>", false, &[], &of_tenant), Vec::<String>::new());
    }
}
