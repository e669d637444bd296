//! The transitions, one Lua file each. Every script is its own body after the
//! parts of `scripts/lib` that it needs; each file states its contract.

use std::fmt::Write as _;

use super::limits::Limits;
use super::script::Script;

macro_rules! lua {
    ($file:literal) => {
        include_str!(concat!("scripts/", $file, ".lua"))
    };
}

const BASE: &str = lua!("lib/base");
const STAGE: &str = lua!("lib/stage");
const RING: &str = lua!("lib/ring");
const LEASE: &str = lua!("lib/lease");
const CLAIM: &str = lua!("lib/claim");
const ANSWER: &str = lua!("lib/answer");
const ENDING: &str = lua!("lib/ending");

macro_rules! scripts {
    ($($name:ident = $file:literal after [$($part:ident)*];)*) => {
        /// All scripts, ready to be called by their hash.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
        }

        impl Scripts {
            /// The scripts of a worker with these limits. `fenced` is false only in a
            /// test that shows what fencing prevents.
            pub(super) fn new(limits: &Limits, fenced: bool) -> Self {
                let head = head(limits, fenced);
                Self {
                    $($name: Script::new([head.as_str(), BASE, $($part,)* lua!($file)].concat()),)*
                }
            }

            /// The script of the file called `name`.
            pub(super) fn named(&self, name: &str) -> Option<&Script> {
                match name {
                    $($file => Some(&self.$name),)*
                    _ => None,
                }
            }

            /// Every script, for loading them all at once.
            pub(super) fn all(&self) -> Vec<&Script> {
                vec![$(&self.$name),*]
            }
        }
    };
}

scripts! {
    admit = "admit" after [STAGE RING LEASE CLAIM ANSWER ENDING];
    stage = "stage" after [];
    reject = "reject" after [STAGE ANSWER];
    claim = "claim" after [RING LEASE CLAIM];
    renew = "renew" after [LEASE];
    finish = "finish" after [RING LEASE CLAIM ANSWER ENDING];
    bury = "bury" after [RING LEASE CLAIM ANSWER ENDING];
    fail = "fail" after [RING LEASE];
    release = "release" after [RING LEASE];
    wait = "wait" after [LEASE];
    cancel = "cancel" after [RING ANSWER ENDING];
    revive = "revive" after [RING];
    purge = "purge" after [RING ENDING];
    configure = "configure" after [RING];
    guard = "guard" after [];
    reap = "reap" after [RING LEASE];
    promote = "promote" after [RING];
    overdue = "overdue" after [RING LEASE];
    adopt = "adopt" after [];
    register = "register" after [];
    tell = "tell" after [];
    sweep = "sweep" after [RING ENDING];
    erase = "erase" after [RING ENDING];
    erase_tenant = "erase_tenant" after [];
    asset_put = "asset_put" after [];
    asset_remove = "asset_remove" after [];
    fsck_names = "fsck/names" after [RING];
    fsck_requeue = "fsck/requeue" after [RING];
    fsck_orphan = "fsck/orphan" after [];
    fsck_tenants = "fsck/tenants" after [RING];
    fsck_assets = "fsck/assets" after [];
    fsck_claims = "fsck/claims" after [];
    fsck_results = "fsck/results" after [];
    fsck_recount = "fsck/recount" after [RING];
    fsck_held = "fsck/held" after [];
    fsck_lost = "fsck/lost" after [RING ANSWER ENDING];
}

/// What stands before the first part: the limits that hold where the queue's
/// own configuration says nothing.
fn head(limits: &Limits, fenced: bool) -> String {
    let mut head = String::from("local DEFAULTS = { ");
    for (field, value) in limits.fields() {
        // Writing into a String cannot fail.
        if write!(head, "{field} = {value}, ").is_err() {
            head.clear();
        }
    }
    head.push_str(if fenced { "}\nlocal FENCED = true\n" } else { "}\nlocal FENCED = false\n" });
    head
}
