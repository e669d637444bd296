//! The load itself: jobs that are pushed, waited for and counted.
//!
//! ```text
//!            launch ──▶ a task: push ──▶ BLPOP its reply ──▶ Back ──▶ figures
//!   closed:  whenever fewer than the bound are under way
//!   open:    when the schedule says so; beyond the bound it is left out, and counted
//! ```
//!
//! One task for each job under way, each with a connection of its own, as the
//! threads of an app server have; the loop alone decides and counts. It ends when
//! all is over, when somebody stops it, when no reply came for the whole time-out,
//! or when Redis does not take what is pushed. A rejection with `retry_ms` holds
//! back what would be pushed meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::mpsc::Receiver;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::documents::Jobs;
use super::figures::Figures;
use super::line::{Ended, Line, What};
use super::options::Until;
use crate::cli::exit::{Exit, Failure};
use crate::cli::parts;
use crate::client::{Client, Status};
use crate::queue::{Queue, QueueError};
use crate::worker::Stop;

/// How often progress is shown, and a pause looked at.
const TICK: Duration = Duration::from_millis(100);
/// A rejection holds pushes back for no longer.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
/// Connections that are made before the clock starts.
const WARM_CONNECTIONS: usize = 16;
/// How long jobs may take to be taken back, and how often it is tried.
const TAKING_BACK: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Why a loop ended.
#[derive(Debug)]
pub(super) enum End {
    /// All was pushed and answered.
    Over,
    /// Somebody stopped it.
    Stopped,
    /// No reply came for so long.
    Silence(Duration),
    /// Redis did not do what a job needs.
    Redis(QueueError),
}

impl End {
    /// In JSON; `None` for the usual one.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Over => None,
            Self::Stopped => Some("interrupted"),
            Self::Silence(_) => Some("no_answer"),
            Self::Redis(_) => Some("redis"),
        }
    }
}

/// What an open loop did with its arrivals.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arrived {
    /// How many there were.
    pub(super) scheduled: u64,
    /// How many of them were not sent.
    pub(super) not_sent: u64,
    /// How many were under way when the last one arrived.
    pub(super) flying: u64,
}

/// A run.
pub(super) struct Load {
    line: Arc<Line>,
    bound: usize,
    running: JoinSet<Ended>,
    flying: HashMap<u64, AbortHandle>,
    next: u64,
    first: u64,
    start: Instant,
    hold: Instant,
    answered: Instant,
    taking_back: bool,
    until: Until,
    bar: ProgressBar,
    /// What was counted since the clock started.
    pub(super) figures: Figures,
}

impl Load {
    /// Of these jobs, at most `bound` of them under way at once.
    ///
    /// # Errors
    /// Where Redis is away.
    pub(super) async fn new(
        client: Client,
        jobs: Jobs,
        timeout: Duration,
        bound: usize,
        bar: ProgressBar,
    ) -> Result<Self, Failure> {
        // A first push should not pay for its connection.
        let mut hello = JoinSet::new();
        for _ in 0..bound.min(WARM_CONNECTIONS) {
            let client = client.clone();
            hello.spawn(async move { client.clock().await });
        }
        for answer in hello.join_all().await {
            answer.map_err(|error| parts::unavailable(&error))?;
        }
        let now = Instant::now();
        Ok(Self {
            line: Arc::new(Line { client, jobs, timeout }),
            bound,
            running: JoinSet::new(),
            flying: HashMap::new(),
            next: 0,
            first: 0,
            start: now,
            hold: now,
            answered: now,
            taking_back: false,
            until: Until::Jobs(0),
            bar,
            figures: figures()?,
        })
    }

