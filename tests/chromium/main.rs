//! Tests on a real Chromium. They fail, and are never skipped, where there is
//! none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests"
)]

mod assets;
mod bombs;
mod containers;
mod crashes;
mod edges;
mod exposure;
mod fence;
mod fixtures;
mod hostile;
mod launch;
mod layout;
mod outside;
mod pool;
mod printed;
mod relief;
mod rendering;
mod rolls;
mod scripts;
mod spares;
mod streams;
mod supervision;
mod support;
mod tenants;
mod updates;
