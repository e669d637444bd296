//! The transitions, one Lua file each. Every script is its own body after those
//! definitions of `scripts/lib` that it uses; each file states its contract.
//!
//! Redis runs all of a script's text at each call, and makes each function of it anew: that is
//! memory to be collected again. So a script gets no definition that it does not use.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::limits::Limits;
use super::script::Script;

macro_rules! lua {
    ($file:literal) => {
        include_str!(concat!("scripts/", $file, ".lua"))
    };
}

/// What scripts share, in an order in which each definition uses only earlier ones.
const LIBRARY: [&str; 7] = [
    lua!("lib/base"),
    lua!("lib/stage"),
    lua!("lib/ring"),
    lua!("lib/lease"),
    lua!("lib/claim"),
    lua!("lib/answer"),
    lua!("lib/ending"),
];

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
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
                    $($name: Script::new(with_library(&head, lua!($file))),)*
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
    admit = "admit";
    stage = "stage";
    reject = "reject";
    claim = "claim";
    renew = "renew";
    finish = "finish";
    bury = "bury";
    fail = "fail";
    release = "release";
    wait = "wait";
    cancel = "cancel";
    revive = "revive";
    purge = "purge";
    configure = "configure";
    guard = "guard";
    reap = "reap";
    promote = "promote";
    overdue = "overdue";
    adopt = "adopt";
    register = "register";
    tell = "tell";
    sweep = "sweep";
    erase = "erase";
    erase_tenant = "erase_tenant";
    asset_put = "asset_put";
    asset_remove = "asset_remove";
    fsck_names = "fsck/names";
    fsck_requeue = "fsck/requeue";
    fsck_orphan = "fsck/orphan";
    fsck_tenants = "fsck/tenants";
    fsck_assets = "fsck/assets";
    fsck_claims = "fsck/claims";
    fsck_results = "fsck/results";
    fsck_recount = "fsck/recount";
    fsck_held = "fsck/held";
    fsck_lost = "fsck/lost";
}

/// What stands before the first part: the limits that hold where the queue's
/// own configuration says nothing.
fn head(limits: &Limits, fenced: bool) -> String {
    // A function, since a table would be filled anew by each call.
    let mut head = String::from("local function default(field)\n");
    for (field, value) in limits.fields() {
        // Writing into a String cannot fail.
        if writeln!(head, "  if field == '{field}' then return {value} end").is_err() {
            head.clear();
        }
    }
    head.push_str("  return 0\nend\n");
    head.push_str(if fenced { "local FENCED = true\n" } else { "local FENCED = false\n" });
    head
}

/// A script's whole text: `body` after those definitions of `head` and the library that it
/// uses, directly or through others.
fn with_library(head: &str, body: &str) -> String {
    let defined: Vec<String> = [head].iter().chain(&LIBRARY).flat_map(|p| definitions(p)).collect();
    let mut used: HashSet<&str> = words(body).collect();
    let mut kept = vec![body];
    for definition in defined.iter().rev() {
        if named(definition).any(|name| used.contains(name)) {
            used.extend(words(definition));
            kept.push(definition);
        }
    }
    kept.reverse();
    kept.concat()
}

/// The definitions of one part, without comments: each begins with a `local` at a line's start.
fn definitions(part: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in part.lines().filter(|line| !is_comment(line) && !line.is_empty()) {
        if line.starts_with("local ") {
            found.push(String::new());
        }
        if let Some(definition) = found.last_mut() {
            definition.push_str(line);
            definition.push('\n');
        }
    }
    found
}

/// What a definition defines: `local function this(…)`, or `local this, that = …`.
fn named(definition: &str) -> impl Iterator<Item = &str> {
    let line = definition.lines().next().unwrap_or_default();
    let names = line.trim_start_matches("local ").trim_start_matches("function ");
    names.split(['(', '=']).next().unwrap_or_default().split(',').map(str::trim)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().filter(|line| !is_comment(line));
    code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_what_it_uses_and_nothing_else() {
        let head = "local function default(field)\n  return 0\nend\nlocal FENCED = true\n";
        let text = with_library(head, "-- place\nbegin()\nreturn limit('jobs')\n");
        let has = |what: &str| text.contains(what);
        assert!(has("local function limit(") && has("local function configured("));
        assert!(
            has("local function default(")
                && has("local settings = {}")
                && has("local P = ARGV[1]")
        );
        assert!(
            !has("local FENCED") && !has("local function place(") && !has("local function now(")
        );
        assert!(text.ends_with("return limit('jobs')\n"));
    }
}
