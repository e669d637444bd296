//! `tillroll bench`: an operator's own workers, Redis and documents, measured
//! through the queue.
//!
//! ```text
//! guard ──▶ warm up ──▶ closed or open loop ──▶ taken back, if stopped ──▶ report ──▶ erased
//!   └ refused: no worker, paused, draining, others wait
//! ```
//!
//! Safe on a queue that is in use: what is under way is bounded, ids are those of
//! the run alone, and nothing that it pushed is there when it ends: replies are
//! taken, records and events erased, tenants that were not known before forgotten.
//! Where it is killed, all but the names of its tenants expires within a minute of
//! its time-out.

mod documents;
mod figures;
mod guard;
mod line;
mod load;
mod options;
mod report;
mod schedule;

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::sync::mpsc::Receiver;

use super::exit::{Exit, Failure, print};
use super::{Session, counted, parts, signals};
use crate::client::Client;
use crate::queue::{Forget, Queue};
use crate::worker::Stop;
use documents::Jobs;
use guard::Ground;
use load::{Arrived, End, Load};
use options::{Common, Latency, Throughput, Until};
use report::Run;
use schedule::{Arrivals, Schedule};

/// Connections beside those of the jobs.
const OWN_CONNECTIONS: usize = 4;

/// What is measured
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// How many receipts a second the workers do: pushes as fast as replies come
    ///
    /// A bounded number of jobs is under way at any time. Nothing of them stays in Redis;
    /// Ctrl-C takes back what has not ended and prints what is known by then. For instance:
    /// tillroll bench throughput --jobs 1000 --tenants 10 --mix receipt.html=9,invoice.html=1
    Throughput(Throughput),
    /// How long a receipt takes while jobs arrive at a rate
    ///
    /// Jobs arrive when the schedule says so, whoever is slow, and their time counts from
    /// then: a stall is counted for everyone who would have come meanwhile. For instance:
    /// tillroll bench latency receipt.html --rate 5/s --duration 1m --arrivals poisson
    Latency(Latency),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Throughput(_) => "throughput",
            Self::Latency(_) => "latency",
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Throughput(given) => &given.common,
            Self::Latency(given) => &given.common,
        }
    }

    fn priority(&self) -> &str {
        match self {
            Self::Throughput(given) => &given.priority,
            Self::Latency(given) => &given.priority,
        }
    }

    fn bound(&self, slots: u64) -> usize {
        match self {
            Self::Throughput(given) => given.in_flight(slots),
            Self::Latency(given) => given.in_flight(),
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Where the queue is not to be measured now, a document cannot be used, Redis is
/// away, no receipt was done, or it was interrupted.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let kind = &args.kind;
    let common = kind.common();
    let redis = session.redis()?;
    let before = common.compare.as_deref();
    let before = before.map(|file| report::earlier(file, kind.name())).transpose()?;
    let jobs = Jobs::read(common, kind.priority())?;
    super::runtime()?.block_on(async {
        let mut stop = signals::listen().map_err(|error| {
            let fix = "raise the limit on open files (ulimit -n)";
            Failure::new(Exit::Unexpected, "listening for signals", error, fix)
        })?;
        let queue = parts::queue(session, "bench").await?;
        let ground = guard::look(session, &queue, jobs.tenants(), common.beside_others).await?;
        let bound = kind.bound(ground.slots());
        let name = session.loaded.config.queue.name.as_str();
        let client = Client::new(redis, name, bound + OWN_CONNECTIONS)
            .map_err(|error| Failure::of_redis("reading the Redis URL", &error))?;
        let bar = progress();
        let load = Load::new(client, jobs, common.timeout, bound, bar.clone()).await?;
        let mut bench = Bench { kind, session, queue, ground, load, bound, stop: &mut stop };
        let measured = bench.measure(&bar).await;
        bar.finish_and_clear();
        // Whatever came of it, and wherever stdout goes: nothing stays.
        let told = measured.and_then(|(end, report)| {
            bench.tell(&report, before.as_ref())?;
            Ok(end)
        });
        let erased = bench.erase().await;
        match (bench.verdict(&told?), erased) {
            (Err(mut failure), Err(left)) => {
                failure.why += &format!("\n{}: {}", left.what, left.why);
                failure.fix += &format!("; {}", left.fix);
                Err(failure)
            }
            (verdict, erased) => verdict.and(erased),
        }
    })
}

struct Bench<'a> {
    kind: &'a Kind,
    session: &'a Session,
    queue: Queue,
    ground: Ground,
    load: Load,
    bound: usize,
    stop: &'a mut Receiver<Stop>,
}