    /// Starts the clock: what was counted until now is forgotten.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.figures = figures()?;
        self.first = self.next;
        self.start = Instant::now();
        self.answered = self.start;
        Ok(())
    }

    /// What it pushes.
    pub(super) fn jobs(&self) -> &Jobs {
        &self.line.jobs
    }

    /// Jobs since the clock started.
    pub(super) fn pushed(&self) -> u64 {
        self.next - self.first
    }

    /// Pushes as fast as replies come.
    pub(super) async fn closed(&mut self, until: Until, stop: &mut Receiver<Stop>) -> End {
        let mut tick = ticks();
        self.aim(until);
        loop {
            while self.pushes(until) && self.has_room() {
                self.launch(Instant::now());
            }
            if self.flying.is_empty() && !self.pushes(until) {
                return End::Over;
            }
            tokio::select! {
                biased;
                _ = stop.recv() => return End::Stopped,
                Some(ended) = self.running.join_next() => {
                    if let Some(end) = self.take(ended) {
                        return end;
                    }
                }
                _ = tick.tick() => self.show(),
            }
        }
    }

    /// Pushes when the schedule says so, whoever is slow.
    pub(super) async fn open(
        &mut self,
        schedule: impl Iterator<Item = Duration>,
        length: Duration,
        stop: &mut Receiver<Stop>,
    ) -> (End, Arrived) {
        let mut arrived = Arrived::default();
        let mut tick = ticks();
        self.aim(Until::After(length));
        let start = self.start;
        let mut due = schedule.map(|at| start + at).peekable();
        let mut coming = true;
        loop {
            while let Some(at) = due.next_if(|at| *at <= Instant::now()) {
                arrived.scheduled += 1;
                if self.has_room() {
                    self.launch(at);
                } else {
                    arrived.not_sent += 1;
                }
            }
            let next = due.peek().copied();
            if next.is_none() && coming {
                coming = false;
                arrived.flying = self.flying.len() as u64;
            }
            if next.is_none() && self.flying.is_empty() {
                return (End::Over, arrived);
            }
            tokio::select! {
                biased;
                _ = stop.recv() => return (End::Stopped, arrived),
                () = sleep_until(next.unwrap_or(start)), if next.is_some() => {}
                Some(ended) = self.running.join_next() => {
                    if let Some(end) = self.take(ended) {
                        return (end, arrived);
                    }
                }
                _ = tick.tick() => self.show(),
            }
        }
    }

    fn pushes(&self, until: Until) -> bool {
        match until {
            Until::Jobs(jobs) => self.pushed() < jobs,
            Until::After(length) => self.start.elapsed() < length,
        }
    }

    fn has_room(&self) -> bool {
        self.flying.len() < self.bound && Instant::now() >= self.hold
    }

    fn launch(&mut self, due: Instant) {
        let (line, n, start) = (Arc::clone(&self.line), self.next, self.start);
        let task = self.running.spawn(async move { line.job(n, due, start).await });
        self.flying.insert(n, task);
        self.next += 1;
    }

    /// Counts a job that is back; whether that is the end of all.
    fn take(&mut self, ended: Result<Ended, JoinError>) -> Option<End> {
        let Ended { n, back, bytes, what } = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Taken back, and counted there.
            Err(_) => return None,
        };
        self.flying.remove(&n);
        self.figures.pushed_bytes += bytes;
        match what {
            What::Replied(reply) => {
                self.answered = Instant::now();
                if reply.status == Status::Cancelled && self.taking_back {
                    self.figures.taken_back += 1;
                } else {
                    self.figures.replied(&back, &reply);
                }
                if let Some(ms) = reply.error.as_ref().and_then(|error| error.retry_ms) {
                    let pause = Duration::from_millis(ms).min(LONGEST_HOLD);
                    self.hold = self.hold.max(self.answered + pause);
                }
                None
            }
            What::Silent => {
                self.figures.silent(&back);
                let silence = self.answered.elapsed();
                (silence >= self.line.timeout).then_some(End::Silence(silence))
            }
            What::Failed(error) => Some(End::Redis(error)),
        }
    }

    /// Takes back all that is under way: what no worker has read is withdrawn, what
    /// waits is cancelled, and so is what runs, by its worker. Whether all is back.
    ///
    /// # Errors
    /// Where Redis is away.
    pub(super) async fn take_back(
        &mut self,
        queue: &Queue,
        stop: &mut Receiver<Stop>,
    ) -> Result<bool, QueueError> {
        let give_up = Instant::now() + TAKING_BACK;
        self.taking_back = true;
        while !self.flying.is_empty() && Instant::now() < give_up {
            let flying: Vec<u64> = self.flying.keys().copied().collect();
            for n in flying {
                self.take_one_back(queue, n).await?;
            }
            let again = sleep(TRY_AGAIN);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    biased;
                    _ = stop.recv() => return Ok(false),
                    Some(ended) = self.running.join_next() => {
                        if let Some(end) = self.take(ended) {
                            // It has ended already; what is left is taken back all the same.
                            tracing::debug!(?end, "a job ended while all were taken back");
                        }
                    }
                    () = &mut again => break,
                }
                if self.flying.is_empty() {
                    break;
                }
            }
        }
        let all = self.flying.is_empty();
        self.running.shutdown().await;
        Ok(all)
    }

    async fn take_one_back(&mut self, queue: &Queue, n: u64) -> Result<(), QueueError> {
        let jobs = &self.line.jobs;
        if let Ok(element) = jobs.element(n)
            && self.line.client.withdraw(&element).await?
        {
            self.figures.taken_back += 1;
            if let Some(task) = self.flying.remove(&n) {
                task.abort();
            }
        } else if let Some(name) = jobs.name(n) {
            // Its task hears of it by its reply. A job that is not known yet is in a
            // worker's hands, or not pushed yet: the next try finds it.
            queue.cancel(&name).await?;
        }
        Ok(())
    }

    /// How far it is, on a terminal.
    fn show(&self) {
        let done = self.figures.done + self.figures.failed;
        let rate = self.figures.done as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let failed = match self.figures.failed {
            0 => String::new(),
            failed => format!(", {failed} FAILED"),
        };
        self.bar.set_message(format!(
            "{} done, {rate:.1}/s, {} under way{failed}",
            self.figures.done,
            self.flying.len()
        ));
        self.bar.set_position(match self.until {
            Until::Jobs(_) => done,
            Until::After(length) => millis(self.start.elapsed().min(length)),
        });
    }

    /// What the bar is full at.
    fn aim(&mut self, until: Until) {
        self.until = until;
        self.bar.reset();
        self.bar.set_length(match until {
            Until::Jobs(jobs) => jobs,
            Until::After(length) => millis(length),
        });
    }
}

/// As the JSON has them.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn figures() -> Result<Figures, Failure> {
    Figures::new().map_err(|error| {
        Failure::new(Exit::Bug, "counting", error, "this is a bug: please report it")
    })
}

fn ticks() -> tokio::time::Interval {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
