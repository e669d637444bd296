//! One debit of the ledger, and the arithmetic of bytes and speeds. Pure.

use std::time::Duration;

use super::terms::{Blame, ContextId, JobId, Kill};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Ended; its renderer lives on or is being closed.
    Returning {
        since: Duration,
        warm: Option<ContextId>,
        killed: bool,
    },
    /// Its renderer ended at this time; the next sample shows the memory.
    Gone(Duration),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) job: JobId,
    /// What it was predicted with first.
    pub(super) predicted: u64,
    /// What it may use by now: the prediction and what was granted since.
    pub(super) granted: u64,
    /// What its renderer was last seen to use.
    pub(super) used: u64,
    /// The most it was seen to use.
    pub(super) peak: u64,
    /// Bytes a second that it grew by between the last two samples.
    pub(super) speed: u64,
    /// What the worker itself will hold for it; see [`super::terms::Request`].
    pub(super) aside: u64,
    /// Whether a sample has shown it: before that, what it uses is old or unknown.
    pub(super) seen: bool,
    pub(super) alone: bool,
    /// What there was for it when it was let in.
    pub(super) budget: u64,
    pub(super) phase: Phase,
}

impl Entry {
    pub(super) fn debit(&self) -> u64 {
        match self.phase {
            Phase::Gone(_) => 0,
            Phase::Running | Phase::Returning { .. } => self.rest().saturating_add(self.aside),
        }
    }

    /// What its renderer may still take.
    pub(super) fn rest(&self) -> u64 {
        self.granted.saturating_sub(self.used)
    }

    pub(super) fn kill(&mut self, blame: Blame, budget: u64, now: Duration) -> Kill {
        self.phase = Phase::Returning { since: now, warm: None, killed: true };
        Kill {
            job: self.job,
            blame,
            alone: self.alone,
            used: self.used,
            predicted: self.predicted,
            budget,
            usual: budget,
            kept: self.aside,
            speed: self.speed,
        }
    }

    pub(super) fn left_warm(&self, context: ContextId) -> bool {
        matches!(self.phase, Phase::Returning { warm, .. } if warm == Some(context))
    }

    /// What it uses beyond its prediction.
    pub(super) fn excess(&self) -> u64 {
        self.used.saturating_sub(self.predicted)
    }

    pub(super) fn is_coming_back(&self) -> bool {
        matches!(self.phase, Phase::Returning { warm: None, .. } | Phase::Gone(_))
    }
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Bytes a second; 0 where no time has passed.
pub(super) fn per_second(bytes: u64, over: Duration) -> u64 {
    let micros = over.as_micros();
    if micros == 0 {
        return 0;
    }
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// What that speed makes in that time.
pub(super) fn bytes_in(speed: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(speed) * time.as_micros() / 1_000_000).unwrap_or(u64::MAX)
}
