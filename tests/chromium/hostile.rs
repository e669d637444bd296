//! Every document of `fixtures/hostile`, on a real jailed Chromium: what becomes
//! of it, that it reaches nothing, and that the jobs after it are untouched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tillroll::failure::Failure;
use tillroll::job::{self, Asset, Priority};
use tillroll::pool::Pool;
use tillroll::renderer::processes::Kind;
use tillroll::renderer::{Render, RenderRequest, Rendered};
use tokio::time::Instant;

use crate::bombs;
use crate::outside::{self, World};
use crate::printed::{Printed, none, pool, request};

/// What the fixtures try to read.
const CANARY_FILE: &str = "/tmp/tillroll-hostile-canary.txt";
const CANARY: &str = "canary-4f1c9e";
/// Of `/etc/passwd` on any system.
const PASSWD: &str = "root:x:";

/// What a case is to come to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    outcome: Outcome,
    /// Whether it may be done all the same, on a machine that is fast enough.
    #[serde(default)]
    or_done: bool,
    /// Who makes the document, where it is no file.
    make: Option<String>,
    #[serde(default)]
    options: serde_json::Map<String, Value>,
    /// Whether it brings an asset along, so that its requests are answered.
    #[serde(default)]
    asset: bool,
    /// Codes of warnings that it may have.
    #[serde(default)]
    warnings: Vec<String>,
    /// What must not be in the PDF, beside the canary and the host's users.
    #[serde(default)]
    absent: Vec<String>,
    /// What must be, beside the total.
    #[serde(default)]
    present: Vec<String>,
    /// Whether there is nothing in it.
    #[serde(default)]
    empty: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Done(String),
    Failed([String; 2]),
}

/// A file that is there for anyone, while the test runs.
struct Canary;

impl Canary {
    fn put() -> Self {
        std::fs::write(CANARY_FILE, format!("{CANARY}\n")).unwrap();
        Self
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        std::fs::remove_file(CANARY_FILE).ok();
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hostile")
}

/// All cases, by group and name.
fn cases() -> Vec<(String, Case)> {
    let mut groups: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    groups.sort();
    let mut cases = Vec::new();
    for group in groups.iter().filter(|path| path.is_dir()) {
        let expected = std::fs::read(group.join("expected.json")).unwrap();
        let expected: BTreeMap<String, Case> = serde_json::from_slice(&expected).unwrap();
        let files = std::fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.extension().unwrap() == "html").collect();
        for file in &files {
            let name = file.file_stem().unwrap().to_str().unwrap();
            assert!(expected.contains_key(name), "{} has no outcome beside it", file.display());
        }
        let group = group.file_name().unwrap().to_str().unwrap().to_owned();
        cases.extend(expected.into_iter().map(|(name, case)| (format!("{group}/{name}"), case)));
    }
    cases
}

/// The case as a job, or why it is refused.
fn job(name: &str, case: &Case) -> Result<RenderRequest, Failure> {
    let document = match &case.make {
        Some(make) => bombs::make(make),
        None => std::fs::read(folder().join(format!("{name}.html"))).unwrap(),
    };
    let mark = if case.make.as_deref() == Some("bom_header") { "\u{feff}" } else { "" };
    let header = json!({"id": "r-1", "tenant": "evil", "options": case.options});
    let element = [format!("{mark}{header}\n").as_bytes(), &document].concat();
    let job = job::parse(&element, Priority::Interactive, String::new).map_err(|rejection| {
        let problem = rejection.problem;
        Failure::new(tillroll::failure::Class::Input, problem.code, problem.message, problem.remedy)
    })?;
    let mut request = request("evil", &job.html, none());
    if case.options.contains_key("timeout_ms") {
        request.options = Arc::new(job.options);
    } else {
        let timeout = request.options.timeout;
        request.options = Arc::new(job::RenderOptions { timeout, ..job.options });
    }
    if case.asset {
        let svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>".to_vec();
        let asset = |name: &str, media_type, bytes: Vec<u8>| Asset {
            name: name.into(),
            media_type,
            bytes: bytes.into(),
        };
        let mut assets = vec![asset("logo.svg", "image/svg+xml", svg)];
        if case.make.is_some() {
            let image = case.make.as_deref() == Some("png_asset");
            assets.push(match image {
                true => asset("logo.png", "image/png", bombs::png()),
                false => asset("pages.css", "text/css", b"p{break-after:page}".to_vec()),
            });
        }
        request.assets = assets.into();
    }
    Ok(request)
}

