//! PDFs that are read from Chromium piece by piece.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tillroll::failure::Class;
use tillroll::job::Asset;
use tillroll::pool::Pool;
use tillroll::renderer::Render;
use tillroll::renderer::limits::Limits;
use tillroll::renderer::processes::Kind;
use tokio::time::timeout;

use crate::printed::{LIMITS, Printed, config, none, page, pool, print, render, request};
use crate::support::PATIENCE;

const MIB: usize = 1 << 20;

/// A picture of `width` × `height` points of noise, which nothing makes smaller.
fn noise(width: u32, height: u32) -> Vec<u8> {
    let row = (width * 3).next_multiple_of(4);
    let bytes = row * height;
    let header: [u32; 13] =
        [54 + bytes, 0, 54, 40, width, height, 1 | 24 << 16, 0, bytes, 0, 0, 0, 0];
    let mut state = 88_172_645_463_325_252_u64;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let head = header.into_iter().flat_map(u32::to_le_bytes);
    let pixels = (0..bytes.div_ceil(8)).flat_map(|_| word());
    b"BM".iter().copied().chain(head).chain(pixels).collect()
}

fn with_noise(width: u32, height: u32) -> String {
    let picture = STANDARD.encode(noise(width, height));
    page(&format!(
        "<p>Before<img style='width:200px' src='data:image/bmp;base64,{picture}'><p>After"
    ))
}

/// How many files without a name the pool's browser holds: streams are such.
fn streams(pool: &Pool) -> usize {
    let processes = pool.browser().unwrap().processes();
    let pid = processes.iter().find(|process| process.kind == Kind::Browser).unwrap().pid;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // A file may be closed while it is looked at.
    let leads_to = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    let is_stream = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.starts_with("/tmp/") && path.ends_with(" (deleted)")
    };
    leads_to.filter(is_stream).count()
}

/// What is printed, and how many calls that took.
async fn counted(pool: &Pool, html: &str, options: Value) -> (Printed, u64) {
    let commands = || pool.browser().unwrap().connection().commands();
    let before = commands();
    let printed = print(pool, html, options).await;
    (printed, commands() - before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_document_is_printed_like_a_small_one() {
    let pool = pool().await;
    let text = "<h1>Bill</h1><p>Total 9.00<p style='break-before:page'>Terms";
    let small = page(text);
    let large = page(&format!("{text}<!--{}-->", "x".repeat(2 * MIB)));
    for options in [json!({"tagged": true}), json!({"paper": "80mm"})] {
        // What the page remembers is set.
        print(&pool, "<p>x", options.clone()).await;
        let options = || options.clone();
        let (small, calls) = counted(&pool, &small, options()).await;
        let (large, more) = counted(&pool, &large, options()).await;
        assert!(small.rendered.pdf == large.rendered.pdf, "{}", options());
        // Two take it away afterwards.
        assert!(more > calls + 2, "{more} calls, {calls} for the small one");
    }
    assert_eq!(pool.status().opened, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pdf_of_many_pieces_is_whole() {
    let pool = pool().await;
    let printed = print(&pool, &with_noise(1000, 1300), none()).await;
    assert!(printed.rendered.pdf.len() > 3 * MIB, "{}", printed.rendered.pdf.len());
    assert_eq!(printed.rendered.pages, 1);
    assert_eq!(printed.images(), ["1000x1300"]);
    let text = printed.text();
    assert!(text.contains("Before") && text.contains("After"), "{text}");

    let asset = Asset {
        name: "noise.bmp".into(),
        media_type: "image/bmp",
        bytes: noise(1000, 1300).into(),
    };
    let html = page("<p>Before<img style='width:200px' src=noise.bmp><p>After");
    let mut brought = request("shop", &html, none());
    brought.assets = [asset].into();
    let brought = Printed::of(pool.render(brought).await.unwrap());
    assert!(brought.rendered.pdf == printed.rendered.pdf, "an asset is no other picture");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pdf_over_its_limit_is_not_read_to_its_end_and_its_page_serves_on() {
    let mut config = config();
    config.limits = Limits { pdf_bytes: 100_000, ..LIMITS };
    let pool = Pool::start(config);
    let large = with_noise(1000, 1300);
    for _ in 0..2 {
        let failure = render(&pool, &large, none()).await.unwrap_err();
        assert_eq!((failure.class, failure.code), (Class::Input, "pdf_too_large"), "{failure}");
        let read = format!("more than the {} bytes that are read", 100_000 + MIB);
        assert!(failure.message.contains(&read), "{failure}");
        assert!(print(&pool, &page("<p>next"), none()).await.text().contains("next"));
    }
    // The file is closed beside the answer: soon, not at once.
    let closed = async {
        while streams(&pool) > 0 {
            print(&pool, &page("<p>next"), none()).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("streams are closed");
    let status = pool.status();
    assert_eq!((status.opened, status.starts), (1, 1), "the page was kept: {status:?}");
    pool.close().await;
}
