//! Every metric there is: its name, what it means, and the one function that
//! moves it.
//!
//! Label values come from enums and literals, never from a job: a tenant or a
//! message as a label would be a time series for each customer. Names follow
//! Prometheus (`_total`, base units). The recorder is installed once, by the
//! verbs that serve `/metrics`; without it every function here does nothing.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::failure::Class;
use crate::job::{Priority, Status};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric: name, kind, unit, meaning.
type Metric = (&'static str, Kind, Unit, &'static str);

/// All of them. A test holds that the functions below use no other name.
const METRICS: [Metric; 27] = {
    use Kind::{Counter, Gauge, Histogram};
    [
        (JOBS, Counter, Unit::Count, "Jobs that ended, by outcome and priority"),
        (JOB_SECONDS, Histogram, Unit::Seconds, "Time of a job that was done, by phase"),
        (FAILURES, Counter, Unit::Count, "Attempts that failed, by class and code"),
        (IN_FLIGHT, Gauge, Unit::Count, "Documents that render now"),
        (SLOTS, Gauge, Unit::Count, "Documents that may render at once"),
        (CONTEXTS, Gauge, Unit::Count, "Tenants' contexts that are kept warm"),
        (STARTS, Counter, Unit::Count, "Browsers launched"),
        (DEATHS, Counter, Unit::Count, "Browsers that ended, by reason"),
        (UPKEEP, Counter, Unit::Count, "Changes of engine or fonts on disk, by what came of them"),
        (
            OUTDATED,
            Gauge,
            Unit::Count,
            "1 while engine or fonts on disk are no good and the old browser stays",
        ),
        (INTAKE, Counter, Unit::Count, "Elements taken from an inbox, by result"),
        (LOST, Counter, Unit::Count, "Leases that were lost before their job was settled"),
        (REDIS, Counter, Unit::Count, "Redis commands that failed, by kind"),
        (PDF, Histogram, Unit::Bytes, "Size of a finished PDF"),
        (BUDGET, Gauge, Unit::Bytes, "Memory that worker and Chromium may take together"),
        (USED, Gauge, Unit::Bytes, "Memory that worker and Chromium take"),
        (LEDGER, Gauge, Unit::Bytes, "Memory as the governor sees it, by kind"),
        (PRESSURE, Gauge, Unit::Count, "Memory pressure: 0 nominal, 1 elevated, 2 critical"),
        (WAITING, Gauge, Unit::Count, "Jobs that were claimed and wait for memory"),
        (KILLED, Counter, Unit::Count, "Renderers killed for want of memory, by who is to blame"),
        (QUEUE, Gauge, Unit::Count, "Jobs of the queue, by state"),
        (BYTES, Gauge, Unit::Bytes, "What the queue holds in Redis, by kind"),
        (BROKEN, Gauge, Unit::Count, "Tenants whose last 20 attempts failed"),
        (HINDERED, Gauge, Unit::Count, "1 while no job is started although Redis answers"),
        (TASKS, Gauge, Unit::Count, "Asynchronous tasks that live"),
        (PUBLISHED, Gauge, Unit::Seconds, "Unix time of the dispatcher's last sign of life"),
        (BUILD, Gauge, Unit::Count, "1, with the version as a label"),
    ]
};

