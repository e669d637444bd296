//! One ledger for all workers of a user on one machine: each says what it has
//! promised and what it uses, and hears the others before it promises more.
//!
//! ```text
//! /dev/shm/tillroll-<uid>/ledger-2.<pid namespace>   (directory 0700, file 0600, two pages)
//!   header │ slot 0 │ slot 1 │ … │ slot 62            one writer each, 128 bytes, checksum last
//! ```
//!
//! # Why two that admit at once cannot overrun
//!
//! Nobody waits for a lock: a worker that is stopped in the middle must not stop
//! the others. Instead [`Share::say`] comes before [`Share::hear`]: a worker
//! first writes down what it would owe, then reads what the others owe, then
//! decides, then writes down what it owes indeed. Of two that do so at the same
//! instant at least one reads the other's intent; at worst both do, both wait, and
//! both ask again after their next samples, which do not fall together. A slot is
//! written in one call of 128 bytes; half of one has a wrong checksum and is read
//! again, and where that does not help the slot's last good record stands.
//!
//! What a job uses is no longer promised, but gone from what is free; the two are
//! read at different times by different workers. So what was owed at any time in
//! the last [`OWED_FOR`] counts as promised, and who promises needs a sample that
//! is younger than that (see [`super::books`]): a byte is counted twice for a
//! moment, never not at all.
//!
//! # Who counts
//!
//! A slot lives as long as it is written, at each sample: at least once a second.
//! One that is silent for [`SILENCE`] is looked after: where its process is gone,
//! or its number is another's by now (the start time differs), it is passed over,
//! and its place is taken by the next worker that comes. A process that is there but
//! stopped keeps its promise, but nobody waits for it.
//!
//! Promises count where they draw on the same memory: all on the machine's, and on
//! each limit above this worker those of the workers that are below it too, be it
//! their own group's or one far above both. So each says which limits it is under
//! (the numbers of their groups; one with more than can be told counts everywhere).
//! Whoever wants all the memory says which limit it is that leaves it too little;
//! who is below that one lets it go first.
//!
//! Workers of other users, and of containers with a `/dev/shm` or pid namespace of
//! their own, do not see each other: to each the others are neighbours, for which
//! its reserve learns.
//!
//! # Failures
//!
//! Where there is no such directory, another user has taken its name, it cannot be
//! written, or 63 workers are there already, the worker goes on without, says so
//! once in its log, and shows it in its status.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sampler::Limit;
use super::table::{self, Record, SLOT, SLOTS, Under};
pub use super::table::{Said, ShareError};
use super::terms::Elsewhere;

/// What was owed in this time counts as promised still.
pub const OWED_FOR: Duration = Duration::from_millis(100);
/// A slot that was not written for so long is looked after.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether the file is still the one that others find.
const LOOK: Duration = Duration::from_secs(1);
/// A slot that changes while it is read is read again so often.
const READS: u32 = 3;

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    record: Record,
    /// When it was seen to change.
    since: Duration,
    /// When it was last looked after, and whether its process is there.
    checked: Option<(Duration, bool)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Share {
    root: PathBuf,
    path: PathBuf,
    file: File,
    slot: usize,
    me: Record,
    /// What was owed lately, and when.
    recent: VecDeque<(Duration, u64)>,
    seen: Vec<Seen>,
    looked: Duration,
    /// Which limit left the least when it was last heard what others say.
    measured: u64,
}

impl Share {
    /// Takes a place among the workers of the machine whose `/dev/shm` and `/proc`
    /// stand below `root`.
    ///
    /// # Errors
    /// Where there is no table that can be trusted, or no place in it.
    pub fn join(root: &Path) -> Result<Self, ShareError> {
        let pid = std::process::id();
        let me = Record { pid, began: table::began(root, pid).unwrap_or(0), ..Record::default() };
        let (path, file, slot) = table::enter(root, &me)?;
        Ok(Self {
            root: root.to_owned(),
            path,
            file,
            slot,
            me,
            recent: VecDeque::new(),
            seen: vec![Seen::default(); SLOTS],
            looked: Duration::ZERO,
            measured: 0,
        })
    }

