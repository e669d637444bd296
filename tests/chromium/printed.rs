//! Pools to render with, and what independent tools say about a PDF.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tillroll::failure::Failure;
use tillroll::job::{Rules, options};
use tillroll::pool::recycle::RecyclePolicy;
use tillroll::pool::{Isolation, Pool, PoolConfig, ScriptPolicy};
use tillroll::renderer::files::Files;
use tillroll::renderer::launcher::Launcher;
use tillroll::renderer::limits::Limits;
use tillroll::renderer::pdf::Document;
use tillroll::renderer::{Render, RenderRequest, Rendered};
use time::macros::datetime;

use crate::support;

/// As `worker-config/default.toml` has them.
pub(crate) const LIMITS: Limits =
    Limits { nodes: 200_000, depth: 200, pixels: 100_000_000, pages: 1_000, pdf_bytes: 32_000_000 };

/// Up to four contexts, kept warm.
pub(crate) fn config() -> PoolConfig {
    PoolConfig {
        launcher: Launcher::start().unwrap(),
        browser: support::jailed(),
        max_contexts: 4,
        enough: usize::MAX,
        patience: Duration::ZERO,
        isolation: Isolation::Tenant,
        scripts: ScriptPolicy { allowed: true, time: Duration::from_secs(5) },
        max_timeout: Duration::from_secs(60),
        recycle: RecyclePolicy::default(),
        limits: LIMITS,
        // The engine is the one that is given; fonts of this machine may change.
        files: Files { search: None, fonts: Vec::new() },
        look_every: Duration::from_secs(30),
        // What tests count is what their jobs asked for.
        spares: 0,
    }
}

/// A pool whose browser is ready.
pub(crate) async fn pool() -> Pool {
    let pool = Pool::start(config());
    pool.ready().await.unwrap();
    pool
}

/// A request with options as a producer writes them.
pub(crate) fn request(tenant: &str, html: &str, options: Value) -> RenderRequest {
    let mut options = options::parse(options.as_object().unwrap()).unwrap();
    // The suite shares its cores: time limits are tested where they are the point.
    if options.timeout == options::DEFAULT_TIMEOUT {
        options.timeout = Duration::from_secs(40);
    }
    RenderRequest {
        job: 0,
        tenant: tenant.into(),
        rules: Rules::default(),
        html: html.into(),
        assets: Arc::default(),
        options: Arc::new(options),
        date: datetime!(2026-03-31 12:00 UTC),
    }
}

/// Renders for the tenant `shop`.
pub(crate) async fn render(pool: &Pool, html: &str, options: Value) -> Result<Rendered, Failure> {
    pool.render(request("shop", html, options)).await
}

/// Renders, and looks at the result.
pub(crate) async fn print(pool: &Pool, html: &str, options: Value) -> Printed {
    let rendered = render(pool, html, options.clone()).await;
    Printed::of(rendered.unwrap_or_else(|failure| panic!("{options}: {failure}")))
}

/// A whole document around `body`.
pub(crate) fn page(body: &str) -> String {
    format!("<!doctype html><html lang=en><title>Bill 7</title><body>{body}</body></html>")
}

/// A failed render's class and code.
pub(crate) async fn blame(pool: &Pool, html: &str, options: Value) -> (&'static str, &'static str) {
    let failure = render(pool, html, options).await.unwrap_err();
    assert!(!failure.remedy.is_empty(), "{failure}");
    (failure.class.as_str(), failure.code)
}

/// A finished PDF in a file.
pub(crate) struct Printed {
    pub(crate) rendered: Rendered,
    file: NamedTempFile,
}