const JOBS: &str = "tillroll_jobs_total";
const JOB_SECONDS: &str = "tillroll_job_seconds";
const FAILURES: &str = "tillroll_failures_total";
const IN_FLIGHT: &str = "tillroll_renders_in_flight";
const SLOTS: &str = "tillroll_render_slots";
const CONTEXTS: &str = "tillroll_contexts";
const STARTS: &str = "tillroll_browser_starts_total";
const DEATHS: &str = "tillroll_browser_deaths_total";
const UPKEEP: &str = "tillroll_browser_updates_total";
const OUTDATED: &str = "tillroll_browser_outdated";
const TASKS: &str = "tillroll_tasks";
const INTAKE: &str = "tillroll_intake_total";
const LOST: &str = "tillroll_leases_lost_total";
const REDIS: &str = "tillroll_redis_errors_total";
const PDF: &str = "tillroll_pdf_bytes";
const BUDGET: &str = "tillroll_memory_budget_bytes";
const USED: &str = "tillroll_memory_used_bytes";
const LEDGER: &str = "tillroll_memory_ledger_bytes";
const PRESSURE: &str = "tillroll_memory_pressure";
const WAITING: &str = "tillroll_memory_waiting_jobs";
const KILLED: &str = "tillroll_memory_kills_total";
const QUEUE: &str = "tillroll_queue_jobs";
const BYTES: &str = "tillroll_queue_bytes";
const BROKEN: &str = "tillroll_tenants_broken";
const HINDERED: &str = "tillroll_claims_hindered";
const PUBLISHED: &str = "tillroll_dispatcher_seen_seconds";
const BUILD: &str = "tillroll_build_info";

/// A receipt takes 10 ms when all is well, 30 s at most; queues wait longer.
const SECONDS: [f64; 15] =
    [0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0, 600.0];
/// A receipt is 40 KB, an illustrated statement some MB.
const SIZES: [f64; 9] = [8e3, 16e3, 32e3, 64e3, 128e3, 512e3, 2e6, 8e6, 32e6];

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// The label's value.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels! {
    /// Why a browser ended.
    Death {
        /// It was old or fat, and replaced.
        Recycled = "recycled",
        /// The worker stopped.
        Stopped = "stopped",
        /// It ended by itself.
        Crashed = "crashed",
        /// It did not answer, and was killed.
        Hung = "hung",
        /// It took too much memory, and was killed.
        Memory = "memory",
        /// It did not keep to the protocol, and was killed.
        Suspect = "suspect",
    }
}

labels! {
    /// State of jobs in the queue.
    QueueState {
        /// Pushed, not yet admitted.
        Inbox = "inbox",
        /// Waiting for a worker.
        Ready = "ready",
        /// Waiting for their time.
        Delayed = "delayed",
        /// In the hands of a worker.
        Leased = "leased",
        /// Dead letters.
        Dead = "dead",
    }
}

/// A job ended for good.
pub fn job_ended(outcome: Status, priority: Priority) {
    counter!(JOBS, "outcome" => outcome.as_str(), "priority" => priority.as_str()).increment(1);
}

/// A job was done: how long it waited, rendered, and took from admission to reply.
pub fn job_timed(queued: Duration, render: Duration, total: Duration) {
    for (phase, time) in [("queued", queued), ("render", render), ("total", total)] {
        metrics::histogram!(JOB_SECONDS, "phase" => phase).record(time);
    }
}

/// An attempt failed. `code` is [`crate::failure::Failure::code`], a literal.
pub fn attempt_failed(class: Class, code: &'static str) {
    counter!(FAILURES, "class" => class.as_str(), "code" => code).increment(1);
}

/// How many documents render, and how many may.
#[allow(clippy::cast_precision_loss, reason = "slots are few")]
pub fn slots(in_flight: usize, total: usize) {
    gauge!(IN_FLIGHT).set(in_flight as f64);
    gauge!(SLOTS).set(total as f64);
}

/// How many contexts are kept warm.
#[allow(clippy::cast_precision_loss, reason = "contexts are few")]
pub fn contexts(count: usize) {
    gauge!(CONTEXTS).set(count as f64);
}

/// A browser was launched.
pub fn browser_started() {
    counter!(STARTS).increment(1);
}

/// A browser ended.
pub fn browser_ended(reason: Death) {
    counter!(DEATHS, "reason" => reason.as_str()).increment(1);
}

/// Engine or fonts changed on disk: a new browser from them was good and replaced
/// the old one, or was refused.
pub fn upkeep(good: bool) {
    counter!(UPKEEP, "result" => if good { "replaced" } else { "refused" }).increment(1);
}

