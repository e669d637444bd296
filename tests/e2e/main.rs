//! The whole program, as its users run it: the real binary, a real Redis, a
//! real Chromium in its jail.

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
    clippy::exit,
    reason = "helpers of tests fail like tests, wait in real time and print what they saw"
)]

mod bench;
mod chaos;
mod command_line;
mod doctor;
mod embedded;
mod errors;
mod json;
mod languages;
mod leaks;
mod mending;
mod operate;
mod pages;
mod plan;
#[allow(dead_code, reason = "shared with the `it` tests, which use more of it")]
#[path = "../it/support/redis_server.rs"]
mod redis_server;
mod secrets;
mod support;
mod tour;
mod updates;