    /// Says how things stand. What was owed lately is owed still.
    ///
    /// # Errors
    /// Where the table cannot be written.
    pub fn say(&mut self, said: Said, now: Duration) -> Result<(), ShareError> {
        // With the last one before that time.
        while self.recent.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) > OWED_FOR) {
            self.recent.pop_front();
        }
        self.recent.push_back((now, said.owed));
        self.write(said)
    }

    /// Says what it would owe, for a moment; [`Share::say`] follows.
    ///
    /// # Errors
    /// Where the table cannot be written.
    pub fn intend(&mut self, more: u64) -> Result<(), ShareError> {
        let said = self.me.said;
        self.write(Said { owed: said.owed.saturating_add(more), ..said })
    }

    fn write(&mut self, said: Said) -> Result<(), ShareError> {
        let owed = self.recent.iter().map(|(_, owed)| *owed).fold(said.owed, u64::max);
        self.me.turn = self.me.turn.wrapping_add(1);
        self.me.said = Said { owed, ..said };
        let at = table::offset(self.slot);
        self.file.write_all_at(&self.me.words(), at).map_err(|source| ShareError::File {
            what: "writing",
            path: self.path.clone(),
            source,
        })
    }

    /// What the others say. `available`: what the machine has, against which all that
    /// they promised is set; `limits`: those above this worker, and what each leaves,
    /// against which it is set what those promised who are below it too.
    ///
    /// # Errors
    /// Where the table cannot be read, or has become another.
    pub fn hear(
        &mut self,
        available: u64,
        limits: &[Limit],
        now: Duration,
    ) -> Result<Elsewhere, ShareError> {
        if now.saturating_sub(self.looked) >= LOOK {
            self.looked = now;
            self.stay()?;
        }
        self.read(now)?;
        Ok(self.sum(available, limits, now))
    }

    /// Comes back where the file was taken away: what others find is another then.
    fn stay(&mut self) -> Result<(), ShareError> {
        let failed =
            |source| ShareError::File { what: "looking at", path: self.path.clone(), source };
        let ours = self.file.metadata().map_err(failed)?;
        let found = self.path.symlink_metadata();
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())) {
            return Ok(());
        }
        (self.path, self.file, self.slot) = table::enter(&self.root, &self.me)?;
        self.seen.fill(Seen::default());
        self.write(self.me.said)
    }

    fn read(&mut self, now: Duration) -> Result<(), ShareError> {
        let mut page = table::read_page(&self.file, &self.path)?;
        let own = self.slot;
        for slot in (0..SLOTS).filter(|slot| *slot != own) {
            let mut record = None;
            for again in 0..READS {
                if again > 0 {
                    page = table::read_page(&self.file, &self.path)?;
                }
                record = Record::parse(&page[table::span(slot)]);
                if record.is_some() {
                    break;
                }
            }
            let seen = &mut self.seen[slot];
            match record {
                Some(record) if record != seen.record => {
                    *seen = Seen { record, since: now, checked: None };
                }
                // What cannot be read is silent.
                Some(_) | None => {}
            }
            let silent = now.saturating_sub(seen.since) >= SILENCE && !seen.record.is_free();
            if silent && seen.checked.is_none_or(|(at, _)| now.saturating_sub(at) >= LOOK) {
                seen.checked = Some((now, table::lives(&self.root, &self.me, &seen.record)));
            }
        }
        Ok(())
    }

    fn sum(&mut self, available: u64, limits: &[Limit], now: Duration) -> Elsewhere {
        let others: Vec<(usize, &Seen)> = self
            .seen
            .iter()
            .enumerate()
            .filter(|(slot, seen)| {
                let there = seen.checked.is_none_or(|(_, lives)| lives);
                *slot != self.slot && !seen.record.is_free() && there
            })
            .collect();
        let of = |limit: u64, what: fn(&Said) -> u64| {
            let below = others.iter().filter(|(_, seen)| seen.record.under.counts_against(limit));
            below.map(|(_, seen)| what(&seen.record.said)).fold(0, u64::saturating_add)
        };
        let machine = Limit { group: 0, free: available };
        let all = || std::iter::once(machine).chain(limits.iter().copied());
        let left = |limit: &Limit| i128::from(limit.free) - i128::from(of(limit.group, |s| s.owed));
        let used = |limit: u64| of(limit, |said| said.used);
        let free = all().min_by_key(|limit| limit.free).unwrap_or(machine);
        let tightest = all().min_by_key(left).unwrap_or(machine);
        let without = |limit: Limit| limit.free.saturating_add(used(limit.group));
        let before = all().find(|limit| limit.group == self.measured).unwrap_or(free);
        // Who they are, in the order of their places.
        let and = |among: u64, pid: u32| among.wrapping_mul(1 << 22).wrapping_add(pid.into());
        let mut sum = Elsewhere {
            workers: others.len(),
            promised: u64::try_from(i128::from(free.free) - left(&tightest)).unwrap_or(0),
            used: used(free.group),
            before: used(before.group),
            among: others.iter().fold(0, |among, (_, seen)| and(among, seen.record.pid)),
            back: all().map(without).min().unwrap_or(0).saturating_sub(free.free),
            ..Elsewhere::default()
        };
        self.me.under = Under::new(tightest.group, limits.iter().map(|limit| limit.group));
        let me = &self.me;
        for (slot, seen) in others {
            let Record { said, under, .. } = &seen.record;
            if now.saturating_sub(seen.since) >= SILENCE {
                continue;
            }
            // Of two that want to be first, it is the one with the lower place.
            let goes_first = said.first && (slot < self.slot || !me.said.first);
            sum.first |= goes_first && me.under.counts_against(under.tightest);
            if under.counts_against(tightest.group) {
                sum.running += said.running as usize;
                sum.idle += said.idle as usize;
                sum.busy |= said.owed > 0;
            }
        }
        self.measured = free.group;
        sum
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Err(error) = self.file.write_all_at(&[0; SLOT], table::offset(self.slot)) {
            // The next worker finds that this process is gone.
            tracing::debug!(%error, "the shared ledger was not left");
        }
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
