//! What becomes of a failed attempt. Pure.
//!
//! | class | counted | disposition |
//! |---|---|---|
//! | input | yes | bury |
//! | document | yes | retry with backoff, at most two attempts in all, then bury |
//! | resource, renderer | yes | retry with backoff up to `max_attempts`, then bury |
//! | dependency | no | retry with backoff |
//! | interrupted | no | release: ready again at once |
//! | bug | yes | one retry, then bury |
//!
//! Backoff is exponential with full jitter: between zero and
//! `min(cap, base · 2^(n-1))` for the n-th attempt, so that jobs that failed
//! together do not come back together.

use std::time::Duration;

use crate::failure::Class;

/// What to do with a job whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Ready again at once; the attempt is not counted.
    Release,
    /// Ready again after `delay`.
    Retry {
        /// How long it waits.
        delay: Duration,
        /// Whether the attempt counts.
        counted: bool,
    },
    /// A dead letter.
    Bury,
}

/// The first backoff's upper bound.
pub const BASE: Duration = Duration::from_millis(500);
/// No backoff is longer.
pub const CAP: Duration = Duration::from_secs(60);

/// Decides what becomes of a job after its `attempt`-th counted attempt (the
/// first is 1) failed with `class`; `uncounted` attempts failed before that do not count,
/// but wait longer each time. `jitter` is a random number from 0 to 1.
#[must_use]
pub fn disposition(
    class: Class,
    attempt: u32,
    max_attempts: u32,
    uncounted: u32,
    jitter: f64,
) -> Disposition {
    let limit = match class {
        Class::Input => 1,
        Class::Document | Class::Bug => max_attempts.min(2),
        Class::Resource | Class::Renderer => max_attempts,
        Class::Dependency => u32::MAX,
        Class::Interrupted => return Disposition::Release,
    };
    if attempt >= limit {
        return Disposition::Bury;
    }
    let counted = class != Class::Dependency;
    let failed = if counted { attempt } else { attempt.saturating_add(uncounted) };
    Disposition::Retry { delay: backoff(failed, jitter), counted }
}

/// The wait after the `attempt`-th attempt (from 1).
#[must_use]
pub fn backoff(attempt: u32, jitter: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let bound = BASE.saturating_mul(1 << doublings).min(CAP);
    bound.mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Class; 7] = [
        Class::Input,
        Class::Document,
        Class::Resource,
        Class::Renderer,
        Class::Dependency,
        Class::Interrupted,
        Class::Bug,
    ];

    #[test]
    fn every_class_ends_but_those_that_do_not_count() {
        for class in ALL {
            for max_attempts in 1..=10 {
                let last = disposition(class, max_attempts, max_attempts, 0, 0.5);
                match class {
                    Class::Interrupted => assert_eq!(last, Disposition::Release),
                    Class::Dependency => {
                        assert!(matches!(last, Disposition::Retry { counted: false, .. }));
                    }
                    _ => assert_eq!(last, Disposition::Bury, "{class} {max_attempts}"),
                }
            }
        }
    }

    #[test]
    fn the_first_failure_buries_only_what_can_never_succeed() {
        for class in ALL {
            let buried = disposition(class, 1, 3, 0, 0.5) == Disposition::Bury;
            assert_eq!(buried, class == Class::Input, "{class}");
        }
    }

    #[test]
    fn a_document_that_failed_twice_is_buried_whatever_it_asked_for() {
        assert_eq!(disposition(Class::Document, 2, 100, 0, 0.5), Disposition::Bury);
        assert_eq!(disposition(Class::Bug, 2, 100, 0, 0.5), Disposition::Bury);
        assert_ne!(disposition(Class::Renderer, 2, 100, 0, 0.5), Disposition::Bury);
    }

    #[test]
    fn what_does_not_count_waits_longer_each_time_all_the_same() {
        let delay = |uncounted| match disposition(Class::Dependency, 1, 3, uncounted, 1.0) {
            Disposition::Retry { delay, counted: false } => delay,
            other => panic!("{other:?}"),
        };
        assert_eq!((delay(0), delay(1), delay(3)), (BASE, BASE * 2, BASE * 8));
        assert_eq!(delay(u32::MAX), CAP);
    }

    #[test]
    fn backoff_doubles_up_to_its_cap_and_has_full_jitter() {
        assert_eq!(backoff(1, 0.0), Duration::ZERO);
        let mut bound = BASE;
        for attempt in 1..=40 {
            assert_eq!(backoff(attempt, 1.0), bound.min(CAP), "attempt {attempt}");
            assert_eq!(backoff(attempt, 0.5), bound.min(CAP).mul_f64(0.5));
            bound = bound.saturating_mul(2).min(CAP);
        }
        assert!(backoff(u32::MAX, 7.0) <= CAP);
    }
}
