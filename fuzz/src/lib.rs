//! Tillroll's parsers, and no more of it, for the fuzzer.
//!
//! The modules are those of `src`, compiled here once more with the fuzzer's
//! instrumentation. So what is private needs no door for the fuzzer, and a build
//! takes half a minute: Redis, the runtime and Chromium's protocol stay out.

#![allow(dead_code, unused_imports, reason = "only a part of the crate is here")]

#[path = "../../src/fuzzed.rs"]
pub mod fuzzed;

#[path = "../../src/failure.rs"]
mod failure;
#[path = "../../src/job/mod.rs"]
mod job;

#[path = "../../src/config"]
mod config {
    mod redis;
    pub mod units;
    pub mod values;
}

#[path = "../../src/memory"]
mod memory {
    pub(super) mod cgroup;
    pub mod document;
    pub mod ladder;
    pub mod predictor;
    pub mod probe;
    pub mod sampler;
    pub mod table;
    pub mod terms;
    pub mod verdicts;
}

#[path = "../../src/renderer"]
mod renderer {
    pub mod assets;
    pub mod markup;
    pub mod pdf;
    pub mod tags;

    #[path = "../../src/renderer/cdp"]
    pub mod cdp {
        pub mod frame;
    }
}