/// A receipt that shows whatever others left behind: it names their fonts, their
/// variables and their pictures.
fn clean(tenant: &str) -> RenderRequest {
    let html = "<meta charset=utf-8><title>Bill 7</title><style title=shop>body{font-family:Till,Read,\
                'Liberation Sans',sans-serif;color:var(--accent,#123456)}\
                ol{list-style:decimal}:lang(ja){color:red}</style><h1>Corner shop</h1><ol><li>Tea 2.00<li>Cake 3.50</ol>\
                <p>Total 5.50 <a href=x>again</a><img src=left.png alt=''>";
    request(tenant, html, json!({"paper": "80mm"}))
}

/// What became of a case, or what is wrong with it.
fn check(case: &Case, result: Result<Rendered, Failure>) -> Result<String, String> {
    let (done, rendered) = match (&case.outcome, result) {
        (Outcome::Failed([class, code]), Err(failure)) => {
            let right = (failure.class.as_str(), failure.code) == (class.as_str(), code.as_str());
            let sound = !failure.remedy.is_empty() && !failure.message.contains(CANARY);
            return if right && sound {
                Ok(format!("{class}/{code}"))
            } else {
                Err(failure.to_string())
            };
        }
        (Outcome::Failed(_), Ok(_)) if case.or_done => return Ok("done in time".to_owned()),
        (Outcome::Done(done), Ok(rendered)) => (done, rendered),
        (Outcome::Failed(_), Ok(rendered)) => {
            return Err(format!("done, {} pages", rendered.pages));
        }
        (Outcome::Done(_), Err(failure)) => return Err(failure.to_string()),
    };
    let printed = Printed::of(rendered);
    let text = printed.text().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut wrong = Vec::new();
    let mut need = |right: bool, what: &str| {
        if !right {
            wrong.push(what.to_owned())
        }
    };
    need(done == "done", "an unknown outcome");
    for absent in case.absent.iter().map(String::as_str).chain([CANARY, PASSWD]) {
        need(!text.contains(absent), &format!("{absent:?} is in it"));
    }
    let total = if case.empty { None } else { Some("Total 12.00") };
    for present in case.present.iter().map(String::as_str).chain(total) {
        need(text.contains(present), &format!("{present:?} is not in it"));
    }
    for warning in printed.warnings() {
        need(case.warnings.iter().any(|known| known == warning), &format!("it has {warning}"));
    }
    if !wrong.is_empty() {
        return Err(format!("{}: {text}", wrong.join(", ")));
    }
    Ok(format!("done, {} page(s) {:?}", printed.rendered.pages, printed.warnings()))
}

async fn bytes(pool: &Pool, tenant: &str, after: &str) -> Vec<u8> {
    let rendered = pool.render(clean(tenant)).await;
    rendered.unwrap_or_else(|failure| panic!("{tenant} after {after}: {failure}")).pdf
}

#[tokio::test(flavor = "multi_thread")]
async fn no_document_reaches_anything_or_anyone() {
    if !outside::is_within("hostile::no_document_reaches_anything_or_anyone") {
        return;
    }
    let (_canary, world) = (Canary::put(), World::listen());
    let pool = pool().await;
    let baseline = bytes(&pool, "shop", "nothing").await;
    assert_eq!(bytes(&pool, "evil", "nothing").await, baseline);
    let cases = cases();
    let mut wrong = Vec::new();
    for (name, case) in &cases {
        let began = Instant::now();
        let result = match job(name, case) {
            Ok(request) => pool.render(request).await,
            Err(refused) => Err(refused),
        };
        let took = began.elapsed();
        let outcome = check(case, result);
        for tenant in ["evil", "shop"] {
            if bytes(&pool, tenant, name).await != baseline {
                wrong.push(format!("{name}: the next PDF of {tenant} is another one"));
            }
        }
        world.heard_nothing(name);
        println!("{name:60} {:5} ms  {outcome:?}", took.as_millis());
        wrong.extend(outcome.err().map(|why| format!("{name}: {why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() > 80, "{} cases", cases.len());
    let browser = pool.browser().unwrap();
    assert_eq!(pool.status().deaths, 0, "no document ends a browser");
    for process in browser.processes().iter().filter(|process| process.kind != Kind::Other) {
        assert_eq!(outside::interfaces(&process.pid.to_string()), ["lo"], "{process:?}");
    }
    println!("{} cases, no connection, no packet", cases.len());
    world.would_have_heard();
    pool.close().await;
}
