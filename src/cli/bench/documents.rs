//! What is pushed: documents in a mix, for tenants that take turns, under ids that
//! nobody else has.
//!
//! The n-th job of a run is always the same one: its document follows from n alone,
//! so that two runs push the same documents in the same order, and a job that is to
//! be taken back can be made again.

use std::time::Duration;

use serde_json::{Value, json};

use super::options::Common;
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::Input;
use crate::client::{Element, Name, Priority, Receipt};
use crate::job::fields::Problem;

/// What is pushed where no file is given: 80 mm, 20 rows, one drawing.
const SAMPLE: &str = include_str!("../../../fixtures/receipts/thermal-80mm.html");
const SAMPLE_NAME: &str = "thermal-80mm.html (built in)";
const SAMPLE_PAPER: &str = "80mm";
/// How long anything is kept that could not be erased: the shortest that the queue has.
const KEPT: Duration = Duration::from_secs(60);

/// One document, ready to be pushed by anybody.
struct Document {
    name: String,
    bytes: u64,
    weight: u64,
    receipt: Receipt,
}

/// Everything that a run pushes.
pub(super) struct Jobs {
    first: Document,
    rest: Vec<Document>,
    weight: u64,
    run: String,
    prefix: String,
    tenants: u64,
}

impl Jobs {
    /// Reads the documents. Each is checked as a worker would.
    ///
    /// # Errors
    /// Where one cannot be read, or a worker would refuse it.
    pub(super) fn read(common: &Common, priority: &str) -> Result<Self, Failure> {
        let priority = Priority::from_name(priority).unwrap_or(Priority::Interactive);
        let mut options = common.print.object()?;
        let mut inputs: Vec<(Input, u64)> =
            Input::all(&common.files)?.into_iter().map(|input| (input, 1)).collect();
        inputs.extend(common.mix.iter().map(|given| (Input::new(&given.file), given.weight)));
        let template = |html: String, options| {
            Receipt::new(html)
                .priority(priority)
                .deadline(common.timeout)
                .reply_ttl(KEPT)
                .retain(KEPT)
                .options(options)
        };
        let mut documents = Vec::with_capacity(inputs.len());
        for (input, weight) in inputs {
            let html = input.read()?;
            let (name, bytes) = (input.shown(), html.len() as u64);
            documents.push(Document {
                name,
                bytes,
                weight,
                receipt: template(html, options.clone()),
            });
        }
        let mut documents = documents.into_iter();
        let first = documents.next().unwrap_or_else(|| {
            options.entry("paper").or_insert_with(|| Value::from(SAMPLE_PAPER));
            Document {
                name: SAMPLE_NAME.to_owned(),
                bytes: SAMPLE.len() as u64,
                weight: 1,
                receipt: template(SAMPLE.to_owned(), options),
            }
        });
        let rest: Vec<Document> = documents.collect();
        let weight = first.weight + rest.iter().map(|document| document.weight).sum::<u64>();
        let jobs = Self {
            first,
            rest,
            weight,
            run: format!("{:08x}", rand::random::<u32>()),
            prefix: common.tenant_prefix.clone(),
            tenants: common.tenants,
        };
        for document in jobs.all() {
            jobs.of(document, 0).map_err(|problem| refused(&document.name, &problem))?;
        }
        Ok(jobs)
    }

    fn all(&self) -> impl Iterator<Item = &Document> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Sets this run's jobs apart from all others.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// What the ids of all its jobs begin with.
    pub(super) fn ids(&self) -> String {
        format!("bench-{}-", self.run)
    }

    /// Its tenants.
    pub(super) fn tenants(&self) -> impl Iterator<Item = String> {
        (0..self.tenants).map(|number| format!("{}{number}", self.prefix))
    }

    /// How many they are.
    pub(super) fn tenant_count(&self) -> u64 {
        self.tenants
    }

    /// The n-th job.
    ///
    /// # Errors
    /// None: all documents were checked.
    pub(super) fn element(&self, n: u64) -> Result<Element, Problem> {
        self.of(self.pick(n), n)
    }

    fn of(&self, document: &Document, n: u64) -> Result<Element, Problem> {
        let receipt = document.receipt.clone();
        receipt.tenant(self.tenant(n)).id(format!("{}{n}", self.ids())).element()
    }

    /// What the n-th job is called; `None` where that is no name, which was checked.
    pub(super) fn name(&self, n: u64) -> Option<Name> {
        Name::parse(&format!("{}/{}{n}", self.tenant(n), self.ids()))
    }

    fn tenant(&self, n: u64) -> String {
        format!("{}{}", self.prefix, n % self.tenants.max(1))
    }