impl Printed {
    /// Checks that it is a valid PDF with the pages that it was said to have.
    pub(crate) fn of(rendered: Rendered) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&rendered.pdf).unwrap();
        let printed = Self { rendered, file };
        let check = Command::new("qpdf").arg("--check").arg(printed.file.path()).output().unwrap();
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.status.success(), "{said}{}", String::from_utf8_lossy(&check.stderr));
        assert!(said.contains("No syntax or stream encoding errors"), "{said}");
        assert_eq!(printed.sizes().len(), usize::try_from(printed.rendered.pages).unwrap());
        printed
    }

    fn tool(&self, name: &str, before: &[&str], after: &[&str]) -> Vec<u8> {
        let mut command = Command::new(name);
        command.args(before).arg(self.file.path()).args(after).stderr(Stdio::null());
        let output = command.output().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(output.status.success(), "{name}");
        output.stdout
    }

    /// Its text, page after page.
    pub(crate) fn text(&self) -> String {
        let raw = self.tool("pdftotext", &["-layout"], &["-"]);
        String::from_utf8(raw).unwrap()
    }

    /// What pdfinfo says under `key`.
    pub(crate) fn info(&self, key: &str) -> String {
        let text = String::from_utf8(self.tool("pdfinfo", &["-rawdates"], &[])).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{key}:")));
        line.map_or(String::new(), |line| line[key.len() + 1..].trim().to_owned())
    }

    /// Width and height of every page in points, to a hundredth.
    pub(crate) fn sizes(&self) -> Vec<(f64, f64)> {
        let cents = |value: f64| (value * 100.0).round() / 100.0;
        let document = Document::read(&self.rendered.pdf).unwrap();
        let boxes = document.pages().iter().map(|page| page.media_box);
        boxes.map(|[l, b, r, t]| (cents(r - l), cents(t - b))).collect()
    }

    /// Left, top, right and bottom of a word on the first page, in points from its top left.
    pub(crate) fn word(&self, word: &str) -> [f64; 4] {
        let xml = String::from_utf8(self.tool("pdftotext", &["-bbox"], &["-"])).unwrap();
        let line = xml.lines().find(|line| line.contains(&format!(">{word}</word>")));
        let line = line.unwrap_or_else(|| panic!("no {word:?} in {xml}"));
        ["xMin", "yMin", "xMax", "yMax"].map(|key| {
            let at = line.find(&format!("{key}=\"")).unwrap() + key.len() + 2;
            line[at..].split('"').next().unwrap().parse().unwrap()
        })
    }

    /// The first page as grey pixels, one per point and row by row.
    pub(crate) fn pixels(&self) -> Vec<Vec<u8>> {
        self.grey(&["-r", "72"])
    }

    /// The first page as grey pixels at `dpi` dots per inch.
    pub(crate) fn pixels_at(&self, dpi: u32) -> Vec<Vec<u8>> {
        self.grey(&["-r", &dpi.to_string()])
    }

    /// One row of the first page as grey pixels.
    pub(crate) fn row(&self, dpi: u32, row: u32) -> Vec<u8> {
        let [dpi, row] = [dpi, row].map(|number| number.to_string());
        self.grey(&["-r", &dpi, "-y", &row, "-H", "1"]).swap_remove(0)
    }

    fn grey(&self, options: &[&str]) -> Vec<Vec<u8>> {
        let options = [options, &["-gray", "-singlefile"]].concat();
        let pgm = self.tool("pdftoppm", &options, &[]);
        let mut fields = pgm.splitn(4, |byte| byte.is_ascii_whitespace());
        let mut number = || {
            let field = fields.next().unwrap();
            std::str::from_utf8(field).unwrap().parse::<usize>().ok()
        };
        assert_eq!(number(), None, "the magic number");
        let (width, _height) = (number().unwrap(), number().unwrap());
        let rest = fields.next().unwrap();
        let start = rest.iter().position(u8::is_ascii_whitespace).unwrap() + 1;
        rest[start..].chunks(width).map(<[u8]>::to_vec).collect()
    }

    /// The codes of its warnings.
    pub(crate) fn warnings(&self) -> Vec<&'static str> {
        self.rendered.warnings.iter().map(|warning| warning.code).collect()
    }

    /// How large the images in it are, in pixels.
    pub(crate) fn images(&self) -> Vec<String> {
        let text = String::from_utf8(self.tool("pdfimages", &["-list"], &[])).unwrap();
        let size = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            format!("{}x{}", fields[3], fields[4])
        };
        text.lines().skip(2).map(size).collect()
    }

    /// The names of its fonts.
    pub(crate) fn fonts(&self) -> String {
        String::from_utf8(self.tool("pdffonts", &[], &[])).unwrap()
    }
}

/// A file of `fixtures/assets` in base64.
pub(crate) fn asset(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/assets").join(name);
    STANDARD.encode(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// No options.
pub(crate) fn none() -> Value {
    json!({})
}
