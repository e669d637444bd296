//! What `fsck` found, in kinds: how often, and some examples of each.

use std::collections::BTreeMap;

/// So many examples of a kind are kept; all are counted.
const EXAMPLES: usize = 20;

macro_rules! kinds {
    ($($kind:ident = $code:literal, $what:literal, $fix:literal;)*) => {
        /// A kind of damage.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $what] $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The code, for programs.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// The kind with this code.
            #[must_use]
            pub fn from_name(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == code)
            }

            /// What is wrong.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self { $(Self::$kind => $what,)* }
            }

            /// What `--repair` does about it, or what somebody has to do.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$kind => $fix,)* }
            }
        }
    };
}

kinds! {
    Unlisted = "unlisted",
        "a job that the list or set of its state does not have",
        "it is put there";
    Misplaced = "misplaced",
        "a name in a set where its job does not belong",
        "it is taken out";
    NoToken = "no_token",
        "a lease that nobody can settle: it has no token or no worker",
        "the job is ready again, and the attempt does not count";
    StrayToken = "stray_token",
        "a job that does not run, with the token of a lease",
        "the token is taken away";
    Claim = "claim",
        "a worker's claim and a job's lease that do not lead to each other",
        "the claim follows the lease";
    Ttl = "ttl",
        "a job that is kept and would run out, or one that ended and would stay for ever",
        "its time to live is put right: one day for what ended";
    RecordBroken = "record_broken",
        "a record that no worker can read",
        "it is removed; its document, if there is one, goes back to an inbox";
    OrphanDocument = "orphan_document",
        "a document whose record is gone",
        "it goes back to an inbox, and is admitted again";
    StrayDocument = "stray_document",
        "the document of a job that has ended",
        "it is removed";
    OrphanHistory = "orphan_history",
        "a history whose record is gone, and which would stay for ever",
        "it is removed";
    BodyMissing = "body_missing",
        "a job whose document is gone",
        "it cannot be brought back: a job that waits is ended as body_lost, and its producer is told; \
         one that runs has read it, or ends so itself; a dead letter can only be purged. Use \
         maxmemory-policy noeviction";
    Ring = "ring",
        "a tenant that is not in the turn where it belongs, or is where it does not",
        "it is put right";
    Breaker = "breaker",
        "a tenant that is wrongly listed as broken, or wrongly not",
        "the list follows the count of its failures";
    TenantUnlisted = "tenant_unlisted",
        "a tenant with jobs that the list of tenants does not have",
        "it is put there";
    Asset = "asset",
        "an asset of a tenant whose entry, content and version do not belong together",
        "what lacks a half is removed: store it again with `tillroll asset put`";
    StageUnlisted = "stage_unlisted",
        "an element in the stage of a worker that is on no list, so that nobody would take over",
        "the worker is listed as silent: the next housekeeping takes over what it left";
    ResultTtl = "result_ttl",
        "a result that would stay for ever",
        "it gets a time to live of one day, or one minute while it is on its way";
    ResultUncounted = "result_uncounted",
        "a result that waits and is not counted as held",
        "it is counted";
    ResultGone = "result_gone",
        "a result that is counted as held and was taken, or ran out, while no worker lived to notice",
        "it is no longer counted (a worker does so, too)";
    Bell = "bell",
        "a bell with more than one token",
        "it keeps one";
    Counter = "counter",
        "a counter that does not say what is there",
        "it is changed by the difference";
    WrongType = "wrong_type",
        "a key of another type than ours",
        "what can be put together again is removed first; else look at the key (redis-cli TYPE KEY), \
         save what is in it, and delete it";
}

/// One kind, as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// How often.
    pub found: u64,
    /// How many of them were mended.
    pub mended: u64,
    /// Names, tenants or keys; some of them where there are many.
    pub examples: Vec<String>,
}

/// What is known of the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Counters {
    /// They were not compared.
    #[default]
    Unseen,
    /// They say what is there; those that did not are among the findings.
    Compared,
    /// Too much happened meanwhile to say whether they are right.
    Busy,
}

impl Counters {
    /// For programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unseen => "unseen",
            Self::Compared => "compared",
            Self::Busy => "busy",
        }
    }
}

/// What a run found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Whether it was asked to mend.
    pub repair: bool,
    /// How many names were looked at.
    pub jobs: u64,
    /// How many tenants.
    pub tenants: u64,
    /// What was found.
    pub findings: BTreeMap<Kind, Finding>,
    /// What is known of the counters.
    pub counters: Counters,
}

impl FsckReport {
    pub(super) fn new(repair: bool) -> Self {
        Self { repair, ..Self::default() }
    }

    pub(super) fn add(&mut self, kind: Kind, what: &str, mended: bool) {
        let finding = self.findings.entry(kind).or_default();
        finding.found += 1;
        finding.mended += u64::from(mended);
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(what.to_owned());
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How much was found and not mended.
    #[must_use]
    pub fn unmended(&self) -> u64 {
        self.findings.values().map(|finding| finding.found - finding.mended).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_few_and_counts_complete() {
        let mut report = FsckReport::new(true);
        for n in 0..50 {
            report.add(Kind::Ttl, &format!("acme/{n}"), n % 2 == 0);
        }
        let finding = &report.findings[&Kind::Ttl];
        assert_eq!((finding.found, finding.mended, finding.examples.len()), (50, 25, EXAMPLES));
        assert_eq!(report.unmended(), 25);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.as_str()), Some(*kind));
        }
    }
}
