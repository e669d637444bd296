//! A file as Chromium writes it, and everything that can be wrong with one.

use proptest::prelude::*;
use time::macros::datetime;

use super::*;

/// A file of the same make as Chromium's, with its objects in their odd order.
fn sample(extra: &[&str]) -> Vec<u8> {
    let mut objects = vec![
        (1, "<</Title <FEFF005400E4>\n/Creator (Mozilla/5.0 \\(X11\\))\n/Producer (Skia/PDF m156)\n/CreationDate (D:20260101000000+00'00')>>".to_owned()),
        (4, "<</Length 14>> stream\n(node00000007)\nendstream".to_owned()),
        (2, "<</Type /Page\n/Resources <</ProcSet [/PDF /Text]>>\n/MediaBox [0 0 227.03999 400.07996]\n/Contents 4 0 R\n/Parent 3 0 R>>".to_owned()),
        (3, "<</Type /Pages\n/Count 1\n/Kids [2 0 R]>>".to_owned()),
    ];
    let tagged = if extra.is_empty() { "" } else { "\n/StructTreeRoot 6 0 R" };
    objects.push((5, format!("<</Type /Catalog\n/Pages 3 0 R{tagged}>>")));
    objects.extend((6..).zip(extra).map(|(number, text)| (number, (*text).to_owned())));
    let mut out = b"%PDF-1.4\n%\xd3\xeb\xe9\xe1\n".to_vec();
    let mut offsets = vec![0; objects.len() + 1];
    for (number, text) in &objects {
        offsets[*number] = out.len();
        out.extend_from_slice(format!("{number} 0 obj\n{text}\nendobj\n").as_bytes());
    }
    let start = out.len();
    out.extend_from_slice(format!("xref\n0 {}\n0000000000 65535 f \n", offsets.len()).as_bytes());
    for offset in &offsets[1..] {
        out.extend_from_slice(format!("{offset:010} 00000 n \n").as_bytes());
    }
    let size = offsets.len();
    out.extend_from_slice(
        format!("trailer\n<</Size {size}\n/Root 5 0 R\n/Info 1 0 R>>\nstartxref\n{start}\n%%EOF\n")
            .as_bytes(),
    );
    out
}

fn finish(pdf: &[u8], info: &Info, size: (f64, Option<f64>)) -> Result<Vec<u8>, Malformed> {
    let stamp = Stamp { info, date: datetime!(2026-03-31 12:00:05 +05:30), size };
    let Finished { pdf, sha256 } = Document::read(pdf)?.finish(&stamp)?;
    assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(&pdf)));
    Ok(pdf)
}

fn text(pdf: &[u8]) -> String {
    String::from_utf8_lossy(pdf).into_owned()
}

const ROLL: (f64, Option<f64>) = (226.771_653, None);

#[test]
fn the_information_is_written_anew_and_the_title_kept() {
    let out = finish(&sample(&[]), &Info::default(), ROLL).unwrap();
    let text = text(&out);
    assert!(text.contains("/Title <FEFF005400E4>"), "{text}");
    assert!(text.contains("/Creator (Tillroll)"), "{text}");
    assert!(text.contains("/CreationDate (D:20260331120005+05'30')"), "{text}");
    assert!(!text.contains("Mozilla") && !text.contains("m156"), "{text}");
    let again = Document::read(&out).unwrap();
    assert_eq!(again.pages().len(), 1);
}

#[test]
fn given_information_wins_and_is_encoded() {
    let info = Info {
        title: Some("Bill (no. 1)\\".into()),
        author: Some("Chai ₹".into()),
        subject: Some(String::new()),
        keywords: None,
        date: Some(datetime!(2020-01-02 03:04:05 -00:30)),
    };
    let text = text(&finish(&sample(&[]), &info, ROLL).unwrap());
    assert!(text.contains("/Title (Bill \\(no. 1\\)\\\\)"), "{text}");
    assert!(text.contains("/Author <FEFF0043006800610069002020B9>"), "{text}");
    assert!(text.contains("/Subject ()"), "{text}");
    assert!(!text.contains("/Keywords"), "{text}");
    assert!(text.contains("(D:20200102030405-00'30')"), "{text}");
}

#[test]
fn a_roll_gets_its_exact_width_and_keeps_its_height() {
    let out = finish(&sample(&[]), &Info::default(), ROLL).unwrap();
    let page = Document::read(&out).unwrap().pages()[0].media_box;
    assert_eq!(page, [0.0, 0.0, 226.772, 400.08]);
}

#[test]
fn a_sheet_that_shrinks_loses_its_bottom_not_its_top() {
    let out = finish(&sample(&[]), &Info::default(), (226.5, Some(399.5))).unwrap();
    let page = Document::read(&out).unwrap().pages()[0].media_box;
    assert_eq!(page, [0.0, 0.58, 226.5, 400.08]);
    let out = finish(&sample(&[]), &Info::default(), (226.5, Some(400.05))).unwrap();
    let page = Document::read(&out).unwrap().pages()[0].media_box;
    assert_eq!(page, [0.0, 0.0, 226.5, 400.05]);
}

#[test]
fn a_page_of_another_size_is_left_alone() {
    for size in [(300.0, None), (226.5, Some(500.0))] {
        let out = finish(&sample(&[]), &Info::default(), size).unwrap();
        let page = Document::read(&out).unwrap().pages()[0].media_box;
        assert_eq!(page, [0.0, 0.0, 227.03999, 400.07996]);
    }
}

