//! One ledger for all workers of a user on one machine: each says what it has
//! promised and what it uses, and hears the others before it promises more.
//!
//! ```text
//! /dev/shm/tillroll-<uid>/ledger.<pid namespace>     (directory 0700, file 0600, one page)
//!   header │ slot 0 │ slot 1 │ … │ slot 62            one writer each, 64 bytes, checksum last
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
//! written in one call of 64 bytes; half of one has a wrong checksum and is read
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
//! Promises count where they draw on the same memory: all on the machine's, and
//! those of workers under the same limit on that limit. Workers of other users,
//! and of containers with a `/dev/shm` or pid namespace of their own, do not see
//! each other: to each the others are neighbours, for which its reserve learns.
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

use super::probe::Memory;
use super::table::{self, Record, SLOT, SLOTS};
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

    /// What the others say. `memory`: what was measured, that the promises of those
    /// under the same limit are set against that limit, and all against the machine's.
    ///
    /// # Errors
    /// Where the table cannot be read, or has become another.
    pub fn hear(&mut self, memory: Memory, now: Duration) -> Result<Elsewhere, ShareError> {
        if now.saturating_sub(self.looked) >= LOOK {
            self.looked = now;
            self.stay()?;
        }
        self.read(now)?;
        Ok(self.sum(memory, now))
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

    fn sum(&self, memory: Memory, now: Duration) -> Elsewhere {
        let mut sum = Elsewhere::default();
        let (mut of_all, mut of_group) = ((0_u64, 0_u64), (0_u64, 0_u64));
        // Who they are, in the order of their places: no two sums of workers are alike.
        let (mut among_all, mut among_group) = (0_u64, 0_u64);
        let and = |among: u64, pid: u32| among.wrapping_mul(1 << 22).wrapping_add(pid.into());
        for (slot, seen) in self.seen.iter().enumerate() {
            let there = !seen.record.is_free() && seen.checked.is_none_or(|(_, lives)| lives);
            if !there || slot == self.slot {
                continue;
            }
            let said = &seen.record.said;
            of_all = (of_all.0.saturating_add(said.owed), of_all.1.saturating_add(said.used));
            among_all = and(among_all, seen.record.pid);
            sum.workers += 1;
            if said.scope != self.me.said.scope {
                continue;
            }
            of_group = (of_group.0.saturating_add(said.owed), of_group.1.saturating_add(said.used));
            among_group = and(among_group, seen.record.pid);
            if now.saturating_sub(seen.since) < SILENCE {
                sum.running += said.running as usize;
                sum.idle += said.idle as usize;
                sum.busy |= said.owed > 0;
                // Of two that want to be first, it is the one with the lower place.
                sum.first |= said.first && (slot < self.slot || !self.me.said.first);
            }
        }
        let in_group = memory.cgroup.map_or(u64::MAX, |group| group.free());
        let left = |free: u64, owed: u64| i128::from(free) - i128::from(owed);
        let of_machine = left(memory.available, of_all.0);
        let bound = of_machine.min(left(in_group, of_group.0));
        sum.promised = u64::try_from(i128::from(memory.free()) - bound).unwrap_or(0);
        (sum.used, sum.among) = if in_group < memory.available {
            (of_group.1, among_group)
        } else {
            (of_all.1, among_all)
        };
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
