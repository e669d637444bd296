//! What is counted while jobs come back, in bounded memory. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde_json::{Value, json};

use crate::client::{Reply, Status};

/// Longer than any run.
const LONGEST_US: u64 = 4 * 3_600 * 1_000_000;
/// To a thousandth.
const DIGITS: u8 = 3;
/// Kinds of failure or warning that are told apart.
const KINDS: usize = 40;
/// Fewer receipts have no middle.
const FEWEST_FOR_MIDDLE: u64 = 20;

/// Times, by how often they came.
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_US, DIGITS)?))
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_US));
    }

    /// Milliseconds that this share of all took at most; `None` where there is none.
    pub(super) fn ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| shown(self.0.value_at_quantile(share) as f64 / 1e3))
    }

    /// The percentiles that are told.
    pub(super) fn json(&self) -> Value {
        json!({
            "p50": self.ms(0.5),
            "p90": self.ms(0.9),
            "p95": self.ms(0.95),
            "p99": self.ms(0.99),
            "max": self.ms(1.0),
        })
    }
}

/// As many digits as are known.
pub(super) fn shown(number: f64) -> f64 {
    let parts = match number {
        ..100.0 => 100.0,
        ..1_000.0 => 10.0,
        _ => 1.0,
    };
    (number * parts).round() / parts
}

/// How often one kind of failure came about, and what helps.
#[derive(Default)]
struct Failed {
    count: u64,
    remedy: String,
}

/// One job that came back.
pub(super) struct Back {
    /// Since it was due.
    pub(super) took: Duration,
    /// How long after it was due it was pushed.
    pub(super) lag: Duration,
    /// Since the beginning of the run.
    pub(super) at: Duration,
}

/// All that is counted.
pub(super) struct Figures {
    /// From when it was due to its reply, of receipts that were done.
    pub(super) took: Times,
    /// From when it was due to its push.
    pub(super) lag: Times,
    queued: Times,
    rendered: Times,
    /// When receipts were done.
    ends: Times,
    /// When the last reply came.
    last: Duration,
    /// Receipts that were done.
    pub(super) done: u64,
    /// Jobs that ended otherwise.
    pub(super) failed: u64,
    /// Jobs that were taken back before they ended.
    pub(super) taken_back: u64,
    failures: BTreeMap<(&'static str, String), Failed>,
    warnings: BTreeMap<String, u64>,
    pages: u64,
    /// Bytes that were pushed.
    pub(super) pushed_bytes: u64,
    pdf_bytes: u64,
}

impl Figures {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self {
            took: Times::new()?,
            lag: Times::new()?,
            queued: Times::new()?,
            rendered: Times::new()?,
            ends: Times::new()?,
            last: Duration::ZERO,
            done: 0,
            failed: 0,
            taken_back: 0,
            failures: BTreeMap::new(),
            warnings: BTreeMap::new(),
            pages: 0,
            pushed_bytes: 0,
            pdf_bytes: 0,
        })
    }

    /// A reply came.
    pub(super) fn replied(&mut self, back: &Back, reply: &Reply) {
        self.last = self.last.max(back.at);
        self.lag.record(back.lag);
        for warning in &reply.warnings {
            *bounded(&mut self.warnings, warning.code.clone(), "other".to_owned()) += 1;
        }
        if reply.status != Status::Done {
            let error = reply.error.as_ref();
            let code = error.map_or("none", |error| error.code.as_str());
            let remedy = error.map_or("", |error| error.remedy.as_str());
            self.fail(reply.status.as_str(), code, remedy);
            return;
        }
        self.done += 1;
        self.took.record(back.took);
        self.ends.record(back.at);
        self.queued.record(Duration::from_millis(reply.timings.queued_ms));
        self.rendered.record(Duration::from_millis(reply.timings.rendered_ms));
        self.pages += u64::from(reply.pages);
        self.pdf_bytes += reply.bytes;
    }

    /// No reply came in time.
    pub(super) fn silent(&mut self, back: &Back) {
        self.last = self.last.max(back.at);
        self.lag.record(back.lag);
        self.fail("silent", "no_reply", "look at the workers' logs, or give more --timeout");
    }

    fn fail(&mut self, status: &'static str, code: &str, remedy: &str) {
        self.failed += 1;
        let kind =
            bounded(&mut self.failures, (status, code.to_owned()), ("other", "other".into()));
        kind.count += 1;
        if kind.remedy.is_empty() {
            kind.remedy = remedy.to_owned();
        }
    }

    /// Seconds until the last reply.
    pub(super) fn seconds(&self) -> f64 {
        self.last.as_secs_f64()
    }

    /// Receipts a second: from the beginning to the last reply.
    pub(super) fn rate(&self) -> f64 {
        if self.last.is_zero() { 0.0 } else { shown(self.done as f64 / self.seconds()) }
    }

    /// The same between the tenth and the ninetieth of a hundred receipts: without
    /// what only the beginning and the end have.
    pub(super) fn middle_rate(&self) -> Option<f64> {
        let at = |share| self.ends.0.value_at_quantile(share) as f64 / 1e6;
        let (from, to) = (at(0.1), at(0.9));
        (self.done >= FEWEST_FOR_MIDDLE && to > from)
            .then(|| shown(self.done as f64 * 0.8 / (to - from)))
    }

    /// What both kinds of run tell.
    pub(super) fn json(&self) -> Value {
        let failures = self.failures.iter().map(|((status, code), kind)| {
            json!({"status": status, "code": code, "count": kind.count, "remedy": kind.remedy})
        });
        let warnings =
            self.warnings.iter().map(|(code, count)| json!({"code": code, "count": count}));
        json!({
            "seconds": shown(self.seconds()),
            "done": self.done,
            "failed": self.failed,
            "taken_back": self.taken_back,
            "receipts_per_s": self.rate(),
            "failures": failures.collect::<Value>(),
            "warnings": warnings.collect::<Value>(),
            "pages": self.pages,
            "pushed_bytes": self.pushed_bytes,
            "pdf_bytes": self.pdf_bytes,
            "queued_ms": self.queued.json(),
            "rendered_ms": self.rendered.json(),
        })
    }
}

