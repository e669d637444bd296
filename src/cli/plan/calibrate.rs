//! Measures this machine: the worker's own pool, jail and Chromium, without a queue.
//!
//! ```text
//!  warm up ─▶ receipts alone ─▶ receipts together ─▶ warm contexts, then trimmed ─▶ larger invoices
//! ```
//!
//! Memory is what the governor counts: private memory of each process, looked at
//! every 5 ms while something renders. Invoices grow from one to the next; a
//! length for which there is no memory, or that would take too long, is left out.
//! A document that fails ends the growth; a receipt that fails ends it all.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::documents;
use crate::cli::exit::{Exit, Failure};
use crate::job::{RenderOptions, Rules};
use crate::memory::capacity::{Measured, Needs, Sample};
use crate::memory::document::Features;
use crate::memory::{Probe, WORKER_BYTES};
use crate::pool::Pool;
use crate::renderer::{Relief, Render, RenderRequest, Watch};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// What a trimmed or closed context may take to give its memory back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Receipts after which a page has settled.
const SETTLED: usize = 8;
/// No invoice is rendered that is expected to take longer.
const LONGEST: Duration = Duration::from_secs(8);

/// How much is rendered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// How long one receipt after the other is rendered.
    alone: Duration,
    /// How long several are rendered at once.
    together: Duration,
    /// Warm contexts that are measured.
    contexts: usize,
    /// Rows of the invoices.
    rows: &'static [u64],
    /// What all of it takes, about.
    pub(super) total: Duration,
}

impl Effort {
    /// What the figures of a tier are made from.
    pub(super) const FULL: Self = Self {
        alone: Duration::from_secs(4),
        together: Duration::from_secs(8),
        contexts: 8,
        rows: &[120, 500, 1_000, 2_000, 5_000],
        total: Duration::from_secs(20),
    };
    /// A first look.
    pub(super) const QUICK: Self = Self {
        alone: Duration::from_millis(500),
        together: Duration::from_millis(1_500),
        contexts: 3,
        rows: &[120, 1_000],
        total: Duration::from_secs(4),
    };
}

/// What may be taken here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Cores.
    pub(super) cores: usize,
    /// Renders at once.
    pub(super) at_once: usize,
    /// Warm contexts.
    pub(super) contexts: usize,
    /// Bytes that stay free.
    pub(super) reserve: u64,
    /// The longest render.
    pub(super) timeout: Duration,
}

/// Which process serves which tenant, as the pool tells.
#[derive(Default)]
struct Seen {
    contexts: Mutex<HashMap<u64, Context>>,
    ended: Notify,
}

#[derive(Clone)]
struct Context {
    tenant: Arc<str>,
    pid: Option<u32>,
    peak: u64,
}

impl Seen {
    fn contexts(&self) -> MutexGuard<'_, HashMap<u64, Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Seen {
    fn entered(&self, _job: u64, context: u64, tenant: &Arc<str>, pid: Option<u32>) {
        let fresh = || Context { tenant: Arc::clone(tenant), pid, peak: 0 };
        self.contexts().entry(context).or_insert_with(fresh);
    }

    fn left(&self, _: u64, _: u64, sound: bool, _: Option<u64>) -> bool {
        sound
    }

    fn ended(&self, context: u64) {
        self.contexts().remove(&context);
        self.ended.notify_waiters();
    }
}

/// One calibration.
pub(super) struct Calibration {
    pool: Arc<Pool>,
    probe: Probe,
    seen: Arc<Seen>,
    effort: Effort,
    limits: Limits,
    bar: ProgressBar,
    began: Instant,
    receipt: (Arc<str>, Arc<RenderOptions>),
}

impl Calibration {
    /// Of a pool whose browser is ready and that nobody else uses.
    pub(super) fn new(pool: &Arc<Pool>, effort: Effort, limits: Limits, bar: ProgressBar) -> Self {
        let seen = Arc::new(Seen::default());
        // Nobody else is told of a pool that nobody else uses.
        let _first = pool.watched_by(Arc::clone(&seen) as Arc<dyn Watch>);
        Self {
            pool: Arc::clone(pool),
            probe: Probe::default(),
            seen,
            effort,
            limits,
            bar,
            began: Instant::now(),
            receipt: (documents::RECEIPT.into(), Arc::new(documents::on_a_roll())),
        }
    }

