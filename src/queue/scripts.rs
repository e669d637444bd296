//! The transitions, one Lua file each. Every script is the prelude followed by
//! its own body; each file states its contract.

use redis::Script;

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("scripts/prelude.lua"),
            include_str!(concat!("scripts/", $file))
        ))
    };
}

/// All scripts, ready to be called by their hash.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) admit: Script,
    pub(super) reject: Script,
    pub(super) claim: Script,
    pub(super) renew: Script,
    pub(super) finish: Script,
    pub(super) retry: Script,
    pub(super) reap: Script,
    pub(super) promote: Script,
    pub(super) adopt: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            admit: script!("admit.lua"),
            reject: script!("reject.lua"),
            claim: script!("claim.lua"),
            renew: script!("renew.lua"),
            finish: script!("finish.lua"),
            retry: script!("retry.lua"),
            reap: script!("reap.lua"),
            promote: script!("promote.lua"),
            adopt: script!("adopt.lua"),
        }
    }

    /// Every script, for loading them all at once.
    pub(super) fn all(&self) -> [&Script; 9] {
        [
            &self.admit,
            &self.reject,
            &self.claim,
            &self.renew,
            &self.finish,
            &self.retry,
            &self.reap,
            &self.promote,
            &self.adopt,
        ]
    }
}