    /// By weight, in even parts for each tenant: the multiples of the golden ratio come as
    /// evenly as can be, whenever one stops. Each tenant begins somewhere else.
    fn pick(&self, n: u64) -> &Document {
        let tenants = self.tenants.max(1);
        let place = (n / tenants).wrapping_mul(GOLDEN).wrapping_add(mixed(n % tenants));
        // As much of the weight as the place is of all places.
        let at = (u128::from(place) * u128::from(self.weight)) >> 64;
        let mut at = u64::try_from(at).unwrap_or(0);
        for document in &self.rest {
            if at < document.weight {
                return document;
            }
            at -= document.weight;
        }
        &self.first
    }

    /// The documents, for the report.
    pub(super) fn json(&self) -> Value {
        let shown = self.all().map(|document| {
            json!({"document": document.name, "bytes": document.bytes, "weight": document.weight})
        });
        shown.collect()
    }
}

/// The golden ratio's part after the point, of 2⁶⁴.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads numbers that follow each other: the output function of SplitMix64
/// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn refused(name: &str, problem: &Problem) -> Failure {
    Failure::new(
        Exit::Document,
        format!("reading {name}"),
        problem.message.clone(),
        problem.remedy.clone(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Given {
        #[command(flatten)]
        common: Common,
    }

    fn jobs(args: &[&str]) -> Result<Jobs, Failure> {
        let given = Given::try_parse_from([&["bench"], args].concat()).unwrap();
        Jobs::read(&given.common, "bulk")
    }

    #[test]
    fn without_files_it_is_the_sample_on_its_roll() {
        let plain = jobs(&["--tenants", "2"]).unwrap();
        let element = plain.element(5).unwrap();
        let text = String::from_utf8_lossy(element.bytes()).into_owned();
        let (header, html) = text.split_once('\n').unwrap();
        let header: Value = serde_json::from_str(header).unwrap();
        assert_eq!((html, &header["options"]["paper"]), (SAMPLE, &json!("80mm")));
        assert_eq!(header["tenant"], "bench-1");
        assert_eq!(
            (&header["reply_ttl_ms"], &header["retain_ms"]),
            (&json!(60_000), &json!(60_000)),
            "nothing stays for long, whatever happens"
        );
        assert_eq!(header["deadline_ms"], 60_000);
        assert_eq!(element.priority(), Priority::Bulk);
        assert_eq!(element.name(), &plain.name(5).unwrap());
        assert!(element.name().id().starts_with(&plain.ids()));
        let a4 = jobs(&["--paper", "A4"]).unwrap().element(0).unwrap();
        assert!(String::from_utf8_lossy(a4.bytes()).contains(r#""paper":"A4""#));
        assert_eq!(plain.tenants().collect::<Vec<_>>(), ["bench-0", "bench-1"]);
    }

    #[test]
    fn a_job_can_be_made_again_and_no_two_runs_share_one() {
        let (one, other) = (jobs(&[]).unwrap(), jobs(&[]).unwrap());
        assert_eq!(one.element(7).unwrap().bytes(), one.element(7).unwrap().bytes());
        assert_ne!(one.ids(), other.ids());
    }

    #[test]
    fn a_mix_comes_as_often_as_it_says_to_each_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for name in ["a", "b", "c"] {
            std::fs::write(path(name), format!("<p>{name}")).unwrap();
        }
        let mix = format!("{}=6,{}=3", path("a"), path("b"));
        let jobs = jobs(&[&path("c"), "--mix", &mix]).unwrap();
        let mut seen: BTreeMap<(String, String), u32> = BTreeMap::new();
        for n in 0..9_000 {
            let element = jobs.element(n).unwrap();
            let html = String::from_utf8_lossy(element.bytes()).into_owned();
            let html = html.split_once('\n').unwrap().1.to_owned();
            *seen.entry((element.name().tenant().to_owned(), html)).or_default() += 1;
        }
        for tenant in jobs.tenants() {
            for (html, share) in [("<p>a", 1_800), ("<p>b", 900), ("<p>c", 300)] {
                let count = seen[&(tenant.clone(), html.to_owned())];
                assert!(count.abs_diff(share) < 5, "{tenant} {html}: {count} of {share}");
            }
        }
        assert_eq!(jobs.json()[1]["weight"], 6);
    }

    #[test]
    fn what_no_worker_would_take_is_told_before_anything_is_pushed() {
        let dir = tempfile::tempdir().unwrap();
        let bad = dir.path().join("nul.html");
        std::fs::write(&bad, "<p>\0").unwrap();
        let failure = jobs(&[bad.to_str().unwrap()]).err().unwrap();
        assert_eq!(failure.exit, Exit::Document);
        assert!(failure.what.contains("nul.html") && failure.why.contains("NUL"), "{failure}");
        assert_eq!(jobs(&["/nowhere.html"]).err().unwrap().exit, Exit::Document);
    }
}