/// Whether the old browser stays because what is on disk is no good.
pub fn browser_outdated(outdated: bool) {
    gauge!(OUTDATED).set(if outdated { 1.0 } else { 0.0 });
}

/// How many asynchronous tasks live.
#[allow(clippy::cast_precision_loss, reason = "tasks are few")]
pub fn tasks(count: usize) {
    gauge!(TASKS).set(count as f64);
}

/// An element was taken from the inbox of `inbox` priority. `result` is
/// [`crate::queue::Admitted::as_str`] or `rejected`.
pub fn intake(inbox: Priority, result: &'static str) {
    counter!(INTAKE, "inbox" => inbox.as_str(), "result" => result).increment(1);
}

/// A lease was lost before its job was settled.
pub fn lease_lost() {
    counter!(LOST).increment(1);
}

/// A Redis command failed. `kind` is [`crate::queue::QueueError::kind`].
pub fn redis_failed(kind: &'static str) {
    counter!(REDIS, "kind" => kind).increment(1);
}

/// A PDF of `bytes` was finished.
#[allow(clippy::cast_precision_loss, reason = "exact to 2^53 bytes")]
pub fn pdf_finished(bytes: u64) {
    metrics::histogram!(PDF).record(bytes as f64);
}

/// The memory budget and what is taken of it, in bytes.
#[allow(clippy::cast_precision_loss, reason = "exact to 2^53 bytes")]
pub fn memory(budget: u64, used: u64) {
    gauge!(BUDGET).set(budget as f64);
    gauge!(USED).set(used as f64);
}

/// The governor's ledger, in bytes: what is free, what stays free, what running
/// jobs may still take, what idle contexts hold.
pub fn ledger(free: u64, reserve: u64, outstanding: u64, idle: u64) {
    let kinds =
        [("free", free), ("reserve", reserve), ("outstanding", outstanding), ("idle", idle)];
    for (kind, bytes) in kinds {
        gauge!(LEDGER, "kind" => kind).set(bytes as f64);
    }
}

/// How scarce memory is, from 0 to 2, and how many jobs wait for it.
pub fn memory_scarce(pressure: u8, waiting: usize) {
    gauge!(PRESSURE).set(f64::from(pressure));
    gauge!(WAITING).set(waiting as f64);
}

/// A renderer was killed for want of memory.
pub fn memory_killed(blame: &'static str) {
    counter!(KILLED, "blame" => blame).increment(1);
}

/// What the queue holds: documents of living jobs, results that wait for their
/// producers, documents of dead letters; in bytes.
#[allow(clippy::cast_precision_loss, reason = "exact to 2^53 bytes")]
pub fn queue_bytes(documents: u64, held: u64, dead: u64) {
    for (kind, bytes) in [("documents", documents), ("held", held), ("dead", dead)] {
        gauge!(BYTES, "kind" => kind).set(bytes as f64);
    }
}

/// How many tenants' templates are broken.
#[allow(clippy::cast_precision_loss, reason = "tenants are few")]
pub fn tenants_broken(count: u64) {
    gauge!(BROKEN).set(count as f64);
}

/// Whether no job is started although Redis answers.
pub fn claims_hindered(hindered: bool) {
    gauge!(HINDERED).set(if hindered { 1.0 } else { 0.0 });
}

/// The queue has `count` jobs in `state`.
#[allow(clippy::cast_precision_loss, reason = "exact to 2^53 jobs")]
pub fn queue_jobs(state: QueueState, count: u64) {
    gauge!(QUEUE, "state" => state.as_str()).set(count as f64);
}

/// The dispatcher lives, at `unix` (since 1970).
pub fn dispatcher_seen(unix: Duration) {
    gauge!(PUBLISHED).set(unix.as_secs_f64());
}

