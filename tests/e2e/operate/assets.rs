//! `tillroll asset`: stored by an operator, printed by Chromium in the tenant's documents
//! and in nobody else's.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::Operator;
use crate::command_line::{assert_fails, file, run};
use crate::json::assert_schema;
use crate::support::{Worker, take, tillroll};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/assets").join(name);
    path.to_str().unwrap().to_owned()
}

/// What a tool says of a PDF.
fn tool(name: &str, arguments: &[&str], pdf: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "a.pdf", pdf);
    let output = Command::new(name).args(arguments).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Codes of a reply's warnings.
fn warnings(reply: &Value) -> Vec<&str> {
    let warnings = reply["warnings"].as_array().unwrap();
    warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect()
}

impl Operator {
    /// Renders the fixture that shows two images and a font.
    fn show(&mut self, tenant: &str, id: &str, more: &Value, body: &[u8]) -> (Value, Vec<u8>) {
        let html = std::fs::read(fixture("with-assets.html")).unwrap();
        let info = json!({"paper": "80mm", "info": {"date": "2026-03-31T12:00:00Z"}});
        let mut header = json!({"id": id, "tenant": tenant, "options": info});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.push([format!("{header}\n").as_bytes(), &html, body].concat());
        take(&mut self.redis, &format!("{tenant}/{id}"), 60).expect("a reply")
    }
}

#[test]
fn a_tenants_documents_show_its_assets_and_nobody_elses_do() {
    let mut operator = Operator::new();
    let _worker = Worker::start(&operator.url, &[]);
    let files = ["logo.png", "panorama.png", "till-segment.woff"].map(fixture);
    let none = json!({});
    let (before, without) = operator.show("acme", "before", &none, b"");
    assert_eq!(warnings(&before), ["image_missing", "font_missing"], "{before}");

    let put = ["asset", "put", "--tenant", "acme", &files[0], &files[1], &files[2]];
    let put = operator.json(&put);
    assert_eq!(put["assets"].as_array().unwrap().len(), 3, "{put}");
    // The tenant's next job, in the page that just printed without them.
    let (with, pdf) = operator.show("acme", "with", &none, b"");
    assert_eq!(warnings(&with), Vec::<&str>::new(), "{with}");
    assert!(tool("pdffonts", &[], &pdf).contains("TillSegment"));
    assert!(tool("pdfimages", &["-list"], &pdf).lines().count() >= 4);
    let (other, others) = operator.show("zeta", "other", &none, b"");
    assert_eq!(warnings(&other), ["image_missing", "font_missing"], "{other}");
    assert!(others == without, "nothing of them is in another tenant's document");
    // The same job and the same assets: the same bytes, whoever carries them.
    assert!(operator.show("acme", "again", &none, b"").1 == pdf);
    let contents = files.each_ref().map(|file| std::fs::read(file).unwrap());
    let names = ["logo.png", "panorama.png", "till-segment.woff"];
    let listed: Vec<_> = names
        .iter()
        .zip(&contents)
        .map(|(name, bytes)| json!({"name": name, "length": bytes.len()}))
        .collect();
    let (_, carried) =
        operator.show("zeta", "carried", &json!({"assets": listed}), &contents.concat());
    assert!(carried == pdf, "as if they had come with the job");
    // A job's own of the same name counts.
    let logo = std::fs::read(&files[1]).unwrap();
    let own = json!({"assets": [{"name": "logo.png", "length": logo.len()}]});
    let (own, replaced) = operator.show("acme", "own", &own, &logo);
    assert_eq!(warnings(&own), Vec::<&str>::new(), "{own}");
    assert!(replaced != pdf);

    let removed = operator.json(&["asset", "rm", "--tenant", "acme", "logo.png"]);
    let (after, _) = operator.show("acme", "after", &none, b"");
    assert_eq!(warnings(&after), ["asset_missing"], "{after}");
    assert!(after["warnings"][0]["remedy"].as_str().unwrap().contains("asset put"), "{after}");

    let again = operator.json(&["asset", "put", "--tenant", "acme", &files[0]]);
    let listed = operator.json(&["asset", "ls"]);
    let missing = ["asset", "rm", "--tenant", "acme", "never.png", "logo.png", "--json"];
    let missing = operator.run(&missing);
    assert_fails(&missing, 65, &["none called never.png", "asset ls --tenant acme"]);
    let missing: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(missing["removed"], json!(["logo.png"]));
    assert_schema("asset put", &[put, again]);
    assert_schema("asset ls", &[listed]);
    assert_schema("asset rm", &[removed, missing]);
}

