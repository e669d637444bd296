//! Figures beside their goals: Markdown on stdout, and the same as JSON.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {}", amount(least, unit)),
            Self::AtMost(most) => format!("at most {}", amount(most, unit)),
        }
    }
}

/// All figures, in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Report {
    sections: Map<String, Value>,
    section: String,
    missed: Vec<String>,
}

impl Report {
    /// A table with its title, and what it is about.
    pub(crate) fn section(&mut self, title: &str, about: &str) {
        println!(
            "\n### {title}\n\n{about}\n\n| what | figure | goal | | seen |\n|---|---|---|---|---|"
        );
        title.clone_into(&mut self.section);
        self.sections.insert(self.section.clone(), json!({ "about": about, "figures": {} }));
    }

    /// A figure without a goal; `seen` says what else there is to know.
    pub(crate) fn figure(&mut self, what: &str, value: f64, unit: &str, seen: &str) {
        println!("| {what} | {} | | | {seen} |", amount(value, unit));
        self.keep(what, json!({ "value": value, "unit": unit, "seen": seen }));
    }

    /// A figure with its goal.
    pub(crate) fn goal(&mut self, what: &str, value: f64, unit: &str, goal: Goal, seen: &str) {
        let (reached, text) = (goal.is_reached(value), goal.text(unit));
        let mark = if reached { "reached" } else { "MISSED" };
        println!("| {what} | {} | {text} | {mark} | {seen} |", amount(value, unit));
        if !reached {
            let place = format!("{}: {what}: {}, {text}", self.section, amount(value, unit));
            self.missed.push(place);
        }
        let figure = json!({
            "value": value, "unit": unit, "goal": text, "reached": reached, "seen": seen,
        });
        self.keep(what, figure);
    }

    /// What could not be measured, and why.
    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        println!("| {what} | not measured | | | {why} |");
        self.keep(what, json!({ "skipped": why }));
    }

    /// Something for the JSON only, such as a distribution.
    pub(crate) fn keep(&mut self, what: &str, value: Value) {
        if let Some(section) = self.sections.get_mut(&self.section) {
            section["figures"][what] = value;
        }
    }

    /// Writes the JSON, in which sections that were not measured now are kept; says
    /// which goals were missed.
    pub(crate) fn finish(self, machine: &Value) -> Vec<String> {
        let path = out().join("speed.json");
        let mut all: Map<String, Value> = std::fs::read(&path)
            .ok()
            .and_then(|old| serde_json::from_slice(&old).ok())
            .unwrap_or_default();
        all.insert("machine".to_owned(), machine.clone());
        all.extend(self.sections);
        std::fs::write(&path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
        println!("\n{}", path.display());
        self.missed
    }
}

/// Where results, logs and the peers' packages are.
pub(crate) fn out() -> PathBuf {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Where what is started keeps what it says.
pub(crate) fn log(name: &str) -> PathBuf {
    let dir = out().join("logs");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(format!("{name}.log"))
}

fn amount(value: f64, unit: &str) -> String {
    let space = if unit.is_empty() { "" } else { " " };
    format!("{}{space}{unit}", number(value))
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The least and the most of several, for the last column.
pub(crate) fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} to {}", number(least), number(most))
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Of few values; of two in the middle their mean.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        return f64::NAN;
    }
    let at = (values.len() - 1) as f64 * share;
    (values[at.floor() as usize] + values[at.ceil() as usize]) / 2.0
}
