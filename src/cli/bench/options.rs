//! What `tillroll bench` may be told, and within which limits. Pure, but for the
//! words of clap.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::value_parser;

use crate::cli::options::PrintFlags;
use crate::cli::plan::sizes;
use crate::config::units::parse_duration;
use crate::job::is_token;

/// Jobs under way at once, at most: each waits on a connection of its own.
pub(super) const MOST_IN_FLIGHT: usize = 500;
/// Where nothing is said, at least so many are under way.
const USUAL_IN_FLIGHT: usize = 64;
/// Where nothing is said: enough that no renderer ever waits for a push.
const FOR_EACH_SLOT: u64 = 8;
/// Where nothing is said, in an open loop: what arrives in this time.
const PATIENT_FOR: f64 = 10.0;
/// What throughput is measured for, where nothing is said.
const USUAL_DURATION: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// The greatest number of a tenant has three digits.
const LONGEST_PREFIX: usize = 61;

/// A document, and how often it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Weighted {
    pub(super) file: PathBuf,
    pub(super) weight: u64,
}

/// What both kinds take.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// HTML files, or directories of .html files, equally often; - is stdin
    /// [default: a sample receipt on an 80 mm roll]
    #[arg(value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Documents and how often each comes, like receipt.html=9,invoice.html=1 (1 to 1000);
    /// each FILE counts 1
    #[arg(long, value_name = "FILE=WEIGHT,…", value_delimiter = ',', value_parser = weighted)]
    pub(super) mix: Vec<Weighted>,
    /// Tenants that take turns: PREFIX0, PREFIX1 and so on
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u64).range(1..=1000))]
    pub(super) tenants: u64,
    /// What their names begin with
    #[arg(long, value_name = "PREFIX", default_value = "bench-", value_parser = prefix, allow_hyphen_values = true)]
    pub(super) tenant_prefix: String,
    /// Receipts of each tenant that are rendered before the clock starts, 0 to 100
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(0..=100))]
    pub(super) warm_up: u64,
    /// How long to wait for one reply, 1s to 1h; a job that has not begun by then expires
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// Begin although more than 100 jobs of others wait: theirs are delayed, and the figures
    /// are those of both
    #[arg(long)]
    pub(super) beside_others: bool,
    /// Set the figures beside those of an earlier run, a file with its --json; the JSON of
    /// this one stays as it is
    #[arg(long, value_name = "FILE")]
    pub(super) compare: Option<PathBuf>,
    #[command(flatten)]
    pub(super) print: PrintFlags,
}

/// As fast as it goes.
#[derive(Debug, clap::Args)]
pub(super) struct Throughput {
    /// Push so many jobs, 1 to 1000000
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(super) jobs: Option<u64>,
    /// Push for so long, 1s to 1h [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) duration: Option<Duration>,
    /// Jobs under way at once, 1 to 500: the queue never holds more of them
    /// [default: 8 for each document that the workers render at once, at least 64]
    #[arg(long, value_name = "N", value_parser = in_flight())]
    pub(super) in_flight: Option<usize>,
    /// Which inbox
    #[arg(long, default_value = "interactive", value_parser = ["interactive", "bulk"], value_name = "PRIORITY")]
    pub(super) priority: String,
    #[command(flatten)]
    pub(super) common: Common,
}

/// At a rate.
#[derive(Debug, clap::Args)]
pub(super) struct Latency {
    /// Jobs that arrive, like 5/s, 300/min or 18000/h: 0.1 to 10000 a second
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) rate: f64,
    /// For how long they arrive, 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(super) duration: Duration,
    /// When they arrive: constant (one after each equal pause) or poisson (like customers)
    #[arg(long, default_value = "constant", value_parser = ["constant", "poisson"], value_name = "ARRIVALS")]
    pub(super) arrivals: String,
    /// Jobs under way at once, 1 to 500: what arrives beyond them is not sent, and counted
    /// [default: what arrives in 10 s, 64 to 500]
    #[arg(long, value_name = "N", value_parser = in_flight())]
    pub(super) in_flight: Option<usize>,
    /// Which inbox
    #[arg(long, default_value = "interactive", value_parser = ["interactive", "bulk"], value_name = "PRIORITY")]
    pub(super) priority: String,
    #[command(flatten)]
    pub(super) common: Common,
}

fn in_flight() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST_IN_FLIGHT as u64)
}

impl Throughput {
    /// When to stop pushing.
    pub(super) fn until(&self) -> Until {
        match (self.jobs, self.duration) {
            (Some(jobs), _) => Until::Jobs(jobs),
            (None, duration) => Until::After(duration.unwrap_or(USUAL_DURATION)),
        }
    }

    /// How many are under way, where the workers render so many at once.
    pub(super) fn in_flight(&self, slots: u64) -> usize {
        self.in_flight.unwrap_or_else(|| {
            let wanted = usize::try_from(slots.saturating_mul(FOR_EACH_SLOT));
            wanted.unwrap_or(MOST_IN_FLIGHT).clamp(USUAL_IN_FLIGHT, MOST_IN_FLIGHT)
        })
    }
}

