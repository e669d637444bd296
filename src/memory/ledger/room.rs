//! What there is room for, before anybody asks.

use super::super::terms::Fit;
use super::{ContextId, Idle, Ledger, signed};

impl Ledger {
    /// The largest job that would be let in. Where nothing runs, any is.
    #[must_use]
    pub fn fits(&self) -> Fit {
        if self.behind(self.sampled).is_some()
            || self.elsewhere.first
            || self.entries.iter().any(|e| e.alone && e.debit() > 0)
        {
            return Fit { now: 0, without_idle: 0 };
        }
        if self.entries.is_empty() && self.room() > signed(self.lines.hard) {
            return Fit { now: u64::MAX, without_idle: u64::MAX };
        }
        let room = self.headroom();
        let fits = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        Fit { now: fits(room), without_idle: fits(room + signed(self.idle_bytes())) }
    }

    /// A context was made ready ahead of any job: the first to be closed.
    pub fn spare(&mut self, context: ContextId, used: u64) {
        self.closed(context);
        self.idle.insert(0, Idle { context, used, trimmed: false });
    }

    /// Whether so many bytes could be given to what no job has asked for.
    #[must_use]
    pub fn can_spare(&self, bytes: u64) -> bool {
        let others_first = self.elsewhere.first || self.behind(self.sampled).is_some();
        !others_first && self.headroom() >= signed(bytes)
    }
}
