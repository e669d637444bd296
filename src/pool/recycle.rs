//! When a context has served long enough, and how long to wait before a
//! browser is launched again. Pure.

use std::time::Duration;

/// How long a context may serve. What broke is destroyed in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecyclePolicy {
    /// After this many jobs.
    pub max_jobs: u64,
    /// After this long.
    pub max_age: Duration,
    /// When its renderer holds more bytes than this after a job.
    pub max_bytes: u64,
}

impl Default for RecyclePolicy {
    /// For ever.
    fn default() -> Self {
        Self { max_jobs: u64::MAX, max_age: Duration::MAX, max_bytes: u64::MAX }
    }
}

/// Why a context has served long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// So many jobs.
    Jobs,
    /// So old.
    Age,
    /// So much memory.
    Memory,
}

impl RecyclePolicy {
    /// Whether a context that has served `jobs` jobs in `age`, and whose renderer
    /// holds `bytes` (`None`: not known), is due, and why.
    #[must_use]
    pub fn due(&self, jobs: u64, age: Duration, bytes: Option<u64>) -> Option<Due> {
        if jobs >= self.max_jobs {
            Some(Due::Jobs)
        } else if age >= self.max_age {
            Some(Due::Age)
        } else if bytes.is_some_and(|bytes| bytes > self.max_bytes) {
            Some(Due::Memory)
        } else {
            None
        }
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
    fn a_context_is_due_after_its_jobs_its_time_or_when_it_is_fat() {
        let policy =
            RecyclePolicy { max_jobs: 10, max_age: Duration::from_secs(60), max_bytes: 100 };
        assert_eq!(policy.due(9, Duration::from_secs(59), Some(100)), None);
        assert_eq!(policy.due(9, Duration::from_secs(59), None), None);
        assert_eq!(policy.due(10, Duration::ZERO, None), Some(Due::Jobs));
        assert_eq!(policy.due(0, Duration::from_secs(60), None), Some(Due::Age));
        assert_eq!(policy.due(0, Duration::ZERO, Some(101)), Some(Due::Memory));
        assert_eq!(RecyclePolicy::default().due(1 << 40, Duration::MAX / 2, Some(1 << 40)), None);
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
