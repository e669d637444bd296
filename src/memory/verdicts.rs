//! Which documents were measured to be too big. Pure.
//!
//! A document is refused unrendered only where a renderer was seen to use more
//! for it than could be given now, all else closed. A prediction is never enough
//! for that, and a verdict from a time when a neighbour had most of the memory
//! does not hold once it is back: what is kept is what the document was seen to
//! reach, not the decision.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// Verdicts kept; the oldest go.
pub const VERDICTS: usize = 1024;

/// What a document is known by: its length with all that it brings along (8 bytes, big
/// endian), and a hash of it and of all that decides how it looks. So a document needs to
/// be hashed only where one of its length is known.
pub type Digest = [u8; 32];

/// The digest of what has so many bytes and this hash, of which 24 bytes count.
#[must_use]
pub fn digest(length: u64, hash: &[u8; 32]) -> Digest {
    let mut digest = *hash;
    digest[..8].copy_from_slice(&length.to_be_bytes());
    digest
}

fn length(digest: &Digest) -> u64 {
    digest[..8].iter().fold(0, |length, byte| length << 8 | u64::from(*byte))
}

#[derive(Debug, Clone, Copy)]
struct Known {
    reached: u64,
    turn: u64,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    known: HashMap<Digest, Known>,
    /// In the order in which they were noted.
    order: BTreeMap<u64, Digest>,
    /// How many have this length.
    lengths: HashMap<u64, usize>,
    turn: u64,
}

impl Verdicts {
    /// Notes that a document was killed, alone, at so many bytes.
    pub fn note(&mut self, digest: Digest, reached: u64) {
        let before = self.forget(&digest).unwrap_or(0);
        if self.known.len() >= VERDICTS
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            let oldest = *oldest;
            self.forget(&oldest);
        }
        self.turn += 1;
        self.order.insert(self.turn, digest);
        *self.lengths.entry(length(&digest)).or_default() += 1;
        self.known.insert(digest, Known { reached: before.max(reached), turn: self.turn });
    }

    /// What it was seen to reach.
    fn forget(&mut self, digest: &Digest) -> Option<u64> {
        let known = self.known.remove(digest)?;
        self.order.remove(&known.turn);
        if let Some(count) = self.lengths.get_mut(&length(digest)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length(digest));
            }
        }
        Some(known.reached)
    }

    /// Whether there is one on a document of so many bytes.
    #[must_use]
    pub fn has_length(&self, bytes: u64) -> bool {
        self.lengths.contains_key(&bytes)
    }

    /// It was rendered after all. Whether there was a verdict.
    pub fn acquit(&mut self, digest: &Digest) -> bool {
        self.forget(digest).is_some()
    }

    /// What the document was seen to reach, if that is more than `budget` bytes.
    #[must_use]
    pub fn too_big(&self, digest: &Digest, budget: u64) -> Option<u64> {
        self.known.get(digest).map(|known| known.reached).filter(|reached| *reached > budget)
    }

    /// Takes in what [`read`] understood.
    pub fn absorb(&mut self, told: &[(Digest, u64)]) {
        for (digest, reached) in told {
            match reached {
                0 => {
                    self.acquit(digest);
                }
                _ => self.note(*digest, *reached),
            }
        }
    }
}

/// What [`line()`] made, oldest first; what is not understood is passed over.
#[must_use]
pub fn read(lines: &[String]) -> Vec<(Digest, u64)> {
    lines.iter().filter_map(|line| parse(line)).collect()
}

/// A verdict for other workers; 0 bytes where it no longer holds.
#[must_use]
pub fn line(digest: &Digest, reached: u64) -> String {
    let mut text = String::with_capacity(84);
    for byte in digest {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
    }
    let _infallible = write!(text, " {reached}");
    text
}

fn parse(line: &str) -> Option<(Digest, u64)> {
    let (hex, reached) = line.split_once(' ')?;
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some((digest, reached.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_verdict_holds_only_while_the_budget_is_smaller_than_what_was_reached() {
        let mut verdicts = Verdicts::default();
        verdicts.note([7; 32], 600 * MIB);
        assert_eq!(verdicts.too_big(&[7; 32], 500 * MIB), Some(600 * MIB));
        assert_eq!(verdicts.too_big(&[7; 32], 700 * MIB), None);
        assert_eq!(verdicts.too_big(&[8; 32], 1), None);
        verdicts.note([7; 32], 500 * MIB);
        assert_eq!(verdicts.too_big(&[7; 32], 550 * MIB), Some(600 * MIB));
        verdicts.acquit(&[7; 32]);
        assert_eq!(verdicts.too_big(&[7; 32], 1), None);
    }

    #[test]
    fn they_are_bounded_and_can_be_handed_on() {
        let digest = |number: u32| {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_le_bytes());
            digest
        };
        let mut verdicts = Verdicts::default();
        let mut lines: Vec<String> =
            (0..2_000).map(|number| line(&digest(number), MIB + u64::from(number))).collect();
        lines.push("zz 1".to_owned());
        lines.push("else".to_owned());
        lines.push(line(&digest(1_999), 0));
        verdicts.absorb(&read(&lines));
        assert_eq!((verdicts.known.len(), verdicts.order.len()), (VERDICTS - 1, VERDICTS - 1));
        assert_eq!(verdicts.too_big(&digest(1_998), 0), Some(MIB + 1_998));
        assert_eq!(verdicts.too_big(&digest(1_999), 0), None);
        assert_eq!(verdicts.too_big(&digest(0), 0), None, "the oldest go");
    }
    #[test]
    fn only_documents_of_a_known_length_have_to_be_told_apart() {
        let mut verdicts = Verdicts::default();
        let hash = |byte| [byte; 32];
        let (one, twin, other) =
            (digest(700, &hash(1)), digest(700, &hash(2)), digest(u64::MAX, &hash(1)));
        assert!(one != twin && one != other);
        verdicts.note(one, MIB);
        verdicts.note(twin, MIB);
        verdicts.note(twin, 2 * MIB);
        verdicts.note(other, MIB);
        assert!(verdicts.has_length(700) && verdicts.has_length(u64::MAX));
        assert!(!verdicts.has_length(701) && !verdicts.has_length(0));
        assert!(verdicts.acquit(&one) && !verdicts.acquit(&one));
        assert!(verdicts.has_length(700), "its twin is known still");
        verdicts.acquit(&twin);
        assert!(!verdicts.has_length(700));
        for number in 0..VERDICTS as u64 {
            verdicts.note(digest(number, &hash(3)), MIB);
        }
        assert!(!verdicts.has_length(u64::MAX), "the oldest go");
        assert_eq!(verdicts.lengths.len(), VERDICTS);
    }
}
