//! What the plan says, for people and for machines: each figure with how it is
//! known. Pure.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::sizes::Price;
use crate::cli::table;
use crate::config::units::show_bytes_rounded as show_bytes;
use crate::config::values::Concurrency;
use crate::memory::capacity::{Capacity, End, Measured, Needs, Room, USED};
use crate::memory::{MAX_CONTEXTS, Settings};

/// More tasks than this for each core, and the speed that was measured is not the machine's.
const BUSY: f64 = 0.3;

/// The machine that is planned for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// Cores.
    pub(super) cores: usize,
    /// Bytes that it has.
    pub(super) ram: u64,
    /// Bytes of them that are not for us.
    pub(super) others: u64,
    /// Bytes that are left.
    pub(super) free: u64,
    /// What the configuration says of its memory.
    pub(super) settings: Settings,
    /// Whether `others` was neither measured nor given.
    pub(super) assumed: bool,
}

/// All that is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report<'a> {
    pub(super) measured: &'a Measured,
    pub(super) machine: &'a Machine,
    pub(super) capacity: &'a Capacity,
    /// Receipts a second that are to be carried.
    pub(super) rate: Option<f64>,
    pub(super) price: Option<&'a Price>,
    /// What a document may take.
    pub(super) timeout: Duration,
    /// Whether `memory.governor` is on.
    pub(super) governed: bool,
    /// Whether it was measured just now.
    pub(super) fresh: bool,
}

/// One figure: its key, what it is called, how it reads, its value, how it is known.
struct Figure {
    key: &'static str,
    name: String,
    shown: String,
    value: Value,
    basis: String,
}

