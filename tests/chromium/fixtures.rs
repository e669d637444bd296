//! The receipts of `fixtures/receipts`, rendered as their producers ask.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tillroll::renderer::Render;

use crate::printed::{Printed, pool, request};

#[derive(Deserialize)]
struct Fixture {
    tenant: String,
    options: Value,
    expect: Expect,
}

#[derive(Deserialize)]
struct Expect {
    pages: u32,
    width_pt: f64,
    height_pt: Option<f64>,
    text: Vec<String>,
}

/// Text without the spaces that layout adds.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receipt_comes_out_as_its_producer_expects() {
    let pool = pool().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/receipts");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "html"))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    for path in names {
        let name = path.display();
        let html = std::fs::read_to_string(&path).unwrap();
        let json = std::fs::read(path.with_extension("json")).unwrap();
        let fixture: Fixture = serde_json::from_slice(&json).unwrap();
        let expect = fixture.expect;
        let rendered = pool.render(request(&fixture.tenant, &html, fixture.options)).await;
        let printed = Printed::of(rendered.unwrap_or_else(|failure| panic!("{name}: {failure}")));
        assert_eq!(printed.rendered.pages, expect.pages, "{name}");
        assert_eq!(printed.warnings(), Vec::<&str>::new(), "{name}");
        for (width, height) in printed.sizes() {
            assert!((width - expect.width_pt).abs() < 0.02, "{name}: {width}");
            if let Some(want) = expect.height_pt {
                assert!((height - want).abs() < 0.02, "{name}: {height}");
            }
        }
        let text = squeezed(&printed.text());
        for want in expect.text {
            assert!(text.contains(&squeezed(&want)), "{name}: {want:?} is not in {text}");
        }
    }
    pool.close().await;
}
