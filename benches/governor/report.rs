//! Figures beside their goals.

/// Prints a table's head.
pub(crate) fn section(title: &str) {
    println!("\n## {title}\n\n| what | figure | goal | |\n|---|---|---|---|");
}

/// A figure without a goal.
pub(crate) fn figure(what: &str, figure: &str) {
    println!("| {what} | {figure} | | |");
}

/// A figure, its goal, and whether it is reached.
pub(crate) fn goal(what: &str, figure: &str, goal: &str, reached: bool) {
    let mark = if reached { "reached" } else { "MISSED" };
    println!("| {what} | {figure} | {goal} | {mark} |");
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
