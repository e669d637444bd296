//! What a machine can carry, from what was measured on one. Pure.
//!
//! ```text
//!  free ─ budget ─▶ less browser and worker ─▶ less what stays free ─▶ renders, then warm contexts
//!                                           └▶ less the hard line ───▶ the largest document
//! ```
//!
//! Memory is spent in the governor's own terms ([`Plan`], [`Bounds`], [`Reserve`]), as a worker
//! would spend it that has just started, beside neighbours that take nothing more.
//! Speed is scaled by cores, in proportion; a render uses one core at a time, so
//! that fewer renders than cores leave cores idle.
//!
//! What a document takes is read off the documents that were measured, evenly in
//! between. Beyond the largest its memory is taken to rise as
//! [`Features::prior`] does, and its time with the third power of its length (5,000
//! rows took 2 s, 20,000 were not done in 100 s); and nothing is promised beyond
//! twice its length.
//!
//! Fails as [`Plan::new`] does: where not even one render fits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::{Features, RECEIPT};
use super::entry::signed;
use super::live::REACTION;
use super::predictor::with_margin;
use super::reserve::Reserve;
use super::terms::Bounds;
use super::{BROWSER_BYTES, CONTEXT_BYTES, MAX_CONTEXTS, Plan, Settings, TooSmall, WORKER_BYTES};

/// The part of the speed that is planned with: what is left absorbs peaks, the
/// queue's own work, and a neighbour's busy hour.
pub const USED: f64 = 0.7;
/// Seconds in a month: a twelfth of a year.
pub const MONTH_SECONDS: f64 = 2_629_800.0;
/// Nothing is promised of documents so many times longer than the longest that was measured.
const BEYOND: u64 = 2;
/// Bytes of markup in a row of a plain table (1,000 rows: 128 KB).
const ROW: u64 = 128;

/// What the parts of a worker take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// The worker process.
    pub worker_bytes: u64,
    /// A browser without any page.
    pub browser_bytes: u64,
    /// A warm context between two receipts.
    pub context_bytes: u64,
    /// A context that renders a receipt, at its peak.
    pub receipt_bytes: u64,
}

impl Needs {
    /// Where nothing was measured: what the governor expects.
    pub const EXPECTED: Self = Self {
        worker_bytes: WORKER_BYTES,
        browser_bytes: BROWSER_BYTES,
        context_bytes: CONTEXT_BYTES,
        receipt_bytes: RECEIPT,
    };
}

/// A document that was rendered to see what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Rows of its table.
    pub rows: u64,
    /// Bytes of its markup.
    pub markup_bytes: u64,
    /// The most that its renderer used, in bytes.
    pub peak_bytes: u64,
    /// How long the render took.
    pub ms: f64,
}

/// What was measured on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What Chromium calls itself.
    pub engine: String,
    /// Cores that could be used.
    pub cores: usize,
    /// How many tasks wanted a core when it began, ourselves not counted.
    pub load: f64,
    /// How long it took.
    pub seconds: f64,
    /// Memory.
    #[serde(flatten)]
    pub needs: Needs,
    /// A warm context after a collection, in bytes.
    pub trimmed_bytes: u64,
    /// Bytes of the receipt's markup.
    pub receipt_markup_bytes: u64,
    /// One receipt, nothing else running: the median.
    pub receipt_ms: f64,
    /// So many rendered at once for the figure below.
    pub at_once: usize,
    /// Receipts a second, without the queue.
    pub receipts_per_s: f64,
    /// Larger documents, shortest first.
    pub documents: Vec<Sample>,
}

/// How a governed worker would spend the memory of a machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// What worker, browser and renderers may use together; no more than the limit.
    pub budget: u64,
    /// What of the free memory admissions leave: the reserve, and what renderers
    /// can grow between two looks.
    pub keep: u64,
    /// Renders at once.
    pub slots: usize,
    /// Receipts that memory alone would let in at once.
    pub fitting: usize,
    /// Warm contexts, those that render included.
    pub contexts: usize,
    /// What one document may use, alone.
    pub largest: u64,
}

