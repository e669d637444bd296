//! Which contexts are alive, and which must go. Pure.
//!
//! ```text
//!            checkout                    give_back
//! (none) ─▶ opening ─▶ busy ◀──────────────────────▶ idle
//!                       │                              │ evicted, recycled, over the bound
//!                       └──────────▶ closing ◀─────────┘
//!                                       │ released
//!                                     (none)
//! ```
//!
//! Every context holds one place from before it is opened until it is really
//! gone, and there are never more places than the bound. A bound that is
//! lowered takes idle contexts first, least recently used first; busy ones go
//! when they are given back.

use std::sync::Arc;

/// Whose a context is that was made ready ahead: no tenant has this name.
pub const NOBODY: &str = "";

/// Idle contexts by last use, and the count of all.
#[derive(Debug)]
pub struct Contexts<T> {
    /// Least recently used first. Tens, not thousands: looked through.
    idle: Vec<(Arc<str>, T)>,
    /// Idle, busy, being opened and being closed.
    alive: usize,
    max: usize,
}

/// What a tenant that wants a context gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout<T> {
    /// Its own context, warm.
    Warm(T),
    /// A place to open a context in. Where one is evicted for it, it must be
    /// gone before the new one is opened.
    Open {
        /// The least recently used context of all.
        evicted: Option<T>,
    },
    /// All places are taken by busy contexts: ask again when one is given back
    /// or released.
    Wait,
}