    /// Measures.
    ///
    /// # Errors
    /// Where a receipt cannot be rendered.
    pub(super) async fn run(&self, load: f64) -> Result<Measured, Failure> {
        let lanes: Vec<Arc<str>> = tenants("lane", self.limits.at_once);
        self.doing("warming up");
        for lane in &lanes {
            self.receipts(lane, SETTLED).await?;
        }
        self.doing("one at a time");
        let receipt_ms = self.alone(&lanes).await?;
        self.doing("several at once");
        let receipts_per_s = self.together(&lanes).await?;
        self.doing("warm contexts");
        let (context_bytes, trimmed_bytes) = self.contexts().await?;
        let receipt_bytes = self.peak(|_| true).max(context_bytes);
        let browser_bytes = self.browser();
        // A worker with a queue takes a little more than we do.
        let worker_bytes = self.probe.used_by(std::process::id()).max(WORKER_BYTES);
        let samples = self.invoices().await?;
        Ok(Measured {
            engine: self.pool.status().version.unwrap_or_default(),
            cores: self.limits.cores,
            load,
            seconds: rounded(self.began.elapsed().as_secs_f64(), 10.0),
            needs: Needs { worker_bytes, browser_bytes, context_bytes, receipt_bytes },
            trimmed_bytes,
            receipt_markup_bytes: documents::RECEIPT.len() as u64,
            receipt_ms: rounded(receipt_ms, 100.0),
            at_once: lanes.len(),
            receipts_per_s: rounded(receipts_per_s, 10.0),
            documents: samples,
        })
    }

    /// The median of receipts one after the other, in milliseconds.
    async fn alone(&self, lanes: &[Arc<str>]) -> Result<f64, Failure> {
        let Some(lane) = lanes.first() else { return Ok(0.0) };
        let end = Instant::now() + self.effort.alone;
        let mut times = Vec::new();
        while times.len() < SETTLED || Instant::now() < end {
            let began = Instant::now();
            self.watching(self.render(lane)).await?;
            times.push(began.elapsed());
        }
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        Ok(median.as_secs_f64() * 1e3)
    }

    /// Receipts a second with one in each lane.
    async fn together(&self, lanes: &[Arc<str>]) -> Result<f64, Failure> {
        let began = Instant::now();
        let end = began + self.effort.together;
        let mut running = JoinSet::new();
        for lane in lanes {
            let (pool, lane) = (Arc::clone(&self.pool), Arc::clone(lane));
            let receipt = self.receipt.clone();
            running.spawn(async move {
                let mut count = 0_u32;
                while Instant::now() < end {
                    pool.render(request(&lane, &receipt)).await.map_err(|why| failed(&why))?;
                    count += 1;
                }
                Ok::<_, Failure>(count)
            });
        }
        let mut count = 0;
        while let Some(ended) = self.watching(running.join_next()).await {
            count += ended.map_err(|error| {
                Failure::new(Exit::Bug, "calibrating", error, "this is a bug: please report it")
            })??;
        }
        Ok(f64::from(count) / began.elapsed().as_secs_f64())
    }

    /// What a warm context takes between receipts, and after a collection: the
    /// mean of several.
    async fn contexts(&self) -> Result<(u64, u64), Failure> {
        let most = self.limits.contexts.saturating_sub(self.limits.at_once).max(1);
        for tenant in tenants("tenant", self.effort.contexts.min(most)) {
            self.receipts(&tenant, SETTLED).await?;
        }
        let settled = self.mean();
        let warm: Vec<u64> = self.seen.contexts().keys().copied().collect();
        for context in warm {
            self.pool.relieve(context, Relief::Trim);
        }
        let end = Instant::now() + PATIENCE;
        let (mut before, mut now) = (u64::MAX, settled);
        // Collections run in the background: until nothing more comes back.
        while Instant::now() < end && (now == settled || before.saturating_sub(now) > now / 50) {
            tokio::time::sleep(PATIENCE / 20).await;
            (before, now) = (now, self.mean());
        }
        Ok((settled, now))
    }

    /// Invoices, each in a page of its own that is warm.
    async fn invoices(&self) -> Result<Vec<Sample>, Failure> {
        let options = Arc::new(documents::on_a4(self.limits.timeout));
        let mut samples: Vec<Sample> = Vec::new();
        for &rows in self.effort.rows {
            self.doing(&format!("an invoice of {rows} rows"));
            let html: Arc<str> = documents::invoice(rows).into();
            let markup = html.len() as u64;
            if !self.has_room(markup) || !is_quick(samples.last(), rows) {
                break;
            }
            let tenant: Arc<str> = format!("invoice-{rows}").into();
            self.receipts(&tenant, 1).await?;
            let began = Instant::now();
            let document = (html, Arc::clone(&options));
            let rendered = self.watching(self.pool.render(request(&tenant, &document))).await;
            let ms = rounded(began.elapsed().as_secs_f64() * 1e3, 10.0);
            let peak = self.peak(|context| context.tenant == tenant);
            self.close(&tenant).await;
            if let Err(why) = rendered {
                tracing::info!(rows, why = %why.message, "an invoice was not measured");
                break;
            }
            samples.push(Sample { rows, markup_bytes: markup, peak_bytes: peak, ms });
        }
        Ok(samples)
    }

