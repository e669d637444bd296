//! Assets on the wire: what passes, what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::job::wire::{Rejection, parse};
use crate::job::{Job, Priority};

fn read(element: impl AsRef<[u8]>) -> Result<Job, Box<Rejection>> {
    parse(element.as_ref(), Priority::Interactive, || "made-1".to_owned())
}

fn code(element: impl AsRef<[u8]>) -> &'static str {
    let problem = read(element).unwrap_err().problem;
    assert!(!problem.remedy.is_empty());
    problem.code
}

fn framed(assets: &str, after: &[u8]) -> Vec<u8> {
    [format!("{{\"id\":\"a\",\"assets\":{assets}}}\n").as_bytes(), after].concat()
}

#[test]
fn bytes_after_the_document_are_told_apart() {
    let list =
        r#"[{"name":"logo.png","length":3},{"name":"css/a.css","type":"text/css","length":2}]"#;
    let job = read(framed(list, b"<p>\xE2\x82\xB9</p>\xFF\0\x01p{")).unwrap();
    assert_eq!(job.html, "<p>\u{20b9}</p>");
    let [logo, css] = &job.assets[..] else { panic!("{:?}", job.assets) };
    assert_eq!((logo.name.as_str(), logo.media_type), ("logo.png", "image/png"));
    assert_eq!(&logo.bytes[..], b"\xFF\0\x01");
    assert_eq!((css.name.as_str(), css.media_type), ("css/a.css", "text/css"));
    assert_eq!(&css.bytes[..], b"p{");
}

#[test]
fn the_json_only_form_has_them_in_base64() {
    let element = r#"{"html":"<p>","assets":[{"name":"a.woff2","data":"AAEC"}]}"#;
    let job = read(element).unwrap();
    assert_eq!(job.assets[0].media_type, "font/woff2");
    assert_eq!(&job.assets[0].bytes[..], [0, 1, 2]);
    for (field, want) in [
        (r#""data":"AA EC""#, "asset_data"),
        (r#""data":"""#, "asset_length"),
        (r#""data":"AAEC","length":2"#, "asset_length"),
        (r#""data":7"#, "invalid_field"),
        (r#""length":3"#, "missing_field"),
    ] {
        let element = format!(r#"{{"html":"<p>","assets":[{{"name":"a.png",{field}}}]}}"#);
        assert_eq!(code(element), want, "{field}");
    }
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let one = |length: &str| format!(r#"[{{"name":"a.png","length":{length}}}]"#);
    assert_eq!(code(framed(&one("9"), b"<p>abc")), "asset_length");
    assert_eq!(code(framed(&one("6"), b"<p>abc")), "no_document");
    assert_eq!(code(framed(&one("1"), b"<p>\xC3\xA9")), "invalid_document", "cut in a character");
    assert_eq!(code(framed(&one("0"), b"<p>")), "invalid_field");
    assert_eq!(code(framed(&one("-1"), b"<p>")), "invalid_field");
    assert_eq!(code(framed(&one("99999999999999999999"), b"<p>")), "invalid_field");
    assert_eq!(code(framed(r#"[{"name":"a.png"}]"#, b"<p>")), "missing_field");
    assert_eq!(code(framed(r#"[{"name":"a.png","data":"AA=="}]"#, b"<p>")), "conflicting_fields");
    assert_eq!(code(framed("{}", b"<p>")), "invalid_field");
    assert_eq!(code(framed("[1]", b"<p>")), "invalid_field");
    assert_eq!(code(framed(r#"[{"name":"a.png","size":1}]"#, b"<p>")), "unknown_field");
}

#[test]
fn names_are_relative_paths_and_each_stands_once() {
    for name in ["logo.png", "a/b/c.png", "A-Z_0.9.png", "..png"] {
        let list = format!(r#"[{{"name":"{name}","length":1}}]"#);
        assert_eq!(read(framed(&list, b"<p>x")).unwrap().assets[0].name, name);
    }
    for name in [
        "/a.png",
        "../a.png",
        "a/../b.png",
        "./a.png",
        "a//b.png",
        "a b.png",
        "é.png",
        "a?.png",
        "",
    ] {
        let list = format!(r#"[{{"name":"{name}","length":1}}]"#);
        assert_eq!(code(framed(&list, b"<p>x")), "asset_name", "{name}");
    }
    let twice = r#"[{"name":"a.png","length":1},{"name":"a.png","length":1}]"#;
    assert_eq!(code(framed(twice, b"<p>xy")), "asset_name");
    let many: Vec<String> =
        (0..65).map(|n| format!(r#"{{"name":"{n}.png","length":1}}"#)).collect();
    assert_eq!(code(framed(&format!("[{}]", many.join(",")), b"<p>")), "too_many_assets");
}

#[test]
fn only_a_few_types_are_served() {
    let of = |rest: &str| framed(&format!(r#"[{{{rest},"length":1}}]"#), b"<p>x");
    assert_eq!(read(of(r#""name":"A.JPG""#)).unwrap().assets[0].media_type, "image/jpeg");
    let given = r#""name":"logo","type":"Image/PNG""#;
    assert_eq!(read(of(given)).unwrap().assets[0].media_type, "image/png");
    assert_eq!(read(of(r#""name":"a.mjs""#)).unwrap().assets[0].media_type, "text/javascript");
    let charset = r#""name":"a","type":"text/css; charset=utf-8""#;
    assert_eq!(read(of(charset)).unwrap().assets[0].media_type, "text/css");
    for rest in [
        r#""name":"a.html""#,
        r#""name":"logo""#,
        r#""name":"a.png","type":"text/html""#,
        r#""name":"a.svg","type":"application/xml""#,
    ] {
        assert_eq!(code(of(rest)), "asset_type", "{rest}");
    }
}

proptest! {
    #[test]
    fn both_forms_say_the_same(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
    ) {
        let html = "<p>\u{20b9}\n\u{e9}";
        let (mut lengths, mut datas, mut after) = (vec![], vec![], html.as_bytes().to_vec());
        for (n, content) in contents.iter().enumerate() {
            let name = format!("{n}.png");
            lengths.push(serde_json::json!({"name": name, "length": content.len()}));
            datas.push(serde_json::json!({"name": name, "data": STANDARD.encode(content)}));
            after.extend(content);
        }
        let framed = read(framed(&Value::from(lengths).to_string(), &after)).unwrap();
        let json = read(serde_json::json!({"html": html, "assets": datas}).to_string()).unwrap();
        prop_assert_eq!(&framed.html, html);
        prop_assert_eq!(&framed.assets, &json.assets);
        let bytes: Vec<Vec<u8>> = framed.assets.iter().map(|a| a.bytes.to_vec()).collect();
        prop_assert_eq!(bytes, contents);
    }

    #[test]
    fn any_list_is_survived(list in "[\\[\\]{}\":,a-z0-9.]{0,80}", after in prop::collection::vec(any::<u8>(), 0..40)) {
        drop(read(framed(&list, &after)));
    }
}
