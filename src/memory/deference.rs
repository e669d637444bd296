//! Whether browsers step aside for everybody at once. Pure: the clock is a
//! parameter.
//!
//! A low CPU weight decides who gets how much, not who comes first: a neighbour that
//! wakes waits until the running task's slice is over, 3 ms on two cores. A group that
//! is *idle* to the scheduler is put aside at once. But where a neighbour leaves no
//! core free, it gets next to nothing. So browsers are idle only while that costs them
//! nothing:
//!
//! ```text
//!            [`RUN`] renders in a row took less than [`LONG`]
//!   weighed ──────────────────────────────────────────────────▶ idle
//!      ▲                                                          │
//!      └─── one has rendered for [`LONG`], or none ended for a while
//!           ([`REST`]): weighed for at least [`PAUSE`]
//! ```
//!
//! A browser that starts, and one large document alone, have their weight. A
//! neighbour that takes all cores costs the renders of that moment [`LONG`], once.

use std::time::Duration;

/// Short renders in a row.
const RUN: u32 = 20;
/// A receipt takes 15 ms, on a busy machine 60.
const LONG: Duration = Duration::from_millis(250);
/// Nothing is rendered any more.
const REST: Duration = Duration::from_millis(500);
/// So long at least after it was too much.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deference {
    run: u32,
    last: Duration,
    not_before: Duration,
    idle: bool,
}

impl Deference {
    /// A render has ended, after so long.
    pub fn ended(&mut self, took: Duration, now: Duration) {
        self.last = now;
        self.run = if took < LONG { self.run.saturating_add(1) } else { 0 };
        self.idle |= self.run >= RUN && now >= self.not_before;
    }

    /// Whether browsers are to be idle, where the oldest render is so old.
    pub fn look(&mut self, oldest: Option<Duration>, now: Duration) -> bool {
        let long = oldest.is_some_and(|age| age >= LONG);
        if long {
            self.run = 0;
        }
        if self.idle && long {
            (self.idle, self.not_before) = (false, now + PAUSE);
        }
        if now.saturating_sub(self.last) >= REST {
            (self.idle, self.run) = (false, 0);
        }
        self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn short(deference: &mut Deference, count: u32, now: u64) {
        for _ in 0..count {
            deference.ended(at(20), at(now));
        }
    }

    #[test]
    fn it_steps_aside_under_load_and_not_for_a_single_document() {
        let mut deference = Deference::default();
        assert!(!deference.look(None, at(0)));
        short(&mut deference, RUN - 1, 1_000);
        assert!(!deference.look(Some(at(20)), at(1_000)));
        short(&mut deference, 1, 1_010);
        assert!(deference.look(Some(at(20)), at(1_010)));
        assert!(deference.look(None, at(1_400)));
        assert!(!deference.look(None, at(1_510)), "nothing is rendered any more");
        assert!(!deference.look(None, at(1_520)));
        short(&mut deference, RUN, 1_600);
        assert!(deference.look(None, at(1_600)), "it had done no harm");
    }

    #[test]
    fn who_gets_no_core_has_its_weight_back_for_a_while() {
        let mut deference = Deference::default();
        short(&mut deference, RUN, 1_000);
        assert!(deference.look(Some(at(249)), at(1_000)));
        assert!(!deference.look(Some(at(250)), at(1_001)));
        short(&mut deference, 10 * RUN, 11_000);
        assert!(!deference.look(Some(at(10)), at(11_000)), "not at once");
        short(&mut deference, 1, 11_001);
        assert!(deference.look(Some(at(10)), at(11_001)));
    }

    #[test]
    fn long_documents_are_not_put_aside() {
        let mut deference = Deference::default();
        for round in 0..100 {
            short(&mut deference, RUN - 1, round * 100);
            deference.ended(at(300), at(round * 100));
            assert!(!deference.look(Some(at(20)), at(round * 100)));
        }
        short(&mut deference, RUN - 1, 20_000);
        assert!(!deference.look(Some(at(300)), at(20_000)));
        short(&mut deference, 1, 20_001);
        assert!(!deference.look(Some(at(20)), at(20_001)), "the row begins anew");
    }
}