#[test]
fn what_cannot_be_an_asset_is_refused_with_its_remedy() {
    let operator = Operator::new();
    let dir = tempfile::tempdir().unwrap();
    let logo = fixture("logo.png");
    fn put<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["asset", "put", "--tenant", "acme"], more].concat()
    }
    let page = file(dir.path(), "page.html", "<script>alert(1)</script>");
    let wrong = file(dir.path(), "logo.jpg", std::fs::read(&logo).unwrap());
    let spaced = file(dir.path(), "my logo.png", std::fs::read(&logo).unwrap());
    let large = file(dir.path(), "large.css", "/**/".repeat((2 << 20) + 1));
    let empty = file(dir.path(), "empty.png", "");
    let cut = file(dir.path(), "cut.png", &std::fs::read(&logo).unwrap()[..8]);
    let font = std::fs::read(fixture("till-segment.woff")).unwrap();
    let part = file(dir.path(), "part.woff", &font[..font.len() / 2]);
    let missing = dir.path().join("missing.png");
    let at = dir.path().to_str().unwrap();
    for (files, code, parts) in [
        (vec![&*page], 65, &["page.html", "no image", "convert"][..]),
        (vec![&wrong], 65, &["image/jpeg by its name", "image/png by its content", "ending"]),
        (vec![&logo, &wrong], 65, &["logo.jpg"]),
        (vec![&spaced], 2, &["my logo.png", "--name"]),
        (vec![&logo, "--name", "../logo.png"], 2, &["../logo.png", "without a leading slash"]),
        (vec![&logo, &logo], 2, &["called logo.png as well"]),
        (vec![&logo, &logo, "--name", "a.png"], 2, &["2 files", "one name"]),
        (vec![&large], 65, &["more than 8 MiB", "no limit"]),
        (vec![&empty], 65, &["empty"]),
        (vec![&cut], 65, &["cut.png", "width and height", "8 bytes", "export it again"]),
        (vec![&part], 65, &["part.woff", "table directory", "export it again"]),
        (vec![missing.to_str().unwrap()], 65, &["missing.png", "check the path"]),
        (vec![at], 65, &["name files"]),
    ] {
        operator.fails(&put(&files), code, parts);
    }
    operator.fails(&["asset", "put", "--tenant", "a/b", &logo], 2, &["a/b", "A-Z"]);
    operator.misused(&["asset", "put"], "FILE");
    operator.text(&["asset", "ls"], &["no tenant has assets"]);
    operator.text(&["asset", "ls", "--tenant", "acme"], &["acme has no assets"]);

    for (limit, value, parts) in [
        ("asset_bytes", "100B", &["100 are allowed", "set limits.asset_bytes"][..]),
        ("tenant_assets", "1", &["would have 2 assets", "asset rm", "limits.tenant_assets"]),
        ("tenant_asset_bytes", "2kB", &["bytes together", "limits.tenant_asset_bytes"]),
    ] {
        let key = format!("limits.{limit}");
        operator.text(&put(&[&logo, "--name", "img/a.png"]), &["img/a.png for acme", "image/png"]);
        operator.text(&["config", "set", &key, value], &["whole queue"]);
        let panorama = fixture("panorama.png");
        operator.fails(&put(&[&panorama]), 65, &[&["storing panorama.png"][..], parts].concat());
        operator.text(&["config", "set", &key, "default"], &["own configuration"]);
        operator.text(&["asset", "ls"], &["acme", "img/a.png", "1 asset,"]);
        operator.text(&["asset", "rm", "--tenant", "acme", "img/a.png"], &["removed img/a.png"]);
    }
    // What was stored before the refused one stays, and is said.
    let bounded = ["--set", "limits.tenant_assets=1"];
    let both = run(tillroll()
        .args(put(&[&logo, &fixture("panorama.png")]))
        .args(bounded)
        .args(["--redis", &operator.url]));
    assert_fails(&both, 65, &["panorama.png"]);
    assert!(String::from_utf8_lossy(&both.stdout).contains("added logo.png for acme"));

    let forgotten = operator.json(&["tenant", "forget", "acme", "--yes"]);
    assert_eq!(forgotten["assets"], 1, "{forgotten}");
    operator.text(&["asset", "ls"], &["no tenant has assets"]);
}
