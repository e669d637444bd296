//! How many jobs of each tenant have a context in hand, or have one opened for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts. Tenants without such a job are not in it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    counts: Mutex<HashMap<Arc<str>, usize>>,
}

/// One job's part in them. Dropping it takes it out.
#[derive(Debug)]
pub(super) struct Holder {
    holders: Arc<Holders>,
    tenant: Arc<str>,
}

impl Holders {
    pub(super) fn enter(self: &Arc<Self>, tenant: &Arc<str>) -> Holder {
        *self.counts().entry(Arc::clone(tenant)).or_default() += 1;
        Holder { holders: Arc::clone(self), tenant: Arc::clone(tenant) }
    }

    /// Whether `enough` jobs hold contexts, and this tenant is among whose they are.
    pub(super) fn are_enough(&self, tenant: &str, enough: usize) -> bool {
        let counts = self.counts();
        counts.contains_key(tenant) && counts.values().sum::<usize>() >= enough
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut counts = self.holders.counts();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_enough_for_those_who_are_among_them() {
        let holders = Arc::new(Holders::default());
        let first = holders.enter(&"a".into());
        let second = holders.enter(&"a".into());
        assert!(!holders.are_enough("a", 3));
        let third = holders.enter(&"b".into());
        assert!(holders.are_enough("a", 3) && holders.are_enough("b", 3));
        assert!(!holders.are_enough("c", 3), "it has no context that could come free");
        drop(first);
        assert!(!holders.are_enough("a", 3));
        drop((second, third));
        assert!(holders.counts().is_empty(), "nobody is remembered");
    }
}
