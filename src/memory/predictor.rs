//! What a job's renderer will use at most: learned for each kind of job, from
//! the document's looks before that. Pure.
//!
//! A kind is a tenant's documents of about one size, with or without images and
//! scripts. For each kind one number is kept: a decayed high quantile of the
//! footprints seen. A larger footprint lifts it at once; smaller ones lower it
//! by a two-hundredth of the distance each, so that a heavy document that comes
//! once in fifty is still expected. Beside each tenant's own kinds the same is
//! kept for all tenants together, so that a new tenant's receipts are not new; but
//! of that no more is believed than [`HEARSAY`] times what the document looks like: one
//! tenant's small page that takes a gigabyte must not have all others run alone.
//!
//! At most [`KINDS`] kinds are kept, least recently used ones go. What is known
//! can be written down ([`Predictor::dump`]) and taken in by another worker
//! ([`Predictor::absorb`]); a line that is not understood is passed over.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::document::Features;

/// Kinds kept, those of all tenants together included.
pub const KINDS: usize = 1024;
/// From so many documents on, what was seen counts more than what was expected.
const ENOUGH: u32 = 8;
/// Added to what was seen, in hundredths.
const MARGIN: u64 = 10;
/// Smaller footprints lower the quantile by one part in so many of the distance.
const SLOW: u64 = 200;
/// What other tenants' documents took counts up to so many times the expectation.
const HEARSAY: u64 = 3;
/// The first line of what is written down.
const HEADER: &str = "tillroll-footprints 1";

/// Jobs that are expected to use about the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    tenant: Box<str>,
    /// Markup in half powers of two.
    size: u8,
    /// Decoded images in powers of four MiB; 0 where there are none.
    images: u8,
    scripts: bool,
}

impl Kind {
    /// The kind of a tenant's document.
    #[must_use]
    pub fn new(tenant: &str, features: &Features) -> Self {
        Self {
            tenant: tenant.into(),
            size: half_powers(features.markup),
            images: match features.images {
                0 => 0,
                bytes => 1 + (u64::BITS - (bytes >> 22).leading_zeros()).div_ceil(2) as u8,
            },
            scripts: features.scripts,
        }
    }

    fn of_all(&self) -> Self {
        Self { tenant: Box::from(""), ..self.clone() }
    }
}

/// Twice the binary logarithm, rounded down: sizes within a factor of 1.5 share a kind.
fn half_powers(bytes: u64) -> u8 {
    let Some(log) = bytes.checked_ilog2() else { return 0 };
    // The bit below the highest one tells the halves apart.
    let upper = log > 0 && bytes >> (log - 1) & 1 == 1;
    log as u8 * 2 + u8::from(upper)
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    quantile: u64,
    count: u32,
    used: u64,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Predictor {
    kinds: HashMap<Kind, Seen>,
    /// Counts uses, for the least recent.
    turn: u64,
}

impl Predictor {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Kinds known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The footprint to expect, in bytes.
    #[must_use]
    pub fn predict(&self, kind: &Kind, features: &Features) -> u64 {
        self.expected(kind, features.prior())
    }

    /// The same where the looks say `prior`.
    #[must_use]
    pub fn expected(&self, kind: &Kind, prior: u64) -> u64 {
        let own = self.kinds.get(kind);
        let all = self.kinds.get(&kind.of_all());
        let known = match (own, all) {
            (Some(own), _) if own.count >= ENOUGH => return with_margin(own.quantile),
            (own, Some(all)) if all.count >= ENOUGH => {
                let of_others = all.quantile.min(prior.saturating_mul(HEARSAY));
                return with_margin(of_others.max(own.map_or(0, |own| own.quantile)));
            }
            (own, _) => own.map_or(0, |own| with_margin(own.quantile)),
        };
        known.max(prior)
    }

    /// A job of this kind used at most so much.
    pub fn observe(&mut self, kind: &Kind, used: u64) {
        self.turn += 1;
        let turn = self.turn;
        for kind in [kind.clone(), kind.of_all()] {
            let fresh = Seen { quantile: used, count: 0, used: turn };
            let seen = self.kinds.entry(kind).or_insert(fresh);
            seen.quantile = if used >= seen.quantile {
                used
            } else {
                seen.quantile - (seen.quantile - used) / SLOW
            };
            seen.count = seen.count.saturating_add(1);
            seen.used = turn;
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        // In batches, so that the search for the oldest is rare.
        if self.kinds.len() <= KINDS {
            return;
        }
        let mut turns: Vec<u64> = self.kinds.values().map(|seen| seen.used).collect();
        let eighth = KINDS / 8;
        let (_, limit, _) = turns.select_nth_unstable(eighth);
        let limit = *limit;
        self.kinds.retain(|_, seen| seen.used > limit);
    }

    /// The same of all tenants together only: no tenant's name is in it.
    #[must_use]
    pub fn dump_shared(&self, bytes: usize) -> String {
        let of_all = self.kinds.iter().filter(|(kind, _)| kind.tenant.is_empty());
        let kinds = of_all.map(|(kind, seen)| (kind.clone(), *seen)).collect();
        Self { kinds, turn: self.turn }.dump(bytes)
    }

    /// What is known, one kind a line, most recently used first, at most `bytes` of text.
    #[must_use]
    pub fn dump(&self, bytes: usize) -> String {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.used));
        let mut text = format!("{HEADER}\n");
        for (kind, seen) in kinds {
            let before = text.len();
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                text,
                "{} {} {} {} {} {}",
                kind.size,
                kind.images,
                u8::from(kind.scripts),
                seen.count.min(999),
                seen.quantile >> 10,
                kind.tenant,
            );
            if text.len() > bytes {
                text.truncate(before);
                break;
            }
        }
        text
    }

    /// Takes in what another worker wrote down: of two numbers for one kind the larger.
    pub fn absorb(&mut self, text: &str) {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return;
        }
        // The last line is the oldest.
        for (kind, read) in lines.rev().filter_map(parse) {
            self.turn += 1;
            let seen = self.kinds.entry(kind).or_insert(read);
            seen.quantile = seen.quantile.max(read.quantile);
            seen.count = seen.count.max(read.count);
            seen.used = self.turn;
        }
        self.forget_oldest();
    }
}