/// The entry for `key`, or the one for `other` where there are too many already.
fn bounded<K: Ord, V: Default>(map: &mut BTreeMap<K, V>, key: K, other: K) -> &mut V {
    let room = map.len() < KINDS || map.contains_key(&key);
    map.entry(if room { key } else { other }).or_default()
}

/// Whether an open loop fell behind although nothing was left out: much of what was
/// sent had not come back when the last one arrived, and more than the workers
/// could just have in hand.
pub(super) fn fell_behind(sent: u64, flying: u64, slots: u64) -> bool {
    flying > slots.saturating_mul(4).max(8) && flying.saturating_mul(20) > sent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn reply(line: &str) -> Reply {
        Reply::read(&format!("{{\"v\":1,\"id\":\"i\",\"tenant\":\"t\",{line}}}")).unwrap()
    }

    fn done(queued: u64, rendered: u64) -> Reply {
        reply(&format!(
            r#""status":"done","pages":2,"bytes":1000,"warnings":[{{"code":"w","message":"m","remedy":"r"}}],
            "timings":{{"queued_ms":{queued},"rendered_ms":{rendered},"total_ms":0}}"#
        ))
    }

    #[test]
    fn percentiles_are_those_of_all_that_were_done() {
        let mut figures = Figures::new().unwrap();
        for n in 1..=100 {
            let back = Back { took: ms(n), lag: ms(0), at: ms(10 * n) };
            figures.replied(&back, &done(2 * n, 5));
        }
        let back = Back { took: ms(9_000), lag: ms(40), at: ms(1_000) };
        figures.replied(&back, &reply(r#""status":"dead""#));
        assert_eq!(figures.took.ms(0.5).map(f64::round), Some(50.0));
        assert_eq!(figures.took.ms(0.99).map(f64::round), Some(99.0));
        assert_eq!(figures.took.ms(1.0).map(f64::round), Some(100.0), "a failure is no receipt");
        assert_eq!(figures.lag.ms(1.0).map(f64::round), Some(40.0));
        let json = figures.json();
        assert_eq!(json["queued_ms"]["max"].as_f64().map(f64::round), Some(200.0));
        assert_eq!(json["rendered_ms"]["p50"].as_f64().map(f64::round), Some(5.0));
        assert_eq!((&json["pages"], &json["pdf_bytes"]), (&json!(200), &json!(100_000)));
        assert_eq!(json["warnings"], json!([{"code": "w", "count": 100}]));
    }

    #[test]
    fn nothing_has_no_percentiles_and_no_rate() {
        let figures = Figures::new().unwrap();
        assert_eq!(figures.took.json()["p50"], Value::Null);
        assert_eq!((figures.rate(), figures.middle_rate()), (0.0, None));
    }

    #[test]
    fn the_middle_leaves_a_slow_start_and_a_slow_end_out() {
        let mut figures = Figures::new().unwrap();
        // Ten in the first ten seconds, eighty in one, ten in another ten.
        let slow = (1..=10).map(|n| 1_000 * n);
        let fast = (1..=80).map(|n| 10_000 + n * 1_000 / 80);
        let late = (1..=10).map(|n| 11_000 + 1_000 * n);
        for at in slow.chain(fast).chain(late) {
            figures.replied(&Back { took: ms(1), lag: ms(0), at: ms(at) }, &done(0, 0));
        }
        assert_eq!(figures.rate(), 4.76);
        let middle = figures.middle_rate().unwrap();
        assert!((78.0..82.0).contains(&middle), "{middle}");
    }

    #[test]
    fn failures_are_told_apart_by_code_and_never_without_end() {
        let mut figures = Figures::new().unwrap();
        let back = Back { took: ms(1), lag: ms(0), at: ms(1) };
        let rejected = r#""status":"rejected","error":{"class":"resource","code":"queue_full",
            "message":"m","remedy":"add workers","retry_ms":5}"#;
        figures.replied(&back, &reply(rejected));
        figures.replied(&back, &reply(rejected));
        figures.silent(&back);
        let json = figures.json();
        assert_eq!(
            json["failures"][0],
            json!({"status": "rejected", "code": "queue_full", "count": 2, "remedy": "add workers"})
        );
        assert_eq!(json["failures"][1]["code"], "no_reply");
        for n in 0..100 {
            let code = rejected.replace("queue_full", &format!("code-{n}"));
            figures.replied(&back, &reply(&code));
        }
        let json = figures.json();
        let failures = json["failures"].as_array().unwrap();
        assert!(failures.len() <= KINDS + 1, "{}", failures.len());
        let total: u64 = failures.iter().map(|kind| kind["count"].as_u64().unwrap()).sum();
        assert_eq!((total, figures.failed), (103, 103));
    }

    #[test]
    fn a_queue_that_only_grew_fell_behind() {
        assert!(fell_behind(150, 30, 3), "5/s where 4/s are done");
        assert!(!fell_behind(150, 1, 3));
        assert!(!fell_behind(150, 12, 3), "what the workers may just have in hand");
        assert!(!fell_behind(10_000, 400, 3), "a short stall of many");
    }
}
