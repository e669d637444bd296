//! How many jobs have a context in hand, or have one opened for them, and of which
//! tenants there is one that comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holders {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Those whose context is kept for the tenant's next job. Who has none is not in it.
    kept: HashMap<Arc<str>, usize>,
}

/// One job's part in the counts. Dropping it takes it out.
#[derive(Debug)]
pub(super) struct Holder {
    holders: Arc<Holders>,
    /// Of whom, where the context is kept.
    kept: Option<Arc<str>>,
}

impl Holders {
    /// Counts one more; `kept` says whether its context is kept for the tenant's next job.
    pub(super) fn enter(self: &Arc<Self>, tenant: &Arc<str>, kept: bool) -> Holder {
        let kept = kept.then(|| Arc::clone(tenant));
        let mut counts = self.counts();
        counts.all += 1;
        if let Some(tenant) = &kept {
            *counts.kept.entry(Arc::clone(tenant)).or_default() += 1;
        }
        drop(counts);
        Holder { holders: Arc::clone(self), kept }
    }

    /// Whether `enough` jobs hold contexts, and one of these comes back to the tenant.
    pub(super) fn may_wait(&self, tenant: &str, enough: usize) -> bool {
        let counts = self.counts();
        counts.all >= enough && counts.kept.contains_key(tenant)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut counts = self.holders.counts();
        counts.all -= 1;
        if let Some(tenant) = &self.kept
            && let Some(count) = counts.kept.get_mut(tenant)
        {
            *count -= 1;
            if *count == 0 {
                counts.kept.remove(tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_context_that_comes_back_may_wait_for_it() {
        let holders = Arc::new(Holders::default());
        let enter = |tenant: &str, kept| holders.enter(&tenant.into(), kept);
        let (first, second) = (enter("a", true), enter("a", true));
        assert!(!holders.may_wait("a", 3), "a core is idle");
        let third = enter("b", false);
        assert!(holders.may_wait("a", 3));
        assert!(!holders.may_wait("b", 3), "what it holds does not come back");
        assert!(!holders.may_wait("c", 3), "it holds nothing");
        drop(first);
        assert!(holders.may_wait("a", 2) && !holders.may_wait("a", 3));
        drop((second, third));
        let counts = holders.counts();
        assert!(counts.all == 0 && counts.kept.is_empty(), "nobody is remembered");
    }
}
