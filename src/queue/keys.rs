//! Every Redis key, a function each. All share one hash tag and so live in one
//! cluster slot.

use crate::job::{Name, Priority};

/// The keys of one queue: the prefix `tillroll:{<queue>}:`, written `P:` in the docs.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of the queue called `queue`.
    #[must_use]
    pub fn new(queue: &str) -> Self {
        Self { prefix: format!("tillroll:{{{queue}}}:") }
    }

    /// `P:`, which the scripts get.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn at(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    fn of(&self, kind: &str, name: impl std::fmt::Display) -> String {
        format!("{}{kind}:{name}", self.prefix)
    }

    /// Where producers push (list).
    #[must_use]
    pub fn inbox(&self, priority: Priority) -> String {
        match priority {
            Priority::Interactive => self.at("in"),
            Priority::Bulk => self.at("in:bulk"),
        }
    }

    /// The one element of an inbox that is in a worker's hands (list).
    #[must_use]
    pub fn stage(&self, priority: Priority, worker: &str) -> String {
        match priority {
            Priority::Interactive => self.of("stage", worker),
            Priority::Bulk => self.of("stage:bulk", worker),
        }
    }

    /// A job's record (hash).
    #[must_use]
    pub fn job(&self, name: &Name) -> String {
        self.of("job", name)
    }

    /// A job's element as it was pushed, moved here by RENAME (list of one).
    #[must_use]
    pub fn document(&self, name: &Name) -> String {
        self.of("doc", name)
    }

    /// A job's reply (list of one).
    #[must_use]
    pub fn reply(&self, name: &Name) -> String {
        self.of("reply", name)
    }

    /// A stored PDF (string).
    #[must_use]
    pub fn pdf(&self, name: &Name) -> String {
        self.of("pdf", name)
    }

    /// The reply line of a stored PDF, for those who ask again (string).
    #[must_use]
    pub fn result(&self, name: &Name) -> String {
        self.of("result", name)
    }

    /// A result on its way into `finish` (list or string).
    #[must_use]
    pub fn out(&self, token: &str) -> String {
        self.of("out", token)
    }

    /// Replies of elements whose job could not be read (list, capped).
    #[must_use]
    pub fn malformed(&self) -> String {
        self.at("malformed")
    }

    /// Tenants with ready jobs, by virtual time (sorted set).
    #[must_use]
    pub fn ring(&self, priority: Priority) -> String {
        self.of("ring", priority.as_str())
    }

    /// Names under lease, by expiry (sorted set).
    #[must_use]
    pub fn leased(&self) -> String {
        self.at("leased")
    }

    /// Names that wait for their time (sorted set).
    #[must_use]
    pub fn delayed(&self) -> String {
        self.at("delayed")
    }

    /// Dead letters, by the time at which their records run out (sorted set).
    #[must_use]
    pub fn dead(&self) -> String {
        self.at("dead")
    }

    /// One token at most: there is work of this priority (list).
    #[must_use]
    pub fn bell(&self, priority: Priority) -> String {
        match priority {
            Priority::Interactive => self.at("bell"),
            Priority::Bulk => self.at("bell:bulk"),
        }
    }

    /// What became of a job's attempts (list of JSON lines).
    #[must_use]
    pub fn history(&self, name: &Name) -> String {
        self.of("history", name)
    }

    /// Jobs with a deadline that have not started, by it (sorted set).
    #[must_use]
    pub fn deadlines(&self) -> String {
        self.at("deadlines")
    }

    /// Results that wait for their producers: key → bytes (hash).
    #[must_use]
    pub fn held(&self) -> String {
        self.at("held")
    }

    /// What operators set for the whole queue (hash).
    #[must_use]
    pub fn config(&self) -> String {
        self.at("config")
    }

    /// What operators set for a tenant (hash).
    #[must_use]
    pub fn tenant(&self, tenant: &str) -> String {
        self.of("tenant", tenant)
    }

    /// A tenant's assets: name → type, bytes, digest, time (hash). Their version is the
    /// field `assets` of [`Self::tenant`].
    #[must_use]
    pub fn assets(&self, tenant: &str) -> String {
        self.of("assets", tenant)
    }

    /// What is in them: name → content (hash).
    #[must_use]
    pub fn asset(&self, tenant: &str) -> String {
        self.of("asset", tenant)
    }

    /// A tenant's counters (hash).
    #[must_use]
    pub fn used_by(&self, tenant: &str) -> String {
        self.of("use", tenant)
    }

    /// Tenants by the time of their last admission (sorted set).
    #[must_use]
    pub fn tenants(&self) -> String {
        self.at("tenants")
    }

    /// Tenants whose last attempts all failed (set).
    #[must_use]
    pub fn broken(&self) -> String {
        self.at("broken")
    }

    /// A tenant's ready jobs (list).
    #[must_use]
    pub fn ready(&self, priority: Priority, tenant: &str) -> String {
        self.at(&format!("ready:{}:{tenant}", priority.as_str()))
    }

    /// Commands to one worker (list).
    #[must_use]
    pub fn control(&self, worker: &str) -> String {
        self.of("ctl", worker)
    }

    /// Workers by their last heartbeat (sorted set).
    #[must_use]
    pub fn workers(&self) -> String {
        self.at("workers")
    }

    /// What a worker says of itself (string, JSON).
    #[must_use]
    pub fn worker(&self, worker: &str) -> String {
        self.of("worker", worker)
    }

    /// The leases of one worker: token → name (hash).
    #[must_use]
    pub fn claims(&self, worker: &str) -> String {
        self.of("claims", worker)
    }

    /// Counters and virtual times (hash).
    #[must_use]
    pub fn state(&self) -> String {
        self.at("state")
    }

    /// What documents were seen to take, by size, of no tenant in particular (text).
    #[must_use]
    pub fn predictions(&self) -> String {
        self.at("predictions")
    }

    /// Which documents, by digest, were measured to need more than there was, newest
    /// first (list, capped).
    #[must_use]
    pub fn verdicts(&self) -> String {
        self.at("verdicts")
    }

    /// What happened: names and codes only (stream, bounded).
    #[must_use]
    pub fn events(&self) -> String {
        self.at("events")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_contract() {
        let keys = Keys::new("receipts");
        let name = Name::parse("acme/r-1").unwrap();
        assert_eq!(keys.inbox(Priority::Interactive), "tillroll:{receipts}:in");
        assert_eq!(keys.inbox(Priority::Bulk), "tillroll:{receipts}:in:bulk");
        assert_eq!(keys.stage(Priority::Bulk, "w1"), "tillroll:{receipts}:stage:bulk:w1");
        assert_eq!(keys.reply(&name), "tillroll:{receipts}:reply:acme/r-1");
        assert_eq!(keys.pdf(&name), "tillroll:{receipts}:pdf:acme/r-1");
    }
}
