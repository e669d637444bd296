//! When a context has served long enough, and how long to wait before a
//! browser is launched again. Pure.

use std::time::Duration;

/// How long a context may serve. What broke is destroyed in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecyclePolicy {
    /// After this many jobs. Warm pages were seen not to grow over 4,000
    /// receipts; this bounds what was not seen.
    pub max_jobs: u32,
    /// After this long.
    pub max_age: Duration,
}

impl Default for RecyclePolicy {
    fn default() -> Self {
        Self { max_jobs: 5_000, max_age: Duration::from_secs(6 * 3600) }
    }
}

impl RecyclePolicy {
    /// Whether a context that has served `jobs` jobs in `age` is due.
    #[must_use]
    pub fn is_due(&self, jobs: u32, age: Duration) -> bool {
        jobs >= self.max_jobs || age >= self.max_age
    }
}

/// A browser that lives this long has not failed to start.
pub(super) const SETTLED: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The pause before the next launch after `streak` launches in a row that
/// failed, or whose browser died before it had [`SETTLED`]. One accident is
/// answered at once: jobs are waiting.
pub(super) fn launch_pause(streak: u32) -> Duration {
    match streak {
        0 | 1 => Duration::ZERO,
        _ => FIRST_PAUSE.saturating_mul(1 << (streak - 2).min(16)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_due_after_its_jobs_or_its_time() {
        let policy = RecyclePolicy { max_jobs: 10, max_age: Duration::from_secs(60) };
        assert!(!policy.is_due(9, Duration::from_secs(59)));
        assert!(policy.is_due(10, Duration::ZERO));
        assert!(policy.is_due(0, Duration::from_secs(60)));
    }

    #[test]
    fn launches_are_paced_but_never_given_up() {
        assert_eq!(launch_pause(1), Duration::ZERO);
        assert_eq!(launch_pause(2), FIRST_PAUSE);
        assert_eq!(launch_pause(3), FIRST_PAUSE * 2);
        assert_eq!(launch_pause(u32::MAX), LONGEST_PAUSE);
        assert!((0..100).all(|n| launch_pause(n) <= launch_pause(n + 1)));
    }
}