impl Room {
    /// Spends `free` bytes of a machine with `cores`.
    ///
    /// # Errors
    /// Where a worker would not start, because not even one render fits.
    pub fn new(
        settings: &Settings,
        cores: usize,
        free: u64,
        needs: &Needs,
    ) -> Result<Self, TooSmall> {
        Plan::new(settings, free)?;
        let Bounds { budget, kept } = settings.bounds();
        let budget = budget.unwrap_or(free).min(free);
        let lines = Reserve::new(settings.reserve, cores, REACTION)
            .lines_beside(free - budget, Duration::ZERO);
        let fixed = needs.worker_bytes.saturating_add(needs.browser_bytes);
        let room = signed(budget) - signed(kept) - signed(fixed);
        let headroom = u64::try_from(room - signed(lines.keep)).unwrap_or(0);
        let receipt = with_margin(needs.receipt_bytes).max(1);
        let fitting = usize::try_from(headroom / receipt).unwrap_or(usize::MAX);
        // Where nothing runs one is let in all the same.
        let slots = settings.slots.clamp(1, fitting.max(1));
        let rest = headroom.saturating_sub(slots as u64 * receipt);
        let idle = usize::try_from(rest / needs.context_bytes.max(1)).unwrap_or(usize::MAX);
        // In the operator's terms, as status has them: see `Standing::within`.
        let above = budget.saturating_sub(settings.limit.unwrap_or(u64::MAX));
        Ok(Self {
            budget: budget - above,
            keep: lines.keep.saturating_sub(above),
            slots,
            fitting,
            contexts: slots.saturating_add(idle).min(MAX_CONTEXTS),
            largest: u64::try_from(room - signed(lines.hard)).unwrap_or(0),
        })
    }
}

/// What ends the growth of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Its renderer would be killed for its memory.
    Memory,
    /// It would not be done in time.
    Time,
    /// Nothing as large was measured.
    Measured,
}

/// The largest document that is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Largest {
    /// Rows of a plain table, rounded down to two figures.
    pub rows: u64,
    /// Bytes of markup.
    pub markup_bytes: u64,
    /// What stands against a larger one.
    pub end: End,
}

impl Measured {
    /// Receipts a second on a machine with `cores` that renders `slots` at once.
    #[must_use]
    pub fn rate(&self, cores: usize, slots: usize) -> f64 {
        let together = self.receipts_per_s / self.at_once.max(1) as f64;
        let core = self.receipts_per_s / self.cores.max(1) as f64;
        // One alone is no slower than one among others: what was measured otherwise is noise.
        let alone = (1000.0 / self.receipt_ms.max(0.001)).max(together).max(core);
        (slots as f64 * alone).min(cores as f64 * core)
    }

    /// Whether [`Self::rate`] of it is what was measured, not scaled.
    #[must_use]
    pub fn is_of(&self, cores: usize, slots: usize) -> bool {
        cores == self.cores && slots == self.at_once
    }

    /// Megabytes that a megabyte of markup takes, from the first to the last document.
    #[must_use]
    pub fn slope(&self) -> Option<f64> {
        let (first, last) = (self.documents.first()?, self.documents.last()?);
        let more = last.markup_bytes.checked_sub(first.markup_bytes).filter(|more| *more > 0)?;
        Some(last.peak_bytes.saturating_sub(first.peak_bytes) as f64 / more as f64)
    }

    /// The largest document that `room` bytes hold and that is done within `timeout`.
    #[must_use]
    pub fn largest(&self, room: u64, timeout: Duration) -> Largest {
        let last = self.documents.last();
        let longest = last.map_or(self.receipt_markup_bytes, |last| last.markup_bytes);
        let row = last.map_or(ROW, |last| last.markup_bytes / last.rows.max(1)).max(1);
        let fits = |markup| self.peak(markup) <= room as f64;
        let in_time = |markup| self.millis(markup) <= timeout.as_secs_f64() * 1e3;
        // Both only ever turn from true to false.
        let (mut low, mut high) = (0, longest.saturating_mul(BEYOND) / row);
        let most = high;
        while low < high {
            let rows = low + (high - low).div_ceil(2);
            if fits(rows * row) && in_time(rows * row) {
                low = rows;
            } else {
                high = rows - 1;
            }
        }
        let end = match low {
            rows if rows == most => End::Measured,
            rows if !fits((rows + 1) * row) => End::Memory,
            _ => End::Time,
        };
        let rows = two_figures(low);
        Largest { rows, markup_bytes: rows * row, end }
    }

