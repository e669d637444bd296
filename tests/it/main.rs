//! Tests of the built binary and of the library from outside: one binary, so
//! that the crate is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

mod client;
mod config;
mod connections;
mod embedded;
mod queue;
mod support;
mod tiers;
