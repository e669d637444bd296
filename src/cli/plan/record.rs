//! What an earlier run measured, read back from its file: every figure is looked at, since
//! the rest is worked out of them by division. Pure.

use serde_json::Value;

use crate::memory::capacity::Measured;

/// Figures that cannot be nothing.
const POSITIVE: [&str; 9] = [
    "cores",
    "at_once",
    "receipt_ms",
    "receipts_per_s",
    "worker_bytes",
    "browser_bytes",
    "context_bytes",
    "receipt_bytes",
    "receipt_markup_bytes",
];
/// Figures that may be.
const AT_LEAST_NOTHING: [&str; 3] = ["load", "seconds", "trimmed_bytes"];
/// Figures of each document.
const OF_DOCUMENTS: [&str; 4] = ["rows", "markup_bytes", "peak_bytes", "ms"];

/// Reads the output of `tillroll plan --json`.
///
/// # Errors
/// Which key is wrong, and what it should be.
pub(super) fn read(text: &str) -> Result<Measured, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| not_json(text, &error))?;
    let measured = value.get_mut("measured").map(Value::take).unwrap_or_default();
    if !measured.is_object() {
        return Err("it has no object `measured`".to_owned());
    }
    for key in POSITIVE {
        figure(&measured[key], &format!("measured.{key}"), 0.0)?;
    }
    for key in AT_LEAST_NOTHING {
        figure(&measured[key], &format!("measured.{key}"), -1.0)?;
    }
    for (at, document) in measured["documents"].as_array().into_iter().flatten().enumerate() {
        for key in OF_DOCUMENTS {
            figure(&document[key], &format!("measured.documents[{at}].{key}"), 0.0)?;
        }
    }
    serde_json::from_value(measured).map_err(|error| format!("`measured` cannot be read: {error}"))
}

/// Whether a figure is a number above `floor`.
fn figure(value: &Value, key: &str, floor: f64) -> Result<(), String> {
    let above = if floor < 0.0 { "0 or more" } else { "more than 0" };
    match value.as_f64() {
        Some(number) if number.is_finite() && number > floor && (floor >= 0.0 || number >= 0.0) => {
            Ok(())
        }
        _ if value.is_null() => Err(format!("{key} is missing or null; it is a number, {above}")),
        _ => Err(format!("{key} is {value}; it is a number, {above}")),
    }
}

/// NaN and Infinity are none of JSON's numbers: the key before the place is to blame.
fn not_json(text: &str, error: &serde_json::Error) -> String {
    let start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let before = text.get(..start.saturating_add(error.column()).min(text.len())).unwrap_or(text);
    let key = before.rsplit_once("\":").and_then(|(before, _)| before.rsplit_once('"'));
    let key = key.map_or(String::new(), |(_, key)| format!(" (at {key:?})"));
    format!("it is not JSON{key}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = include_str!("../../../fixtures/plan/measured.json");

    #[test]
    fn a_wrong_figure_is_refused_by_its_key() {
        let sound: Value = serde_json::from_str(RECORD).unwrap();
        assert!(read(RECORD).is_ok());
        let with = |key: &str, value: Value| {
            let mut record = sound.clone();
            record["measured"][key] = value;
            read(&record.to_string())
        };
        for key in POSITIVE {
            let why = with(key, 0.into()).unwrap_err();
            assert!(why.starts_with(&format!("measured.{key} is 0; ")), "{why}");
        }
        for key in AT_LEAST_NOTHING {
            assert!(with(key, 0.into()).is_ok(), "{key}");
            assert!(with(key, (-1).into()).unwrap_err().contains("0 or more"), "{key}");
        }
        let why = with("receipt_ms", Value::Null).unwrap_err();
        assert!(why.contains("measured.receipt_ms is missing or null"), "{why}");
        let mut record = sound.clone();
        record["measured"]["documents"][1]["ms"] = 0.into();
        let why = read(&record.to_string()).unwrap_err();
        assert!(why.contains("measured.documents[1].ms is 0"), "{why}");
        assert!(with("cores", "2".into()).unwrap_err().contains("cores is \"2\""));
        assert!(read("5").unwrap_err().contains("no object `measured`"));
        assert!(read("{}").unwrap_err().contains("no object `measured`"));
    }

    #[test]
    fn what_is_no_number_of_json_is_named_by_the_key_before_it() {
        let text = "{\"measured\": {\n  \"cores\": 2,\n  \"receipt_ms\": NaN\n}}";
        let why = read(text).unwrap_err();
        assert!(why.contains("(at \"receipt_ms\")"), "{why}");
        assert!(read("").unwrap_err().starts_with("it is not JSON: "));
    }
}
