//! Figures beside their goals.

use std::sync::atomic::{AtomicUsize, Ordering};

static MISSED: AtomicUsize = AtomicUsize::new(0);

/// Prints a table's head.
pub(crate) fn section(title: &str) {
    println!("\n## {title}\n\n| what | figure | goal | |\n|---|---|---|---|");
}

/// A figure without a goal.
pub(crate) fn figure(what: &str, figure: &str) {
    println!("| {what} | {figure} | | |");
}

/// A figure, its goal, and whether it is reached; see [`missed`].
pub(crate) fn goal(what: &str, figure: &str, goal: &str, reached: bool) {
    MISSED.fetch_add(usize::from(!reached), Ordering::Relaxed);
    let mark = if reached { "reached" } else { "MISSED" };
    println!("| {what} | {figure} | {goal} | {mark} |");
}

/// How many goals were not reached until now. Said at the end, which is to fail then.
pub(crate) fn missed() -> usize {
    let missed = MISSED.load(Ordering::Relaxed);
    if missed > 0 {
        println!("\ngoals that were missed: {missed}");
    }
    missed
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        return f64::NAN;
    }
    values[((values.len() - 1) as f64 * share).round() as usize]
}