impl Report<'_> {
    /// For machines. Fields are added, never changed.
    pub(super) fn json(&self) -> Value {
        let figures = self.figures();
        let basis: Map<_, _> =
            figures.iter().map(|f| (f.key.to_owned(), Value::from(f.basis.clone()))).collect();
        let mut capacity: Map<_, _> =
            figures.into_iter().map(|figure| (figure.key.to_owned(), figure.value)).collect();
        capacity.insert("largest_markup_bytes".into(), self.capacity.largest.markup_bytes.into());
        capacity.insert("largest_memory_bytes".into(), self.capacity.room.largest.into());
        capacity.insert("expected_tenants".into(), self.expected_contexts().into());
        let Machine { cores, ram, others, free, settings, .. } = *self.machine;
        json!({
            "v": 1,
            "machine": {
                "cpus": cores, "ram_bytes": ram, "others_bytes": others, "free_bytes": free,
                "limit_bytes": settings.limit, "reserve_bytes": settings.reserve,
                "redis_bytes": settings.redis,
            },
            "capacity": capacity,
            "basis": basis,
            "notes": self.notes(),
            "measured": self.measured,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .figures()
            .into_iter()
            .map(|figure| vec![figure.name, figure.shown, figure.basis])
            .collect();
        let mut text = format!("{}\n\n", self.size());
        text += &table(&["", "", "how it is known"], &rows);
        text +=
            &format!("\n{}\n\n{}", self.origin(), table(&["", ""], &self.samples()).trim_start());
        text.push('\n');
        for note in self.notes() {
            text += &format!("note: {note}\n");
        }
        text
    }

    fn size(&self) -> String {
        let Machine { cores, ram, others, free, settings, assumed } = *self.machine;
        let mut size = format!(
            "{}, {}; others take {}{}, which leaves {}",
            counted(cores, "core"),
            show_bytes(ram),
            show_bytes(others),
            if assumed { " (assumed)" } else { "" },
            show_bytes(free),
        );
        if let Some(limit) = settings.limit {
            size += &format!("; memory.limit {}", show_bytes(limit));
        }
        if settings.redis > 0 {
            size += &format!("; {} of it for the embedded Redis", show_bytes(settings.redis));
        }
        size
    }

    fn origin(&self) -> String {
        let Measured { engine, cores, seconds, .. } = self.measured;
        let place = if self.fresh { "measured here" } else { "measured before" };
        format!("{place} in {seconds:.0} s on {}, with {engine}:", counted(*cores, "core"))
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![self.renders(), self.tenants(), self.speed()];
        for (key, receipts) in [("drain_1000_s", 1_000), ("drain_10000_s", 10_000)] {
            let seconds = self.capacity.drain_seconds(receipts);
            figures.push(Figure {
                key,
                name: format!("{} receipts", grouped(receipts)),
                shown: format!("{} s", short(seconds)),
                value: rounded(seconds, 1000.0).into(),
                basis: "from receipts/s, all there at once".to_owned(),
            });
        }
        figures.extend([self.largest(), self.kept()]);
        figures.extend(self.machines());
        figures.extend(self.cost());
        figures
    }

    fn renders(&self) -> Figure {
        let room = &self.capacity.room;
        let wanted = self.machine.settings.slots;
        let each = show_bytes(self.measured.needs.receipt_bytes);
        let basis = if room.slots < wanted {
            format!("memory: scaled from {each} for each, measured; worker.concurrency is {wanted}")
        } else {
            format!("worker.concurrency; memory would let in {}, {each} each", room.fitting)
        };
        Figure {
            key: "renders_at_once",
            name: "renders at once".to_owned(),
            shown: room.slots.to_string(),
            value: room.slots.into(),
            basis,
        }
    }

    fn tenants(&self) -> Figure {
        let contexts = self.capacity.room.contexts;
        let each = show_bytes(self.measured.needs.context_bytes);
        let mut basis = match contexts {
            MAX_CONTEXTS => format!("as many as a browser is given; {each} each, measured"),
            _ => format!("scaled from {each} each, measured"),
        };
        if let Some(expected) = self.expected_contexts() {
            basis += &format!("; unmeasured, as in doctor and the worker's log, {expected}");
        }
        Figure {
            key: "warm_tenants",
            name: "warm tenants".to_owned(),
            shown: contexts.to_string(),
            value: contexts.into(),
            basis,
        }
    }

    /// Warm contexts on that machine before anything is measured there: the number that
    /// doctor and the worker's log have.
    fn expected_contexts(&self) -> Option<usize> {
        let Machine { settings, cores, free, .. } = self.machine;
        Some(Room::new(settings, *cores, *free, &Needs::EXPECTED).ok()?.contexts)
    }

    fn speed(&self) -> Figure {
        let measured = self.measured;
        let (cores, slots) = (self.machine.cores, self.capacity.room.slots);
        let rate = self.capacity.receipts_per_s;
        let with =
            format!("{} with {}", short(measured.receipts_per_s), counted(measured.cores, "core"));
        let basis = if measured.is_of(cores, slots) {
            format!("measured, {slots} at once, without the queue")
        } else if (rate - measured.receipts_per_s).abs() < 1e-9 {
            format!("measured with {} at once, without the queue", measured.at_once)
        } else if rate < measured.rate(cores, usize::MAX) {
            format!("scaled from {} ms for one alone, measured", short(measured.receipt_ms))
        } else {
            format!("scaled by cores from {with}, measured without the queue")
        };
        Figure {
            key: "receipts_per_s",
            name: "receipts/s".to_owned(),
            shown: short(rate),
            value: rounded(rate, 10.0).into(),
            basis,
        }
    }

    fn largest(&self) -> Figure {
        let largest = &self.capacity.largest;
        let longest = self.measured.documents.last().map_or(0, |sample| sample.rows);
        let known = match (largest.rows, self.measured.slope()) {
            (_, None) => "assumed: no invoice was measured".to_owned(),
            (rows, Some(_)) if rows <= longest => "between what was measured".to_owned(),
            (_, Some(_)) => format!("scaled from {} rows, measured", grouped(longest)),
        };
        let end = match largest.end {
            End::Memory => format!("{} for it", show_bytes(self.capacity.room.largest)),
            End::Time => format!("{} s for it", self.timeout.as_secs()),
            End::Measured => "nothing larger was measured".to_owned(),
        };
        Figure {
            key: "largest_rows",
            name: "largest document".to_owned(),
            shown: format!("{} rows, {}", grouped(largest.rows), show_bytes(largest.markup_bytes)),
            value: largest.rows.into(),
            basis: format!("{known}; alone, {end}"),
        }
    }

    fn kept(&self) -> Figure {
        let (kept, reserve) = (self.capacity.room.keep, self.machine.settings.reserve);
        Figure {
            key: "kept_free_bytes",
            name: "kept free".to_owned(),
            shown: show_bytes(kept),
            value: kept.into(),
            basis: format!(
                "memory.reserve ({}{}), and what renderers grow between two looks",
                show_bytes(reserve),
                if kept < reserve { ", the rest beyond memory.limit" } else { "" }
            ),
        }
    }

    fn machines(&self) -> Option<Figure> {
        let rate = self.rate?;
        let machines = self.capacity.machines(rate);
        Some(Figure {
            key: "machines",
            name: format!("machines for {}/s", short(rate)),
            shown: machines.to_string(),
            value: machines.into(),
            basis: format!(
                "{} of receipts/s each; the rest is for peaks, neighbours and the queue",
                percent(USED)
            ),
        })
    }

    fn cost(&self) -> Option<Figure> {
        let Price { amount, currency } = self.price?;
        let cost = self.capacity.cost_of_1000(*amount, self.rate);
        let currency = if currency.is_empty() { "of your currency" } else { currency };
        let basis = match self.rate {
            Some(rate) => format!("{amount} a month a machine, {}/s day and night", short(rate)),
            None => format!("{amount} a month, busy day and night at {}", percent(USED)),
        };
        Some(Figure {
            key: "cost_of_1000",
            name: "1,000 receipts cost".to_owned(),
            shown: format!("{} {currency}", significant(cost)),
            value: rounded(cost, 1e6).into(),
            basis,
        })
    }

    fn samples(&self) -> Vec<Vec<String>> {
        let Measured { needs, .. } = self.measured;
        let row = |name: String, what: String| vec![name, what];
        let mut rows = vec![
            row(
                "a receipt alone".to_owned(),
                format!(
                    "{} ms, {} at its peak",
                    short(self.measured.receipt_ms),
                    show_bytes(needs.receipt_bytes)
                ),
            ),
            row(
                "a warm context".to_owned(),
                format!(
                    "{} after its receipts, {} trimmed",
                    show_bytes(needs.context_bytes),
                    show_bytes(self.measured.trimmed_bytes)
                ),
            ),
            row(
                "browser and worker".to_owned(),
                format!(
                    "{} and {}",
                    show_bytes(needs.browser_bytes),
                    show_bytes(needs.worker_bytes)
                ),
            ),
        ];
        rows.extend(self.measured.documents.iter().map(|sample| {
            row(
                format!("{} rows, {}", grouped(sample.rows), show_bytes(sample.markup_bytes)),
                format!("{}, {} ms", show_bytes(sample.peak_bytes), short(sample.ms)),
            )
        }));
        if let Some(slope) = self.measured.slope() {
            rows.push(row(
                "rows".to_owned(),
                format!("{:.1} MB for each KB of them", slope / 1000.0),
            ));
        }
        rows
    }

    /// What the figures do not say.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "receipts like the sample ({}), documents that are plain tables, neighbours that leave \
             the cores alone; images take more",
            show_bytes(self.measured.receipt_markup_bytes)
        )];
        if self.measured.load > BUSY * self.measured.cores as f64 {
            notes.push(format!(
                "{:.1} tasks wanted the {} in the minute before: the speed may be lower than the \
                 machine's own; run it again when it is quiet",
                self.measured.load,
                counted(self.measured.cores, "core")
            ));
        }
        if self.machine.assumed {
            notes.push(format!(
                "--ram came without --others: the system and all else are assumed to take {}",
                show_bytes(self.machine.others)
            ));
        }
        // Given as slots here; auto never is too many.
        let slots = u16::try_from(self.machine.settings.slots).unwrap_or(u16::MAX);
        notes.extend(Concurrency::Fixed(slots).excess(self.machine.cores));
        if !self.governed {
            notes.push(
                "memory.governor is off: nothing is ended then, and memory is not sure to last; \
                 the figures are those with it on"
                    .to_owned(),
            );
        }
        notes
    }
}

fn counted(number: usize, noun: &str) -> String {
    crate::cli::counted(number as u64, noun)
}

/// 12,500.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One decimal below 20, none above.
fn short(number: f64) -> String {
    if number < 20.0 {
        let text = format!("{number:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    } else {
        format!("{number:.0}")
    }
}

/// Two figures that say something.
fn significant(number: f64) -> String {
    let decimals =
        if number >= 10.0 { 0 } else { (1.0 - number.max(1e-9).log10().floor()) as usize };
    format!("{number:.decimals$}")
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// To so many parts of one.
fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
