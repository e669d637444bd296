//! The whole program, as its users run it: the real binary, a real Redis, a
//! real Chromium in its jail.

#![allow(unreachable_pub, reason = "a test binary has no other crates to be reached from")]

mod chaos;
mod command_line;
mod languages;
#[allow(dead_code, reason = "shared with the `it` tests, which use more of it")]
#[path = "../it/support/redis_server.rs"]
mod redis_server;
mod support;
mod tour;
