//! (module renderer)
pub mod browser;
pub mod cdp;
mod contain;
pub mod context;
pub mod engine;
pub mod flags;
pub mod jail;
mod launch;
pub mod launcher;
pub mod processes;
pub mod profile;
mod supervisor;
