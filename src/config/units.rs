//! Durations and sizes as people write them: `"30s"`, `"250ms"`, `"512MB"`,
//! `"1GiB"`.
//!
//! Pure. Every number carries its unit: a bare `30` is refused, because half of
//! its readers take it for milliseconds. What [`show_duration`] and
//! [`show_bytes`] print reads back as the same value.

use std::time::Duration;

/// What a duration looks like, for messages.
pub const DURATION: &str = "a duration such as \"250ms\", \"30s\", \"5m\" or \"2h\"";
/// What a size looks like, for messages.
pub const SIZE: &str = "a size such as \"512MB\" or \"1GiB\"";

/// Milliseconds in each unit of time, largest first.
const TIME: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Bytes in each unit of size, largest first. `MB` is 10⁶ and `MiB` 2²⁰ bytes.
const BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a duration, exact to the millisecond.
///
/// # Errors
/// Says what is wrong in words that follow "because".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let number = Number::split(text)?;
    let unit = TIME.iter().find(|(name, _)| *name == number.unit);
    let Some((_, milliseconds)) = unit else {
        return Err(match number.unit {
            "" => "it has no unit (ms, s, m, h or d)".into(),
            other => format!("\"{other}\" is not a unit of time (ms, s, m, h or d)"),
        });
    };
    match number.times(*milliseconds)? {
        (whole, true) => Ok(Duration::from_millis(whole)),
        (_, false) => Err("it is finer than a millisecond".into()),
    }
}

/// Reads a size in bytes. A fraction of a byte is cut off.
///
/// # Errors
/// Says what is wrong in words that follow "because".
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let number = Number::split(text)?;
    if number.digits == 0 && number.unit.is_empty() {
        return Ok(0);
    }
    let unit = BYTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(number.unit));
    match unit {
        Some((_, bytes)) => Ok(number.times(*bytes)?.0),
        None if number.unit.is_empty() => {
            Err("it has no unit (B, KB, MB, GB, KiB, MiB, GiB)".into())
        }
        None if matches!(number.unit, "k" | "K" | "m" | "M" | "g" | "G" | "t" | "T") => {
            let letter = number.unit.to_ascii_uppercase();
            Err(format!("\"{letter}\" is ambiguous: write {letter}B (1000s) or {letter}iB (1024s)"))
        }
        None => {
            Err(format!("\"{}\" is not a unit of size (B, KB, MB, GB, KiB, MiB, GiB)", number.unit))
        }
    }
}

/// Writes a duration in the largest unit that divides it. Parts of a
/// millisecond are cut off.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(milliseconds, &TIME, "0s")
}

/// Writes a size in the largest unit that divides it.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    show(bytes, &BYTES, "0B")
}

/// Writes a size for reading, not for reading back: at most one decimal, in MB
/// or what is next to it.
#[must_use]
pub fn show_bytes_rounded(bytes: u64) -> String {
    let (name, unit): (_, u64) = match bytes {
        0..1000 => return format!("{bytes} B"),
        1000..1_000_000 => ("KB", 1000),
        1_000_000..1_000_000_000 => ("MB", 1_000_000),
        _ => ("GB", 1_000_000_000),
    };
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{} {name}", (tenths + 5) / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return zero.into();
    }
    let fits = units.iter().find(|(_, unit)| value.is_multiple_of(*unit));
    fits.map_or_else(|| value.to_string(), |(name, unit)| format!("{}{name}", value / unit))
}

/// A decimal number and what follows it: `digits / 10^decimals unit`.
struct Number<'a> {
    digits: u64,
    decimals: u32,
    unit: &'a str,
}

impl<'a> Number<'a> {
    fn split(text: &'a str) -> Result<Self, String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let dangling = number.contains('.') && fraction.is_empty();
        if whole.is_empty() || dangling || fraction.contains('.') {
            return Err("it does not begin with a number".into());
        }
        let digits = format!("{whole}{fraction}").parse().map_err(|_| too_large())?;
        let decimals = u32::try_from(fraction.len()).map_err(|_| too_large())?;
        Ok(Self { digits, decimals, unit: unit.trim() })
    }

    /// The number in base units, and whether that is exact.
    fn times(&self, unit: u64) -> Result<(u64, bool), String> {
        let scale = 10_u128.checked_pow(self.decimals).ok_or_else(too_large)?;
        let total = u128::from(self.digits) * u128::from(unit);
        let whole = u64::try_from(total / scale).map_err(|_| too_large())?;
        Ok((whole, total.is_multiple_of(scale)))
    }
}

fn too_large() -> String {
    "the number is too large".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("250ms", 250),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1.5s", 1500),
            (" 10 s ", 10_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_duration_that_could_be_misread_is_refused() {
        for (text, why) in [
            ("30", "no unit"),
            ("30sec", "\"sec\" is not a unit"),
            ("", "begin with a number"),
            ("-5s", "begin with a number"),
            ("1..5s", "begin with a number"),
            ("1.s", "begin with a number"),
            ("0.5ms", "finer than a millisecond"),
            ("99999999999999999999s", "too large"),
            ("18446744073709551615d", "too large"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_tell_thousands_from_powers_of_two() {
        for (text, bytes) in [
            ("512MB", 512_000_000),
            ("512MiB", 536_870_912),
            ("1GiB", 1_073_741_824),
            ("1.5gb", 1_500_000_000),
            ("64 KB", 64_000),
            ("7B", 7),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for (text, why) in [
            ("512", "no unit"),
            ("512m", "\"M\" is ambiguous: write MB (1000s) or MiB (1024s)"),
            ("3 bananas", "\"bananas\" is not a unit"),
            ("99999999TB", "too large"),
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn rounded_sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1500, "1.5 KB"),
            (96_000_000, "96 MB"),
            (1_073_741_824, "1.1 GB"),
            (312_440_000, "312 MB"),
        ] {
            assert_eq!(show_bytes_rounded(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(milliseconds in any::<u64>()) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_shown_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in ".*") {
            drop((parse_duration(&text), parse_bytes(&text)));
        }
    }
}