    /// Whether a document may be tried: twice what it is expected to take stays
    /// above the reserve.
    fn has_room(&self, markup: u64) -> bool {
        let prior = Features { markup, ..Features::default() }.prior();
        let needed = self.limits.reserve.saturating_add(prior.saturating_mul(2));
        self.probe.read().is_ok_and(|memory| memory.free() >= needed)
    }

    async fn receipts(&self, tenant: &Arc<str>, count: usize) -> Result<(), Failure> {
        for _ in 0..count {
            self.watching(self.render(tenant)).await?;
        }
        Ok(())
    }

    async fn render(&self, tenant: &Arc<str>) -> Result<(), Failure> {
        let rendered = self.pool.render(request(tenant, &self.receipt)).await;
        rendered.map(drop).map_err(|why| failed(&why))
    }

    /// Looks at memory while `work` goes on.
    async fn watching<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.look();
                    return done;
                }
                _ = look.tick() => self.look(),
            }
        }
    }

    fn look(&self) {
        for context in self.seen.contexts().values_mut() {
            let used = context.pid.map_or(0, |pid| self.probe.used_by(pid));
            context.peak = context.peak.max(used);
        }
        let total = u64::try_from(self.effort.total.as_millis()).unwrap_or(u64::MAX);
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.bar.set_position(elapsed.min(total));
    }

    fn peak(&self, which: impl Fn(&Context) -> bool) -> u64 {
        let contexts = self.seen.contexts();
        contexts.values().filter(|context| which(context)).map(|c| c.peak).max().unwrap_or(0)
    }

    /// The mean of what the contexts' processes take now.
    fn mean(&self) -> u64 {
        let used = self.used();
        used.iter().sum::<u64>() / (used.len() as u64).max(1)
    }

    fn used(&self) -> Vec<u64> {
        let pids: Vec<u32> = self.seen.contexts().values().filter_map(|c| c.pid).collect();
        pids.into_iter().map(|pid| self.probe.used_by(pid)).filter(|used| *used > 0).collect()
    }

    /// What the browser takes beside its contexts.
    fn browser(&self) -> u64 {
        let tree = self.pool.browser().map_or(0, |browser| self.probe.used_by_tree(browser.pid()));
        tree.saturating_sub(self.used().iter().sum())
    }

    /// Closes a tenant's context and waits until its memory is back.
    async fn close(&self, tenant: &Arc<str>) {
        let of_tenant = || {
            let contexts = self.seen.contexts();
            contexts.iter().find(|(_, c)| c.tenant == *tenant).map(|(number, _)| *number)
        };
        let end = Instant::now() + PATIENCE;
        while let Some(context) = of_tenant() {
            let ended = self.seen.ended.notified();
            tokio::pin!(ended);
            // Listen before asking, or an end in between is missed.
            ended.as_mut().enable();
            self.pool.relieve(context, Relief::Close);
            let left = end.saturating_duration_since(Instant::now());
            if of_tenant().is_some() && timeout(left, ended).await.is_err() {
                return;
            }
        }
    }

    fn doing(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

/// Whether an invoice of so many rows is expected to be done soon, from the one
/// before: time rises faster than its length, and not as fast as its square.
fn is_quick(before: Option<&Sample>, rows: u64) -> bool {
    before.is_none_or(|before| {
        let times = rows as f64 / before.rows.max(1) as f64;
        before.ms * times.powf(1.5) / 1e3 <= LONGEST.as_secs_f64()
    })
}

fn tenants(name: &str, count: usize) -> Vec<Arc<str>> {
    (0..count).map(|number| format!("{name}-{number}").into()).collect()
}

fn request(tenant: &Arc<str>, document: &(Arc<str>, Arc<RenderOptions>)) -> RenderRequest {
    RenderRequest {
        job: 0,
        tenant: Arc::clone(tenant),
        html: Arc::clone(&document.0),
        options: Arc::clone(&document.1),
        assets: Arc::default(),
        rules: Rules::default(),
        date: OffsetDateTime::UNIX_EPOCH,
    }
}

fn failed(why: &crate::failure::Failure) -> Failure {
    let message = format!("{} ({})", why.message, why.code);
    Failure::new(Exit::Unavailable, "rendering the sample receipt", message, why.remedy.clone())
}

/// To so many parts of one.
fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}
