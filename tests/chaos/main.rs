//! What dies, stops, jumps or fills up while jobs run, and what then must not
//! be lost: three workers with their jailed Chromium, a Redis that has written
//! every command before it answers, and a checker that reads what the queue
//! has written down (see [`history`]).
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `TILLROLL_CHAOS_SECONDS` | how long the storm lasts; from 300 the slow sections run too | 60 |
//! | `TILLROLL_CHAOS_SEED` | what happens when, and to whom | random, printed |

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "tests fail like tests, live in real time and print what they saw"
)]

mod cancel;
mod clocks;
mod collect;
mod fencing;
mod fleet;
mod history;
mod producer;
mod recovery;
#[allow(dead_code, reason = "shared with the `it` tests, which use more of it")]
#[path = "../it/support/redis_server.rs"]
mod redis_server;
mod storm;
#[allow(dead_code, reason = "shared with the `e2e` tests, which use more of it")]
#[path = "../e2e/support.rs"]
mod support;
mod troubles;
mod watch;

use std::time::Duration;

/// How long the storm lasts.
pub fn length() -> Duration {
    Duration::from_secs(setting("TILLROLL_CHAOS_SECONDS").unwrap_or(60))
}

/// Whether what takes minutes runs too.
pub fn at_length() -> bool {
    length() >= Duration::from_secs(300)
}

/// A variable that holds a number.
pub fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