impl Bench<'_> {
    /// Warms up, measures, and takes back what is still under way; why it ended, and
    /// the report.
    async fn measure(&mut self, bar: &ProgressBar) -> Result<(End, Value), Failure> {
        bar.set_prefix("warming up");
        let receipts = self.kind.common().warm_up * self.load.jobs().tenant_count();
        let warm = self.load.closed(Until::Jobs(receipts), self.stop).await;
        self.load.begin()?;
        bar.set_prefix("measuring");
        let mut arrived = Arrived::default();
        let end = match (warm, self.kind) {
            (End::Over, Kind::Throughput(given)) => {
                self.load.closed(given.until(), self.stop).await
            }
            (End::Over, Kind::Latency(given)) => {
                let arrivals = Arrivals::named(&given.arrivals);
                let random = rand::random::<f64>;
                let schedule = Schedule::new(arrivals, given.rate, given.duration, random);
                let (end, seen) = self.load.open(schedule, given.duration, self.stop).await;
                arrived = seen;
                end
            }
            (end, _) => end,
        };
        if !matches!(end, End::Over) {
            bar.set_prefix("taking back");
            match self.load.take_back(&self.queue, self.stop).await {
                Ok(true) => {}
                Ok(false) => tracing::warn!("not every job could be taken back in time"),
                Err(error) => {
                    let why = crate::worker::chain(&error);
                    tracing::warn!(error = %why, "not every job could be taken back");
                }
            }
        }
        if let Err(failure) = self.ground.again(self.session, &self.queue).await {
            tracing::warn!(why = %failure.why, "the workers could not be looked at again");
        }
        let run = Run {
            queue: self.session.loaded.config.queue.name.as_str(),
            common: self.kind.common(),
            priority: self.kind.priority(),
            bound: self.bound,
            jobs: self.load.jobs(),
            pushed: self.load.pushed(),
            figures: &self.load.figures,
            ground: &self.ground,
            end: &end,
        };
        let report = match self.kind {
            Kind::Throughput(given) => run.throughput(given),
            Kind::Latency(given) => run.latency(given, arrived),
        };
        Ok((end, report))
    }

    fn tell(&self, report: &Value, before: Option<&Value>) -> Result<(), Failure> {
        if self.session.json {
            return print(&format!("{report}\n"));
        }
        let beside = before.map(|before| report::beside(report, before));
        print(&(report::text(report) + &beside.unwrap_or_default()))
    }

    /// Erases what the queue still holds of the run: records, events, dead letters, and
    /// the tenants that it did not know before.
    async fn erase(&mut self) -> Result<(), Failure> {
        let ids = self.load.jobs().ids();
        let whom = Forget::Run { ids: ids.clone(), tenants: self.ground.fresh.clone() };
        let left = |why: String| {
            let fix = format!(
                "records of {ids}* expire within minutes; the tenants stay on the list until \
                 `tillroll tenant forget {}0 --yes` and so on",
                self.kind.common().tenant_prefix
            );
            Failure::new(Exit::Unexpected, "erasing the benchmark's jobs", why, fix)
        };
        let forgotten = tokio::select! {
            biased;
            _ = self.stop.recv() => return Err(left("it was interrupted again".to_owned())),
            forgotten = self.queue.forget(&whom, |_| ()) => forgotten,
        };
        let forgotten = forgotten.map_err(|error| left(crate::worker::chain(&error)))?;
        match (forgotten.running.len() as u64, forgotten.kept) {
            (0, false) => Ok(()),
            (0, true) => Err(left("somebody else pushed for its tenants".to_owned())),
            (running, _) => Err(left(format!("{} still run", counted(running, "job")))),
        }
    }

    /// Whether the run was what was asked for.
    fn verdict(&self, end: &End) -> Result<(), Failure> {
        let what = format!("measuring {}", self.kind.name());
        let (exit, why, fix) = match end {
            End::Over if self.load.figures.done > 0 || self.load.pushed() == 0 => return Ok(()),
            End::Over => (
                Exit::Document,
                "not one receipt was done".to_owned(),
                "the table says why jobs failed; try one with `tillroll enqueue FILE --wait`",
            ),
            End::Stopped => (
                Exit::Released,
                "it was interrupted; the figures are those until then".to_owned(),
                "run it again for all of it",
            ),
            End::Silence(length) => (
                Exit::Unavailable,
                format!("no reply came for {:.0} s", length.as_secs_f64()),
                "look at the workers with `tillroll status` and in their logs",
            ),
            End::Redis(error) => return Err(Failure::of_redis(what, error)),
        };
        Err(Failure::new(exit, what, why, fix))
    }
}

/// On a terminal only.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {bar:32} {elapsed} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