impl<T> Contexts<T> {
    /// None yet, at most `max`, which is at least one.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { idle: Vec::new(), alive: 0, max: max.max(1) }
    }

    /// Idle, busy, being opened and being closed.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// Waiting for their tenant's next job.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// The bound.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// A tenant's idle context, the one that was used last.
    pub fn warm(&mut self, tenant: &str) -> Option<T> {
        let at = self.idle.iter().rposition(|(owner, _)| &**owner == tenant)?;
        Some(self.idle.remove(at).1)
    }

    /// One that was made ready ahead.
    pub fn spare(&mut self) -> Option<T> {
        self.warm(NOBODY)
    }

    /// How many of those there are.
    #[must_use]
    pub fn spares(&self) -> usize {
        self.idle.iter().filter(|(owner, _)| &**owner == NOBODY).count()
    }

    /// A place for one more of those, where nothing has to be evicted for it.
    pub fn spare_place(&mut self) -> bool {
        let free = self.alive < self.max;
        self.alive += usize::from(free);
        free
    }

    /// Keeps one that is ready: the first to be evicted. If there are more
    /// contexts than the bound it comes out again, to be closed.
    #[must_use = "what comes out must be closed"]
    pub fn give_spare(&mut self, context: T) -> Option<T> {
        if self.alive > self.max {
            return Some(context);
        }
        self.idle.insert(0, (NOBODY.into(), context));
        None
    }

    /// A place for a context that nobody has used yet.
    pub fn place(&mut self) -> Checkout<T> {
        if self.alive < self.max {
            self.alive += 1;
            return Checkout::Open { evicted: None };
        }
        // Over the bound nothing new is opened, not even in another's place.
        if self.alive > self.max || self.idle.is_empty() {
            return Checkout::Wait;
        }
        Checkout::Open { evicted: Some(self.idle.remove(0).1) }
    }

    /// Takes a busy context back. If there are more than the bound it comes
    /// out again, to be closed.
    #[must_use = "what comes out must be closed"]
    pub fn give_back(&mut self, tenant: Arc<str>, context: T) -> Option<T> {
        if self.alive > self.max {
            return Some(context);
        }
        self.idle.push((tenant, context));
        None
    }

    /// Takes out the idle context that is sought, to be closed.
    pub fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.idle.iter().position(|(_, context)| is_it(context))?;
        Some(self.idle.remove(at).1)
    }

    /// A context is gone, or was never opened: its place is free.
    pub fn released(&mut self) {
        self.alive = self.alive.saturating_sub(1);
    }

    /// Sets the bound, at least one. What comes out must be closed.
    #[must_use = "what comes out must be closed"]
    pub fn set_max(&mut self, max: usize) -> Vec<T> {
        self.max = max.max(1);
        let over = self.alive.saturating_sub(self.max).min(self.idle.len());
        self.idle.drain(..over).map(|(_, context)| context).collect()
    }

    /// The idle contexts and their tenants, least recently used first.
    pub fn iter_idle(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.idle.iter().map(|(tenant, context)| (tenant, context))
    }

    /// All idle contexts, to be closed.
    #[must_use = "what comes out must be closed"]
    pub fn drain(&mut self) -> Vec<T> {
        self.idle.drain(..).map(|(_, context)| context).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get<T>(contexts: &mut Contexts<T>, tenant: &str) -> Checkout<T> {
        let warm = contexts.warm(tenant).or_else(|| contexts.spare());
        warm.map_or_else(|| contexts.place(), Checkout::Warm)
    }

    fn open(contexts: &mut Contexts<u32>, tenant: &str, id: u32) {
        assert_eq!(get(contexts, tenant), Checkout::Open { evicted: None });
        assert_eq!(contexts.give_back(tenant.into(), id), None);
    }

    #[test]
    fn a_tenant_gets_its_own_context_back_and_the_freshest_one() {
        let mut contexts = Contexts::new(4);
        open(&mut contexts, "a", 1);
        open(&mut contexts, "b", 2);
        assert_eq!(get(&mut contexts, "a"), Checkout::Warm(1));
        assert_eq!(get(&mut contexts, "a"), Checkout::Open { evicted: None });
        assert_eq!(contexts.give_back("a".into(), 1), None);
        assert_eq!(contexts.give_back("a".into(), 3), None);
        assert_eq!(get(&mut contexts, "a"), Checkout::Warm(3));
        assert_eq!(get(&mut contexts, "b"), Checkout::Warm(2));
    }

    #[test]
    fn the_least_recently_used_one_makes_room() {
        let mut contexts = Contexts::new(2);
        open(&mut contexts, "a", 1);
        open(&mut contexts, "b", 2);
        assert_eq!(get(&mut contexts, "a"), Checkout::Warm(1));
        assert_eq!(contexts.give_back("a".into(), 1), None);
        assert_eq!(get(&mut contexts, "c"), Checkout::Open { evicted: Some(2) });
        assert_eq!(contexts.alive(), 2);
        assert_eq!(get(&mut contexts, "d"), Checkout::Open { evicted: Some(1) });
        assert_eq!(get(&mut contexts, "e"), Checkout::Wait);
        contexts.released();
        assert_eq!(get(&mut contexts, "e"), Checkout::Open { evicted: None });
    }

    #[test]
    fn a_spare_one_is_for_whoever_has_none_and_goes_first() {
        let mut contexts = Contexts::new(3);
        assert!(contexts.spare_place());
        assert_eq!(contexts.give_spare(9), None);
        open_own(&mut contexts, "a", 1);
        assert_eq!((contexts.spares(), contexts.idle(), contexts.alive()), (1, 2, 2));
        assert_eq!(get(&mut contexts, "a"), Checkout::Warm(1), "its own before a spare one");
        assert_eq!(get(&mut contexts, "b"), Checkout::Warm(9));
        assert_eq!(contexts.give_back("b".into(), 9), None);
        assert_eq!(get(&mut contexts, "c"), Checkout::Open { evicted: None }, "it is b's now");
        assert!(!contexts.spare_place(), "nothing is evicted for one");
        contexts.released();
        assert!(contexts.spare_place());
        assert_eq!(contexts.give_spare(8), None);
        assert_eq!(contexts.place(), Checkout::Open { evicted: Some(8) });
        assert_eq!(contexts.set_max(1), vec![9]);
    }

    fn open_own(contexts: &mut Contexts<u32>, tenant: &str, id: u32) {
        assert_eq!(contexts.place(), Checkout::Open { evicted: None });
        assert_eq!(contexts.give_back(tenant.into(), id), None);
    }

    #[test]
    fn a_lower_bound_takes_idle_ones_now_and_busy_ones_later() {
        let mut contexts = Contexts::new(3);
        open(&mut contexts, "a", 1);
        open(&mut contexts, "b", 2);
        assert_eq!(get(&mut contexts, "c"), Checkout::Open { evicted: None });
        assert_eq!(get(&mut contexts, "b"), Checkout::Warm(2));
        assert_eq!(contexts.set_max(0), vec![1]);
        assert_eq!(contexts.max(), 1);
        contexts.released();
        assert_eq!(contexts.give_back("b".into(), 2), Some(2));
        contexts.released();
        assert_eq!(contexts.give_back("c".into(), 3), None);
        assert_eq!((contexts.alive(), contexts.idle()), (1, 1));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Checkout(u8),
        Place(u8),
        GiveBack(usize),
        Destroy(usize),
        Closed(usize),
        SetMax(usize),
        Drain,
        Take(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..6).prop_map(Step::Checkout),
            1 => (0u8..6).prop_map(Step::Place),
            4 => any::<usize>().prop_map(Step::GiveBack),
            1 => any::<usize>().prop_map(Step::Destroy),
            2 => any::<usize>().prop_map(Step::Closed),
            1 => (0usize..6).prop_map(Step::SetMax),
            1 => Just(Step::Drain),
            1 => (0u32..40).prop_map(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn places_are_neither_lost_nor_invented(
            max in 1usize..6,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut contexts: Contexts<(u8, u32)> = Contexts::new(max);
            let mut busy: Vec<(u8, u32)> = Vec::new();
            let mut closing: Vec<(u8, u32)> = Vec::new();
            let mut next = 0;
            for step in steps {
                let before = contexts.alive();
                match step {
                    Step::Place(tenant) => match contexts.place() {
                        Checkout::Warm(_) => prop_assert!(false, "it was used before"),
                        Checkout::Open { .. } => {
                            prop_assert!(contexts.alive() <= contexts.max());
                            next += 1;
                            busy.push((tenant, next));
                        }
                        Checkout::Wait => prop_assert!(contexts.alive() >= contexts.max()),
                    },
                    Step::Checkout(tenant) => match get(&mut contexts, &tenant.to_string()) {
                        Checkout::Warm(context) => {
                            prop_assert_eq!(context.0, tenant, "another tenant's context");
                            busy.push(context);
                        }
                        // The evicted one's place goes to the new one at once.
                        Checkout::Open { .. } => {
                            prop_assert!(contexts.alive() <= contexts.max());
                            next += 1;
                            busy.push((tenant, next));
                        }
                        Checkout::Wait => prop_assert!(
                            contexts.alive() >= contexts.max()
                        ),
                    },
                    Step::GiveBack(at) if !busy.is_empty() => {
                        let context = busy.swap_remove(at % busy.len());
                        let tenant = context.0.to_string().into();
                        closing.extend(contexts.give_back(tenant, context));
                    }
                    Step::Destroy(at) if !busy.is_empty() => {
                        let context = busy.swap_remove(at % busy.len());
                        closing.push(context);
                    }
                    Step::Closed(at) if !closing.is_empty() => {
                        closing.swap_remove(at % closing.len());
                        contexts.released();
                    }
                    Step::SetMax(max) => closing.extend(contexts.set_max(max)),
                    Step::Drain => closing.extend(contexts.drain()),
                    Step::Take(id) => closing.extend(contexts.take(|context| context.1 == id)),
                    _ => {}
                }
                prop_assert_eq!(contexts.alive(), contexts.idle() + busy.len() + closing.len());
                prop_assert!(contexts.alive() <= before.max(contexts.max()));
            }
        }
    }
}
