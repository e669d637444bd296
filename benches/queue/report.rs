//! The table on stdout, and the same as JSON in `target/bench/queue.json`.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Figures in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
    section: String,
}

impl Report {
    pub(crate) fn section(&mut self, title: &str) {
        println!("\n{title}");
        title.clone_into(&mut self.section);
    }

    /// One figure: what, how much, of what; `note` says what else there is to know.
    pub(crate) fn figure(&mut self, what: &str, value: f64, unit: &str, note: &str) {
        let shown = match value {
            v if v >= 100.0 => format!("{v:.0}"),
            v if v >= 10.0 => format!("{v:.1}"),
            v => format!("{v:.2}"),
        };
        println!("  {what:<44} {shown:>9} {unit:<14} {note}");
        let section = self.figures.entry(self.section.clone()).or_insert_with(|| json!({}));
        section[what] = json!({ "value": value, "unit": unit, "note": note });
    }

    /// Quantiles of `times`.
    pub(crate) fn quantiles(&mut self, what: &str, times: &[Duration], note: &str) {
        for share in [50, 95, 99] {
            let value = quantile(times, f64::from(share) / 100.0);
            self.figure(&format!("{what}, p{share}"), value, "ms", note);
        }
    }

    /// Writes the JSON; figures of sections that were not measured now are kept.
    pub(crate) fn write(self) {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("queue.json");
        let mut all: Map<String, Value> = std::fs::read(&path)
            .ok()
            .and_then(|old| serde_json::from_slice(&old).ok())
            .unwrap_or_default();
        all.extend(self.figures);
        std::fs::write(&path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
        println!("\n{}", path.display());
    }
}

/// In milliseconds.
pub(crate) fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