impl Latency {
    /// How many may be under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.unwrap_or_else(|| {
            let wanted = (USUAL_IN_FLIGHT..=MOST_IN_FLIGHT)
                .find(|bound| *bound as f64 >= self.rate * PATIENT_FOR);
            wanted.unwrap_or(MOST_IN_FLIGHT)
        })
    }
}

/// When a closed loop stops pushing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// After so many jobs.
    Jobs(u64),
    /// After so long.
    After(Duration),
}

/// `FILE=WEIGHT`; a name may have an equals sign in it.
fn weighted(text: &str) -> Result<Weighted, String> {
    let form = "write it like receipt.html=9";
    let Some((file, weight)) = text.rsplit_once('=').filter(|(file, _)| !file.is_empty()) else {
        return Err(format!("it has no file and weight; {form}"));
    };
    match weight.trim().parse() {
        Ok(weight @ 1..=1000) => Ok(Weighted { file: PathBuf::from(file.trim()), weight }),
        _ => Err(format!("a weight is a whole number from 1 to 1000; {form}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let form = "write it like 30s, 5m or 1h";
    match parse_duration(text) {
        Ok(length) if (SHORTEST..=LONGEST).contains(&length) => Ok(length),
        Ok(_) => Err(format!("it must be from 1s to 1h; {form}")),
        Err(why) => Err(format!("{why}; {form}")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = sizes::rate(text)?;
    if (0.1..=10_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("it must be from 0.1/s to 10000/s; write it like 5/s".to_owned())
    }
}

fn prefix(text: &str) -> Result<String, String> {
    if is_token(text, LONGEST_PREFIX) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "it is 1 to {LONGEST_PREFIX} letters, digits and . _ : -; write it like bench-"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Closed {
        #[command(flatten)]
        throughput: Throughput,
    }

    #[derive(Parser)]
    struct Open {
        #[command(flatten)]
        latency: Latency,
    }

    fn closed(args: &[&str]) -> Result<Throughput, String> {
        let parsed = Closed::try_parse_from([&["bench"], args].concat());
        parsed.map(|parsed| parsed.throughput).map_err(|error| error.to_string())
    }

    fn open(args: &[&str]) -> Result<Latency, String> {
        let parsed = Open::try_parse_from([&["bench"], args].concat());
        parsed.map(|parsed| parsed.latency).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_sensible() {
        let plain = closed(&[]).unwrap();
        assert_eq!(plain.until(), Until::After(Duration::from_secs(30)));
        assert_eq!(
            [0, 3, 20, 1_000, u64::MAX].map(|slots| plain.in_flight(slots)),
            [64, 64, 160, 500, 500]
        );
        assert_eq!((plain.common.tenants, &*plain.common.tenant_prefix), (3, "bench-"));
        assert_eq!(closed(&["--jobs", "7"]).unwrap().until(), Until::Jobs(7));
        assert_eq!(closed(&["--in-flight", "2"]).unwrap().in_flight(99), 2);
        let bound = |rate: &str| open(&["--rate", rate]).unwrap().in_flight();
        assert_eq!(["5/s", "6.5/s", "20/s", "10000/s"].map(bound), [64, 65, 200, 500]);
        assert_eq!(open(&["--rate", "300/min"]).unwrap().rate, 5.0);
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused_with_the_limit() {
        for (args, says) in [
            (&["--jobs", "0"][..], "1..=1000000"),
            (&["--jobs", "1000001"], "1..=1000000"),
            (&["--jobs", "5", "--duration", "5s"], "cannot be used with"),
            (&["--duration", "999ms"], "from 1s to 1h"),
            (&["--duration", "61m"], "from 1s to 1h"),
            (&["--duration", "30"], "no unit"),
            (&["--timeout", "2h"], "from 1s to 1h"),
            (&["--tenants", "0"], "1..=1000"),
            (&["--tenants", "1001"], "1..=1000"),
            (&["--in-flight", "501"], "1..=500"),
            (&["--warm-up", "101"], "0..=100"),
            (&["--tenant-prefix", "a/b"], "1 to 61 letters"),
            (&["--priority", "urgent"], "interactive"),
            (&["--mix", "a.html"], "write it like receipt.html=9"),
            (&["--mix", "a.html=0"], "from 1 to 1000"),
            (&["--mix", "a.html=1,=2"], "no file and weight"),
        ] {
            let error = closed(args).unwrap_err();
            assert!(error.contains(says), "{args:?}: {error}");
        }
        for (rate, says) in
            [("0.05/s", "from 0.1/s"), ("10001/s", "to 10000/s"), ("5", "no unit"), ("0/s", "more")]
        {
            let error = open(&["--rate", rate]).unwrap_err();
            assert!(error.contains(says), "{rate}: {error}");
        }
        assert!(open(&[]).unwrap_err().contains("--rate"));
        assert!(open(&["--rate", "5/s", "--arrivals", "bursts"]).unwrap_err().contains("poisson"));
        assert!(open(&["--rate", "0.1/s", "--duration", "1h", "--tenants", "1000"]).is_ok());
    }

    #[test]
    fn a_mix_names_files_and_weights() {
        let mix = closed(&["--mix", "a=b.html=9,c.html=1"]).unwrap().common.mix;
        let of = |file: &str, weight| Weighted { file: file.into(), weight };
        assert_eq!(mix, [of("a=b.html", 9), of("c.html", 1)]);
    }
}
