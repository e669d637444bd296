//! The worker: ties queue, memory, pool and output together.

pub mod snapshot;
