//! Lengths with units, paper and margins. Pure.
//!
//! One unit inside: the PostScript point (1/72 inch), as a PDF counts.

use std::fmt;

/// Points in one inch.
pub const POINTS_PER_INCH: f64 = 72.0;
/// CSS pixels in one inch.
pub const PIXELS_PER_INCH: f64 = 96.0;
/// The longest side of a page: the limit of the PDF format, 200 inches.
pub const MAX_POINTS: f64 = 14_400.0;

/// A length in points.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Length {
    points: f64,
}

impl Length {
    /// No length at all.
    pub const ZERO: Self = Self { points: 0.0 };

    /// A length of `points` PostScript points.
    #[must_use]
    pub const fn from_points(points: f64) -> Self {
        Self { points }
    }

    /// A length of `mm` millimetres.
    #[must_use]
    pub const fn from_mm(mm: f64) -> Self {
        Self { points: mm * POINTS_PER_INCH / 25.4 }
    }

    /// Reads `80mm`, `8cm`, `3.15in`, `302px`, `226.8pt`. A bare number has no unit and is
    /// refused, except `0`, as in CSS.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "0" {
            return Some(Self::ZERO);
        }
        let split = text.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = text.split_at(split);
        let number = number.trim_end();
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        let value: f64 = number.parse().ok()?;
        let points = match unit {
            "mm" => value * POINTS_PER_INCH / 25.4,
            "cm" => value * POINTS_PER_INCH / 2.54,
            "in" => value * POINTS_PER_INCH,
            "px" => value * POINTS_PER_INCH / PIXELS_PER_INCH,
            "pt" => value,
            _ => return None,
        };
        points.is_finite().then_some(Self { points })
    }

    /// In points.
    #[must_use]
    pub fn points(self) -> f64 {
        self.points
    }

    /// In inches, as the protocol of Chromium wants it.
    #[must_use]
    pub fn inches(self) -> f64 {
        self.points / POINTS_PER_INCH
    }

    /// In CSS pixels.
    #[must_use]
    pub fn pixels(self) -> f64 {
        self.points * PIXELS_PER_INCH / POINTS_PER_INCH
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}pt", (self.points * 100.0).round() / 100.0)
    }
}

/// The height of a sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Height {
    /// A roll: one page, as high as the content.
    Auto,
    /// A sheet.
    Fixed(Length),
}

/// A sheet of paper, upright.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paper {
    /// Across.
    pub width: Length,
    /// Down.
    pub height: Height,
}

impl Paper {
    /// The names that [`Paper::named`] knows, for messages.
    pub const NAMES: [&'static str; 7] = ["80mm", "58mm", "A4", "A5", "A6", "Letter", "Legal"];

    /// The paper of that name; upper and lower case are the same.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let sheet = |width, height| Self { width, height: Height::Fixed(height) };
        let roll = |mm| Self { width: Length::from_mm(mm), height: Height::Auto };
        let mm = Length::from_mm;
        let inches = |value: f64| Length::from_points(value * POINTS_PER_INCH);
        Some(match name.to_ascii_lowercase().as_str() {
            "80mm" => roll(80.0),
            "58mm" => roll(58.0),
            "a4" => sheet(mm(210.0), mm(297.0)),
            "a5" => sheet(mm(148.0), mm(210.0)),
            "a6" => sheet(mm(105.0), mm(148.0)),
            "letter" => sheet(inches(8.5), inches(11.0)),
            "legal" => sheet(inches(8.5), inches(14.0)),
            _ => return None,
        })
    }

    /// Whether it is a roll of automatic height.
    #[must_use]
    pub fn is_roll(&self) -> bool {
        matches!(self.height, Height::Auto)
    }
}

/// The four margins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Margins {
    /// Above the content.
    pub top: Length,
    /// To its right.
    pub right: Length,
    /// Below it.
    pub bottom: Length,
    /// To its left.
    pub left: Length,
}

impl Margins {
    /// The same on all four sides.
    #[must_use]
    pub const fn all(length: Length) -> Self {
        Self { top: length, right: length, bottom: length, left: length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, points) in [
            ("80mm", 226.771_653),
            ("8cm", 226.771_653),
            ("1in", 72.0),
            ("96px", 72.0),
            ("7.5pt", 7.5),
        ] {
            let length = Length::parse(text).unwrap();
            assert!((length.points() - points).abs() < 0.001, "{text}: {length}");
        }
    }

    #[test]
    fn only_zero_may_lack_a_unit() {
        assert_eq!(Length::parse(" 0 "), Some(Length::ZERO));
        assert_eq!(Length::parse("0mm"), Some(Length::ZERO));
        for text in ["1", "00", "0.", "0.0", "-0", "10"] {
            assert_eq!(Length::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for text in
            ["", "80", "mm", "-1mm", "1e3mm", "80 furlongs", "1..2mm", "NaNpx", "infpt", "8mm2"]
        {
            assert_eq!(Length::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_named_paper_is_known_in_any_case() {
        for name in Paper::NAMES {
            assert!(Paper::named(name).is_some(), "{name}");
            assert_eq!(Paper::named(&name.to_uppercase()), Paper::named(&name.to_lowercase()));
        }
        assert!(Paper::named("80mm").unwrap().is_roll());
        assert!(!Paper::named("A4").unwrap().is_roll());
    }
}