/// What is expected of a kind whose high quantile is so many bytes.
pub(super) fn with_margin(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 100 * MARGIN)
}

fn parse(line: &str) -> Option<(Kind, Seen)> {
    let mut words = line.splitn(6, ' ');
    let size = words.next()?.parse().ok()?;
    let images = words.next()?.parse().ok()?;
    let scripts = words.next()? == "1";
    let count = words.next()?.parse().ok()?;
    let quantile = words.next()?.parse::<u64>().ok()?.checked_mul(1024)?;
    let tenant = words.next()?;
    // Of all tenants, or one; what is no name would not read back.
    if !tenant.is_empty() && !crate::job::is_token(tenant, 64) {
        return None;
    }
    let kind = Kind { tenant: tenant.into(), size, images, scripts };
    Some((kind, Seen { quantile, count, used: 0 }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn receipt() -> Features {
        Features { markup: 3_400, ..Features::default() }
    }

    #[test]
    fn the_looks_count_until_enough_was_seen() {
        let mut predictor = Predictor::new();
        let features = Features { markup: 100 << 10, ..Features::default() };
        let kind = Kind::new("cornershop", &features);
        let prior = features.prior();
        for _ in 0..ENOUGH {
            assert_eq!(predictor.predict(&kind, &features), prior);
            predictor.observe(&kind, 50 * MIB);
        }
        let learned = predictor.predict(&kind, &features);
        assert_eq!(learned, with_margin(50 * MIB));
    }

    #[test]
    fn up_at_once_and_down_slowly() {
        let mut predictor = Predictor::new();
        let kind = Kind::new("a", &receipt());
        for _ in 0..20 {
            predictor.observe(&kind, 50 * MIB);
        }
        predictor.observe(&kind, 150 * MIB);
        assert_eq!(predictor.predict(&kind, &receipt()), with_margin(150 * MIB));
        for _ in 0..50 {
            predictor.observe(&kind, 50 * MIB);
        }
        let later = predictor.predict(&kind, &receipt()) / MIB;
        assert!((130..150).contains(&later), "one heavy in fifty is still expected: {later}");
        for _ in 0..2000 {
            predictor.observe(&kind, 50 * MIB);
        }
        assert!(predictor.predict(&kind, &receipt()) < 57 * MIB);
    }

    #[test]
    fn a_new_tenant_profits_from_the_others_and_an_unlike_document_does_not() {
        let mut predictor = Predictor::new();
        for _ in 0..20 {
            predictor.observe(&Kind::new("a", &receipt()), 40 * MIB);
        }
        let new = Kind::new("b", &receipt());
        assert_eq!(predictor.predict(&new, &receipt()), with_margin(40 * MIB));
        let images = Features { images: 30 * MIB, ..receipt() };
        assert_eq!(predictor.predict(&Kind::new("b", &images), &images), images.prior());
        let scripts = Features { scripts: true, ..receipt() };
        assert_eq!(predictor.predict(&Kind::new("a", &scripts), &scripts), scripts.prior());
    }

    #[test]
    fn one_tenants_bomb_is_not_expected_of_all() {
        let mut predictor = Predictor::new();
        for _ in 0..20 {
            predictor.observe(&Kind::new("bomber", &receipt()), 900 * MIB);
        }
        let new = Kind::new("new", &receipt());
        assert!(predictor.predict(&new, &receipt()) <= with_margin(3 * receipt().prior()));
        assert_eq!(
            predictor.predict(&Kind::new("bomber", &receipt()), &receipt()),
            with_margin(900 * MIB)
        );
        // A tenant's own are believed from the first on.
        predictor.observe(&new, 700 * MIB);
        assert_eq!(predictor.predict(&new, &receipt()), with_margin(700 * MIB));
    }

    #[test]
    fn kinds_are_bounded_and_the_oldest_go() {
        let mut predictor = Predictor::new();
        for tenant in 0..5_000 {
            predictor.observe(&Kind::new(&format!("t{tenant}"), &receipt()), 45 * MIB);
            assert!(predictor.len() <= KINDS);
        }
        assert!(predictor.kinds.contains_key(&Kind::new("t4999", &receipt())));
        assert!(!predictor.kinds.contains_key(&Kind::new("t0", &receipt())));
        assert!(predictor.kinds.contains_key(&Kind::new("", &receipt())));
    }

    #[test]
    fn what_is_written_down_informs_another_worker() {
        let mut predictor = Predictor::new();
        let heavy = Features { markup: 640 << 10, images: 9 * MIB, scripts: true };
        for _ in 0..10 {
            predictor.observe(&Kind::new("shop:1", &receipt()), 45 * MIB);
            predictor.observe(&Kind::new("shop:1", &heavy), 700 * MIB);
        }
        let text = predictor.dump(64 << 10);
        let mut other = Predictor::new();
        other.absorb(&text);
        for features in [receipt(), heavy] {
            let kind = Kind::new("shop:1", &features);
            assert_eq!(other.predict(&kind, &features), predictor.predict(&kind, &features));
        }
        assert_eq!(other.dump(64 << 10), text);
        other.absorb("tillroll-footprints 1\nnonsense\n1 2\n300 0 0 1 1 x\n");
        other.absorb("tillroll-footprints 1\n14 0 0 9 9 no tenant\n14 0 0 9 9 a\u{1}\r\r\n");
        other.absorb("something else\n14 0 0 9 9999999 shop:1\n");
        assert_eq!(other.dump(64 << 10), text);
    }

    #[test]
    fn what_is_shared_names_no_tenant_and_still_informs() {
        let mut predictor = Predictor::new();
        for _ in 0..20 {
            predictor.observe(&Kind::new("shop", &receipt()), 45 * MIB);
        }
        let text = predictor.dump_shared(32 << 10);
        assert!(!text.contains("shop"), "{text}");
        let mut other = Predictor::new();
        other.absorb(&text);
        let new = Kind::new("cafe", &receipt());
        assert_eq!(other.predict(&new, &receipt()), with_margin(45 * MIB));
    }

    #[test]
    fn a_dump_keeps_within_its_bytes_and_keeps_the_most_recent() {
        let mut predictor = Predictor::new();
        for tenant in 0..500 {
            predictor.observe(&Kind::new(&format!("t{tenant}"), &receipt()), 45 * MIB);
        }
        let text = predictor.dump(400);
        assert!(text.len() <= 400 && text.contains(" t499\n") && !text.contains(" t1\n"));
    }

    proptest! {
        #[test]
        fn a_prediction_covers_nine_of_ten_of_a_steady_kind(
            peaks in prop::collection::vec(30u64..90, 200..400),
        ) {
            let mut predictor = Predictor::new();
            let kind = Kind::new("a", &receipt());
            let mut missed = 0;
            for (turn, peak) in peaks.iter().enumerate() {
                if turn >= 50 && peak * MIB > predictor.predict(&kind, &receipt()) {
                    missed += 1;
                }
                predictor.observe(&kind, peak * MIB);
            }
            prop_assert!(missed * 10 <= peaks.len(), "{missed} of {} were larger", peaks.len());
        }
    }
}