    /// The peak of a document with so much markup, in bytes; never falls as it grows.
    fn peak(&self, markup: u64) -> f64 {
        let prior = |markup| Features { markup, ..Features::default() }.prior() as f64;
        let receipt = self.needs.receipt_bytes as f64;
        self.along(
            markup,
            receipt,
            |sample| sample.peak_bytes as f64,
            |last| prior(markup) / prior(last),
        )
    }

    /// The time of a document with so much markup, in milliseconds; never falls as it grows.
    fn millis(&self, markup: u64) -> f64 {
        self.along(
            markup,
            self.receipt_ms,
            |sample| sample.ms,
            |last| (markup as f64 / last.max(1) as f64).powi(3),
        )
    }

    /// Evenly between the receipt and the samples; beyond them the last value times `beyond`.
    fn along(
        &self,
        markup: u64,
        receipt: f64,
        value: impl Fn(&Sample) -> f64,
        beyond: impl Fn(u64) -> f64,
    ) -> f64 {
        let mut from = (self.receipt_markup_bytes, receipt);
        if markup <= from.0 {
            return from.1;
        }
        for sample in self.documents.iter().filter(|s| s.markup_bytes > self.receipt_markup_bytes) {
            let to = (sample.markup_bytes.max(from.0), value(sample).max(from.1));
            if markup <= to.0 {
                let part = (markup - from.0) as f64 / (to.0 - from.0).max(1) as f64;
                return from.1 + (to.1 - from.1) * part;
            }
            from = to;
        }
        from.1 * beyond(from.0).max(1.0)
    }
}

/// 8,549 becomes 8,500: the rest is not known.
fn two_figures(number: u64) -> u64 {
    let unit = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    number / unit * unit
}

/// What a machine can carry.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Capacity {
    /// Its memory.
    pub room: Room,
    /// Receipts a second, as fast as it can.
    pub receipts_per_s: f64,
    /// The largest document.
    pub largest: Largest,
}

impl Capacity {
    /// Of a machine with `cores` and `free` bytes, by what was measured on one;
    /// documents are given `timeout`.
    ///
    /// # Errors
    /// Where a worker would not start, because not even one render fits.
    pub fn new(
        measured: &Measured,
        settings: &Settings,
        cores: usize,
        free: u64,
        timeout: Duration,
    ) -> Result<Self, TooSmall> {
        let room = Room::new(settings, cores, free, &measured.needs)?;
        Ok(Self {
            room,
            receipts_per_s: measured.rate(cores, room.slots),
            largest: measured.largest(room.largest, timeout),
        })
    }

    /// How long a backlog of so many receipts takes, in seconds.
    #[must_use]
    pub fn drain_seconds(&self, receipts: u64) -> f64 {
        receipts as f64 / self.receipts_per_s
    }

    /// What is planned with, receipts a second: [`USED`] of the speed.
    #[must_use]
    pub fn planned_per_s(&self) -> f64 {
        self.receipts_per_s * USED
    }

    /// Machines for so many receipts a second, day and night.
    #[must_use]
    pub fn machines(&self, per_s: f64) -> u64 {
        // A quotient just above a whole number by rounding is that number.
        ((per_s / self.planned_per_s() - 1e-9).ceil() as u64).max(1)
    }

    /// What 1,000 receipts cost on machines of this `price` a month: of one that is
    /// busy day and night as planned, or of as many as `per_s` needs.
    #[must_use]
    pub fn cost_of_1000(&self, price: f64, per_s: Option<f64>) -> f64 {
        let (machines, rate) = match per_s {
            Some(rate) => (self.machines(rate), rate),
            None => (1, self.planned_per_s()),
        };
        machines as f64 * price / (rate * MONTH_SECONDS) * 1000.0
    }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
