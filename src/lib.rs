//! Tillroll turns receipt HTML into PDFs: a Redis-backed queue feeds a bounded
//! pool of jailed headless Chromium renderers, and how much runs at once is
//! decided by the memory that is really free.
//!
//! The modules in the order in which a job meets them:
//!
//! 1. [`job`]: what a producer pushes: framing, header, options; and the reply.
//! 2. [`queue`]: admission, lease, settlement, in Redis.
//! 3. [`memory`]: whether there is room to start another render.
//! 4. [`pool`]: which warm, isolated page the document is rendered in.
//! 5. [`renderer`]: Chromium in its jail, and one page render.
//! 6. [`worker`]: the one task that ties them together.
//!
//! A producer in Rust needs [`client`] only.
//!
//! [`failure`] and [`retry`] say what becomes of an attempt that went wrong.

pub mod config;
pub mod dumps;
pub mod failure;
#[cfg(test)]
mod fuzzed;
pub mod job;
pub mod memory;
pub mod metrics;
pub mod pool;
pub mod queue;
pub mod renderer;
pub mod retry;
pub mod telemetry;
pub mod worker;

pub use queue::client;

pub mod cli;
pub mod http;
