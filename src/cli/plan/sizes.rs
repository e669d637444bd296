//! What a person writes for sizes, rates and prices, and what is said where it
//! is none: the nearest form that is one. Pure.

use crate::config::units::parse_bytes;

/// Receipts a second: one a day. Less than that needs no plan.
const LEAST_RATE: f64 = 1.0 / 86_400.0;
/// Receipts a second: one for every person on earth in little more than two hours.
const MOST_RATE: f64 = 1_000_000.0;
/// The dearest machine, a month.
const MOST_PRICE: f64 = 1e9;

/// A size such as "4GB".
///
/// # Errors
/// What is wrong, with the form that was meant.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match parse_bytes(text) {
        Ok(0) => Err("it must be more than nothing, like 4GB".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(why) => Err(format!("{why}; write it like {}", nearest_size(text))),
    }
}

/// As [`size`], and nothing is a size too.
///
/// # Errors
/// As [`size`].
pub(super) fn amount(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|why| format!("{why}; write it like {}", nearest_size(text)))
}

/// The number of the text with a unit that reads back.
fn nearest_size(text: &str) -> String {
    let text = text.trim().replace(',', ".");
    let (number, unit) = split(&text);
    let unit = match unit.trim().chars().next().map(|first| first.to_ascii_uppercase()) {
        Some(letter @ ('K' | 'M' | 'T')) => format!("{letter}B"),
        // 512 of something on one machine are no gigabytes.
        None if number.parse().is_ok_and(|number: f64| number >= 256.0) => "MB".to_owned(),
        _ => "GB".to_owned(),
    };
    let nearest = format!("{number}{unit}");
    if parse_bytes(&nearest).is_ok() { nearest } else { "4GB".to_owned() }
}

/// How many cores a machine has.
///
/// # Errors
/// What is wrong, with the form that was meant.
pub(super) fn cores(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(cores @ 1..=1024) => Ok(cores),
        _ => {
            let (number, _) = split(text.trim());
            let nearest = number.parse::<f64>().map_or(2.0, |cores| cores.clamp(1.0, 1024.0));
            Err(format!("it is a whole number from 1 to 1024; write it like {}", nearest.floor()))
        }
    }
}

/// Receipts a second, from "10/s", "600/min", "36000/h" or "200000/day".
///
/// # Errors
/// What is wrong, with the form that was meant.
pub(in crate::cli) fn rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    // What stands before the slash may be written in any way that is a number, like 1e3.
    let (number, unit) = match text.split_once('/') {
        Some((number, _)) if number.trim().parse::<f64>().is_ok() => {
            (number.trim(), text.get(number.len()..).unwrap_or_default())
        }
        _ => split(text),
    };
    let unit = unit.trim();
    let seconds = match unit.strip_prefix('/').map(str::trim) {
        Some("s" | "sec" | "second") => 1.0,
        Some("m" | "min" | "minute") => 60.0,
        Some("h" | "hour") => 3_600.0,
        Some("d" | "day") => 86_400.0,
        _ => {
            let number = if positive(number).is_some() { number } else { "10" };
            let why = if unit.is_empty() { "it has no unit" } else { "that is no unit of a rate" };
            return Err(format!("{why} (/s, /min, /h or /day); write it like {number}/s"));
        }
    };
    let rate = number.parse().map(|count: f64| count / seconds).unwrap_or(f64::NAN);
    if (LEAST_RATE..=MOST_RATE).contains(&rate) {
        return Ok(rate);
    }
    Err(format!("it is from 1/day to {MOST_RATE}/s; write it like 10/s"))
}

/// What one machine costs a month, and in which currency, if that was said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Price {
    /// How much.
    pub(super) amount: f64,
    /// The letters or the sign that stood beside it.
    pub(super) currency: String,
}

/// A price such as "24", "24.50" or "24EUR".
///
/// # Errors
/// What is wrong, with the form that was meant.
pub(super) fn price(text: &str) -> Result<Price, String> {
    let text = text.trim();
    let start = text.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    let (before, rest) = text.split_at(start);
    let (number, after) = split(rest);
    let currency = format!("{}{}", before.trim(), after.trim());
    if currency.contains(',') {
        return Err(format!("write it with a point, like {}", text.replace(',', ".")));
    }
    let wordy = currency.chars().all(|c| c.is_alphabetic() || "$€£¥₹".contains(c));
    match positive(number) {
        Some(amount) if wordy && currency.chars().count() <= 8 && amount <= MOST_PRICE => {
            Ok(Price { amount, currency })
        }
        _ => Err("it is what one machine costs a month; write it like 24 or 24EUR".to_owned()),
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

fn positive(number: &str) -> Option<f64> {
    number.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrong_size_is_answered_with_the_nearest() {
        assert_eq!(size("4GB"), Ok(4_000_000_000));
        for (wrong, nearest) in [
            ("4", "4GB"),
            ("4G", "4GB"),
            ("4,5GB", "4.5GB"),
            ("1500", "1500MB"),
            ("512m", "512MB"),
            ("x", "4GB"),
        ] {
            let why = size(wrong).unwrap_err();
            assert!(why.ends_with(&format!("write it like {nearest}")), "{wrong}: {why}");
        }
        assert!(size("0").is_err());
        assert_eq!(amount("0"), Ok(0));
        for (wrong, nearest) in [("2.5", "2"), ("0", "1"), ("4 vCPU", "4"), ("many", "2")] {
            let why = cores(wrong).unwrap_err();
            assert!(why.ends_with(&format!("write it like {nearest}")), "{wrong}: {why}");
        }
    }

    #[test]
    fn a_rate_has_a_unit() {
        assert_eq!(rate("10/s"), Ok(10.0));
        assert_eq!(rate("600/min"), Ok(10.0));
        assert_eq!(rate("36000 /h"), Ok(10.0));
        assert_eq!(rate("864000/day"), Ok(10.0));
        for (wrong, nearest) in
            [("10", "10/s"), ("10s", "10/s"), ("5/week", "5/s"), ("fast", "10/s")]
        {
            let why = rate(wrong).unwrap_err();
            assert!(why.ends_with(&format!("write it like {nearest}")), "{wrong}: {why}");
        }
        assert_eq!(rate("1e3/s"), Ok(1000.0));
        assert_eq!(rate("1/day"), Ok(1.0 / 86_400.0));
        let much = "9".repeat(40) + "/s";
        for wrong in ["1e30/s", "0/s", "-1/s", "NaN/s", "inf/s", "0.5/day", "1000001/s", &much] {
            let why = rate(wrong).unwrap_err();
            assert!(why.contains("from 1/day to 1000000/s"), "{wrong}: {why}");
        }
    }

    #[test]
    fn a_price_keeps_its_currency() {
        let of = |amount, currency: &str| Ok(Price { amount, currency: currency.to_owned() });
        assert_eq!(price("24"), of(24.0, ""));
        assert_eq!(price("24.50 EUR"), of(24.5, "EUR"));
        assert_eq!(price("€24"), of(24.0, "€"));
        assert!(price("24,50").unwrap_err().ends_with("like 24.50"));
        for wrong in ["", "free", "-3", "0", "24 a month or so", "99999999999"] {
            assert!(price(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic_and_what_is_proposed_reads(text in ".{0,12}") {
            for why in [size(&text).map(drop), amount(&text).map(drop)] {
                if let Err(why) = why
                    && let Some((_, proposed)) = why.rsplit_once("like ")
                {
                    prop_assert!(size(proposed).is_ok() || amount(proposed).is_ok(), "{proposed}");
                }
            }
            drop((cores(&text), rate(&text), price(&text)));
        }
    }
}
