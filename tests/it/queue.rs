//! The queue against a real Redis: every transition, what a lost reply, a dead
//! worker or a dead Redis does to it, and the worker on top of it with a
//! scripted renderer.

mod admission;
mod assets;
mod bells;
mod breaker;
mod cancel;
mod caps;
mod claims;
mod clock;
pub(crate) mod commands;
mod dead_letters;
mod deadlines;
mod fairness;
mod forget;
mod fsck;
mod fsck_random;
mod full_redis;
mod held;
mod late_calls;
mod lost_replies;
mod memory;
mod near_misses;
mod random;
mod random_operator;
mod recovery;
mod rejection;
mod settling;
mod stopping;
mod worker;
