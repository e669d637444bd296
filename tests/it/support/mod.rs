//! What the tests share: a Redis of their own, a scripted renderer, a worker
//! that runs in the test's process, and what must be true of a queue.

pub(crate) mod certificates;
pub(crate) mod invariants;
pub(crate) mod observe;
pub(crate) mod proxy;
pub(crate) mod redis_server;
pub(crate) mod renderer;
pub(crate) mod rig;
pub(crate) mod worker;

pub(crate) use certificates::Authority;
pub(crate) use proxy::Proxy;
pub(crate) use redis_server::RedisServer;
pub(crate) use renderer::Scripted;
pub(crate) use rig::{Calls, Rig, document, expect_claim, parsed, under};
pub(crate) use worker::Running;