/// Renders what has been recorded.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// Installs the process's recorder.
    ///
    /// # Errors
    /// When one is installed already.
    pub fn install() -> Result<Self, BuildError> {
        let recorder = recorder()?;
        let exporter = Self { handle: recorder.handle() };
        metrics::set_global_recorder(recorder)?;
        describe();
        Ok(exporter)
    }

    /// The metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what histograms have collected. Call it every few seconds: without
    /// it, their memory grows until somebody scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(JOB_SECONDS.into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(PDF.into()), &SIZES)?
        .build_recorder())
}

/// Says what each metric means, and shows those without labels from the start.
fn describe() {
    for (name, kind, unit, meaning) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(name, unit, meaning),
            Kind::Gauge => describe_gauge!(name, unit, meaning),
            Kind::Histogram => describe_histogram!(name, unit, meaning),
        }
    }
    for name in [STARTS, LOST] {
        counter!(name).absolute(0);
    }
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// What a scrape says after every function was called once.
    fn scrape() -> String {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            job_ended(Status::Done, Priority::Interactive);
            let time = Duration::from_millis;
            job_timed(time(3), time(12), time(15));
            attempt_failed(Class::Document, "script_timeout");
            slots(2, 3);
            contexts(5);
            browser_started();
            browser_ended(Death::Crashed);
            upkeep(true);
            browser_outdated(true);
            tasks(40);
            intake(Priority::Bulk, "admitted");
            lease_lost();
            redis_failed("unavailable");
            pdf_finished(40_000);
            memory(1 << 30, 1 << 29);
            ledger(1, 2, 3, 4);
            memory_scarce(1, 2);
            memory_killed("document");
            queue_jobs(QueueState::Ready, 7);
            queue_bytes(1, 2, 3);
            tenants_broken(1);
            claims_hindered(true);
            dispatcher_seen(time(1_700_000_000_500));
        });
        handle.render()
    }

    /// Sample lines as (name, labels, value).
    fn samples(text: &str) -> Vec<(String, String, f64)> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.strip_suffix('}').expect("labels are closed");
                (name.to_owned(), labels.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }

    #[test]
    fn every_metric_is_described_and_every_sample_has_a_metric() {
        let text = scrape();
        let help: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP "))
            .filter_map(|line| line.split_once(' '))
            .collect();
        let mut seen = BTreeSet::new();
        for (sample, ..) in samples(&text) {
            let metric = METRICS.iter().find(|(name, kind, ..)| match kind {
                Kind::Histogram => ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|suffix| sample.strip_suffix(suffix) == Some(name)),
                Kind::Counter | Kind::Gauge => sample == **name,
            });
            let (name, ..) = metric.unwrap_or_else(|| panic!("{sample} is not in the table"));
            assert!(help.contains_key(name), "{name} has no description");
            seen.insert(*name);
        }
        let all: BTreeSet<_> = METRICS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(seen, all, "a metric that no function moves");
    }

    #[test]
    fn values_arrive_under_their_labels() {
        let samples = samples(&scrape());
        for expected in [
            ("tillroll_jobs_total", "outcome=\"done\",priority=\"interactive\"", 1.0),
            ("tillroll_job_seconds_bucket", "phase=\"render\",le=\"0.01\"", 0.0),
            ("tillroll_job_seconds_bucket", "phase=\"render\",le=\"0.02\"", 1.0),
            ("tillroll_failures_total", "class=\"document\",code=\"script_timeout\"", 1.0),
            ("tillroll_queue_jobs", "state=\"ready\"", 7.0),
            ("tillroll_pdf_bytes_sum", "", 40_000.0),
            ("tillroll_memory_used_bytes", "", 536_870_912.0),
        ] {
            let found = samples.iter().any(|(n, l, v)| (n.as_str(), l.as_str(), *v) == expected);
            assert!(found, "{expected:?} not in {samples:#?}");
        }
    }
}