#[test]
fn structure_names_are_numbered_anew_outside_streams_only() {
    let tree = |base: u64| {
        let (a, b) = (base, base + 22);
        format!(
            "<</Type /StructTreeRoot /IDTree <</Kids [<</Limits [(node{a:08}) (node{b:08})] \
             /Names [(node{a:08}) 2 0 R (node{b:08}) 3 0 R]>>]>> \
             /K <</ID (node{b:08}) /A <</O /Table /Headers [(node{a:08})]>> /Alt (node{a:08})>>>>"
        )
    };
    let first = finish(&sample(&[&tree(43)]), &Info::default(), ROLL).unwrap();
    let text = text(&first);
    assert!(text.contains("/Limits [(node00000001) (node00000002)]"), "{text}");
    assert!(text.contains("/ID (node00000002)"), "{text}");
    assert!(text.contains("/Headers [(node00000001)]"), "{text}");
    assert!(text.contains("/Alt (node00000043)"), "only names, not the document's text: {text}");
    assert!(text.contains("stream\n(node00000007)\nendstream"), "{text}");
    // Names may change their length without harm to the table.
    finish(&sample(&[&tree(1_000_000_000)]), &Info::default(), ROLL).unwrap();
}

#[test]
fn the_same_content_has_the_same_id_and_other_content_another() {
    let id = |pdf: &[u8]| {
        let text = text(pdf);
        let at = text.find("/ID [<").unwrap();
        text[at..at + 80].to_owned()
    };
    let first = finish(&sample(&[]), &Info::default(), ROLL).unwrap();
    assert_eq!(first, finish(&sample(&[]), &Info::default(), ROLL).unwrap());
    let info = Info { title: Some("other".into()), ..Info::default() };
    assert_ne!(id(&first), id(&finish(&sample(&[]), &info, ROLL).unwrap()));
}

#[test]
fn what_is_no_pdf_of_ours_is_refused() {
    for bytes in [
        b"".as_slice(),
        b"%PDF-1.4",
        b"%PDF-1.4\nstartxref\n9\n%%EOF",
        b"%PDF-1.4\nstartxref\n18446744073709551615\n%%EOF",
        b"%PDF-1.4\nxref\n0 99999999\ntrailer\n<<>>\nstartxref\n9\n%%EOF",
        b"%PDF-1.4\nxref\n0 0\ntrailer\n<</Root 1 0 R/Info 1 0 R>>\nstartxref\n9\n%%EOF",
    ] {
        assert!(Document::read(bytes).is_err(), "{}", text(bytes));
    }
}

#[test]
fn a_page_tree_in_a_circle_ends() {
    let pdf = text(&sample(&[]).into_iter().filter(u8::is_ascii).collect::<Vec<_>>());
    let looped = pdf.replace("/Kids [2 0 R]", "/Kids [3 0 R]");
    // The four bytes that are not ASCII went, and the offsets with them.
    let fixed = looped.replacen("%\n", "%1234\n", 1);
    assert_eq!(
        Document::read(fixed.as_bytes()).unwrap_err(),
        Malformed("a page tree without an end")
    );
}

#[test]
fn pages_that_are_all_one_object_are_not_read_for_ever() {
    // The tree of one page, with that page again and again.
    let mut out = sample(&[]);
    let kids = format!("<</Type /Pages /Kids [{}]>>", ["2 0 R"; 5_000].join(" "));
    out.truncate(out.windows(4).position(|word| word == b"xref").unwrap());
    let at = |number: u32| {
        let mark = format!("{number} 0 obj\n").into_bytes();
        out.windows(mark.len()).position(|word| word == mark).unwrap()
    };
    let offsets = [at(1), at(2), out.len(), at(4), at(5)];
    out.extend_from_slice(format!("3 0 obj\n{kids}\nendobj\n").as_bytes());
    let start = out.len();
    let rows = offsets.map(|offset| format!("{offset:010} 00000 n \n")).concat();
    out.extend_from_slice(
        format!(
            "xref\n0 6\n0000000000 65535 f \n{rows}trailer\n<</Size 6\n/Root 5 0 R\n\
             /Info 1 0 R>>\nstartxref\n{start}\n%%EOF\n"
        )
        .as_bytes(),
    );
    assert_eq!(Document::read(&out).unwrap_err(), Malformed("objects within objects"));
}

proptest! {
    #[test]
    fn a_cut_off_file_is_refused(cut in 0usize..900) {
        let pdf = sample(&[]);
        let cut = cut.min(pdf.len().saturating_sub(8));
        prop_assert!(finish(&pdf[..cut], &Info::default(), ROLL).is_err());
    }

    #[test]
    fn a_damaged_file_never_panics(
        hits in proptest::collection::vec((0usize..1200, any::<u8>()), 1..20),
    ) {
        let mut pdf = sample(&["<</Type /StructTreeRoot /ID (node00000009)>>"]);
        for (at, byte) in hits {
            let at = at % pdf.len();
            pdf[at] = byte;
        }
        if let Ok(out) = finish(&pdf, &Info::default(), ROLL) {
            prop_assert!(Document::read(&out).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Document::read(&bytes).is_err());
    }

    #[test]
    fn any_information_is_written_so_that_it_can_be_read(title in ".{0,60}", author in ".{0,60}") {
        let info = Info { title: Some(title), author: Some(author), ..Info::default() };
        let out = finish(&sample(&[]), &info, ROLL).unwrap();
        prop_assert!(finish(&out, &info, ROLL).is_ok());
    }
}
