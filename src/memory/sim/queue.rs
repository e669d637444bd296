//! Jobs that wait, as a claim sees them.

use std::collections::VecDeque;

use super::Job;

/// A claim looks at so many jobs for one that fits.
const LOOKS_AT: usize = 8;

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) job: usize,
    pub(super) predicted: u64,
    pub(super) alone: bool,
    /// When it was first refused.
    pub(super) since: Option<u64>,
}

pub(super) struct Queue {
    predicted: Vec<u64>,
    waiting: VecDeque<Waiting>,
}

impl Queue {
    pub(super) fn new(jobs: &[Job]) -> Self {
        let waiting = |(job, work): (usize, &Job)| Waiting {
            job,
            predicted: work.predicted,
            alone: false,
            since: None,
        };
        Self {
            predicted: jobs.iter().map(|job| job.predicted).collect(),
            waiting: jobs.iter().enumerate().map(waiting).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn peek(&self, at: usize) -> Option<Waiting> {
        self.waiting.get(at).copied().filter(|_| at < LOOKS_AT)
    }

    /// Notes that the job asked now, for the first time or again.
    pub(super) fn asked(&mut self, at: usize, now: u64) {
        if let Some(waiting) = self.waiting.get_mut(at) {
            waiting.since.get_or_insert(now);
        }
    }

    /// A job that is next is kept in hand.
    pub(super) fn move_to_front(&mut self, at: usize) {
        if let Some(waiting) = self.waiting.remove(at) {
            self.waiting.push_front(waiting);
        }
    }

    pub(super) fn take(&mut self, at: usize) {
        self.waiting.remove(at);
    }

    pub(super) fn settled(&mut self, job: usize) {
        self.waiting.retain(|waiting| waiting.job != job);
    }

    /// A killed job comes back, to the front: with a new prediction it runs alone.
    pub(super) fn again(&mut self, job: usize, alone: Option<u64>) {
        self.waiting.push_front(Waiting {
            job,
            predicted: alone.unwrap_or(self.predicted[job]),
            alone: alone.is_some(),
            since: None,
        });
    }
}
