//! Which documents were measured to be too big. Pure.
//!
//! A document is refused unrendered only where a renderer was seen to use more
//! for it than could be given now, all else closed. A prediction is never enough
//! for that, and a verdict from a time when a neighbour had most of the memory
//! does not hold once it is back: what is kept is what the document was seen to
//! reach, not the decision.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// Verdicts kept; the oldest go.
pub const VERDICTS: usize = 1024;

/// SHA-256 of a document and all that decides how it looks.
pub type Digest = [u8; 32];

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    /// Oldest first.
    reached: VecDeque<(Digest, u64)>,
}

impl Verdicts {
    /// Notes that a document was killed, alone, at so many bytes.
    pub fn note(&mut self, digest: Digest, reached: u64) {
        let before = self.reached(&digest).unwrap_or(0);
        self.reached.retain(|(known, _)| *known != digest);
        if self.reached.len() >= VERDICTS {
            self.reached.pop_front();
        }
        self.reached.push_back((digest, before.max(reached)));
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reached.is_empty()
    }

    /// It was rendered after all. Whether there was a verdict.
    pub fn acquit(&mut self, digest: &Digest) -> bool {
        let before = self.reached.len();
        self.reached.retain(|(known, _)| known != digest);
        self.reached.len() < before
    }

    /// What the document was seen to reach, if that is more than `budget` bytes.
    #[must_use]
    pub fn too_big(&self, digest: &Digest, budget: u64) -> Option<u64> {
        self.reached(digest).filter(|reached| *reached > budget)
    }

    fn reached(&self, digest: &Digest) -> Option<u64> {
        self.reached.iter().find(|(known, _)| known == digest).map(|(_, reached)| *reached)
    }

    /// Takes in what [`line()`] made, oldest first; what is not understood is passed over.
    pub fn absorb(&mut self, lines: &[String]) {
        for (digest, reached) in lines.iter().filter_map(|line| parse(line)) {
            match reached {
                0 => {
                    self.acquit(&digest);
                }
                _ => self.note(digest, reached),
            }
        }
    }
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
        verdicts.absorb(&lines);
        assert_eq!(verdicts.reached.len(), VERDICTS - 1);
        assert_eq!(verdicts.too_big(&digest(1_998), 0), Some(MIB + 1_998));
        assert_eq!(verdicts.too_big(&digest(1_999), 0), None);
        assert_eq!(verdicts.too_big(&digest(0), 0), None, "the oldest go");
    }
}
