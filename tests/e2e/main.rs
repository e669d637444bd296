//! The whole program, as its users run it: the real binary, a real Redis, a
//! real Chromium in its jail.

mod chaos;
mod command_line;
mod languages;
#[path = "../it/support/redis_server.rs"]
mod redis_server;
mod support;
mod tour;
