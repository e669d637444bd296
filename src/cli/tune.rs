//! Settings of workers that can be changed while they run, and what is asked before one is
//! changed: by the command that tells workers to, of what their heartbeats said, and by
//! each worker of itself. Both ask [`judge`], which refuses what the configuration's check
//! and a worker's start refuse, in the same words.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Session, parts};
use crate::config::units::show_bytes;
use crate::config::values::{Concurrency, LogLevel, Memory, Setting};
use crate::config::{does_not_fit, key};
use crate::memory::Governor;
use crate::memory::change::Ground;
use crate::worker::{Shared, Tune, Tuned};

/// The settings of a worker that can be changed while it runs.
pub(super) const TUNABLE: [&str; 5] =
    ["worker.concurrency", "memory.limit", "memory.reserve", "drain.timeout", "log.level"];
/// The value that stands for what a worker started with.
pub(super) const DEFAULT: &str = "default";
/// Why a worker's memory cannot be changed, and what to do.
pub(super) const NOT_GOVERNED: (&str, &str) = (
    "it can be changed while the worker runs only with memory.governor = on and Chromium",
    "set it in the worker's file and restart it",
);

/// Why a value cannot work in a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Why, with figures.
    pub(super) why: String,
    /// What to do.
    pub(super) fix: String,
}

impl Misfit {
    fn new(why: impl ToString, fix: impl Into<String>) -> Self {
        Self { why: why.to_string(), fix: fix.into() }
    }
}

/// Limit and reserve of a worker on this ground, once `name` has this value.
///
/// # Errors
/// Where the value is none, or it cannot work there.
pub(super) fn judge(
    ground: &Ground,
    name: &str,
    value: &str,
) -> Result<(Option<u64>, u64), Misfit> {
    let mut limit = ground.limit_bytes;
    let mut reserve = ground.reserve_bytes;
    let bytes = |memory: Memory| match (memory, ground.total_bytes) {
        (Memory::Bytes(bytes), _) => Ok(bytes),
        (_, Some(total)) => Ok(memory.of(total)),
        (_, None) => {
            Err(Misfit::new("the machine's memory cannot be read there", "give it as a size"))
        }
    };
    let wrong = |why: String| {
        let expects = key(name).map(|key| (key.expects)()).unwrap_or_default();
        let why = if why.is_empty() { why } else { format!(": {why}") };
        Misfit::new(format!("{value:?} is no value of it{why}"), format!("write {expects}"))
    };
    match name {
        "memory.limit" => {
            let wanted = <Option<Memory> as Setting>::parse(value).map_err(wrong)?;
            limit = wanted.map(bytes).transpose()?;
        }
        "memory.reserve" => {
            reserve = bytes(<Memory as Setting>::parse(value).map_err(wrong)?)?;
        }
        _ => return Ok((limit, reserve)),
    }
    let per_render = ground.per_render_bytes;
    if let Some(limit) = limit
        && let Some(why) = does_not_fit(limit, reserve, per_render)
    {
        return Err(Misfit::new(
            format!("memory.limit = {:?} cannot be: {why}", show_bytes(limit)),
            format!(
                "give memory.limit at least {}, or lower memory.reserve first",
                show_bytes(reserve.saturating_add(per_render))
            ),
        ));
    }
    ground.allows(limit, reserve).map_err(|unfit| Misfit::new(unfit, unfit.remedy()))?;
    Ok((limit, reserve))
}

/// Changes the settings of the worker that runs here.
pub(super) struct Tuner {
    governor: Governor,
    drain: Shared,
    /// What it started with, in the order of [`TUNABLE`].
    configured: Vec<(&'static str, String)>,
    /// What was changed since.
    changed: Mutex<BTreeMap<&'static str, String>>,
}

impl Tuner {
    /// Nothing is changed yet.
    pub(super) fn new(session: &Session, governor: Governor, drain: Shared) -> Self {
        let entry = |name| session.loaded.entries.iter().find(|entry| entry.key == name);
        let configured =
            TUNABLE.iter().filter_map(|name| Some((*name, entry(*name)?.value.clone())));
        Self { governor, drain, configured: configured.collect(), changed: Mutex::default() }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: &str, value: &str, back: bool) -> Result<(), String> {
        let memory = || {
            let wanted = judge(&self.governor.usage().ground, name, value);
            wanted.map_err(|Misfit { why, fix }| format!("{why}; {fix}"))
        };
        match name {
            "worker.concurrency" if back => self.governor.scale(None),
            "worker.concurrency" => {
                let concurrency = Concurrency::parse(value)?;
                if let Some(why) = concurrency.excess(parts::cores()) {
                    tracing::warn!("{why}");
                }
                self.governor.scale(Some(concurrency.slots(parts::cores())));
            }
            "memory.limit" | "memory.reserve" if self.governor.live().is_none() => {
                let (why, fix) = NOT_GOVERNED;
                return Err(format!("{why}; {fix}"));
            }
            "memory.limit" | "memory.reserve" => {
                let (limit, reserve) = memory()?;
                self.governor.change(|settings| {
                    (settings.limit, settings.reserve) = (limit, reserve);
                })?;
            }
            "drain.timeout" => self.drain.set(<Duration as Setting>::parse(value)?),
            _ => crate::telemetry::set_level(LogLevel::parse(value)?)?,
        }
        Ok(())
    }
}

impl Tune for Tuner {
    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        let Some((name, configured)) = self.configured.iter().find(|(name, _)| *name == key) else {
            return Err(format!(
                "it cannot be changed while the worker runs; these can: {}",
                TUNABLE.join(", ")
            ));
        };
        let back = value == DEFAULT;
        self.put(name, if back { configured.as_str() } else { value }, back)?;
        if back {
            self.changed().remove(name);
        } else {
            self.changed().insert(*name, value.to_owned());
        }
        Ok(())
    }

    fn settings(&self) -> Vec<Tuned> {
        let changed = self.changed();
        let of = |(key, configured): &(&'static str, String)| {
            let mut value = changed.get(key).unwrap_or(configured).clone();
            if *key == "worker.concurrency" {
                // `tillroll scale` changes it too.
                value = match self.governor.scaled() {
                    Some(slots) => slots.to_string(),
                    None => configured.clone(),
                };
            }
            Tuned { key, value, configured: configured.clone() }
        };
        self.configured.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Given, load};

    const MB: u64 = 1_000_000;

    const HERE: Ground = Ground {
        limit_bytes: Some(1000 * MB),
        reserve_bytes: 256 * MB,
        per_render_bytes: 96 * MB,
        redis_bytes: 0,
        total_bytes: Some(8000 * MB),
        free_bytes: 4000 * MB,
        used_bytes: 200 * MB,
        bare_bytes: Some(180 * MB),
    };

    #[test]
    fn what_the_configuration_refuses_is_refused_while_it_runs_in_the_same_words() {
        for (name, value) in [("memory.limit", "100MB"), ("memory.limit", "300MB")] {
            let live = judge(&HERE, name, value).unwrap_err();
            let set = vec![format!("{name}={value}")];
            let check = load(&Given { set, ..Given::default() }, []).unwrap_err().to_string();
            let (_, words) = check.split_once(": ").unwrap();
            assert_eq!(live.why, words, "{check}");
            assert!(live.fix.contains("at least 352MB"), "{}", live.fix);
        }
        let above = judge(&HERE, "memory.reserve", "2GB").unwrap_err();
        assert!(
            above.why.contains("memory.reserve (2GB) and one render (96MB) do not fit"),
            "{}",
            above.why
        );
        let share = judge(&HERE, "memory.limit", "4%").unwrap_err();
        assert!(share.why.contains("memory.limit = \"320MB\" cannot be"), "{}", share.why);
        assert!(judge(&HERE, "memory.limit", "lots").unwrap_err().why.contains("lots"));
    }

    #[test]
    fn what_a_start_refuses_is_refused_while_it_runs() {
        let small = Ground { reserve_bytes: 16 * MB, ..HERE };
        let refused = judge(&small, "memory.limit", "250MB").unwrap_err();
        assert!(refused.why.contains("no memory for one renderer"), "{}", refused.why);
        assert!(refused.fix.contains("raise memory.limit"), "{}", refused.fix);
        let unbounded = Ground { limit_bytes: None, ..HERE };
        let refused = judge(&unbounded, "memory.reserve", "50%").unwrap_err();
        assert!(refused.why.contains("after the reserve"), "{}", refused.why);
    }

    #[test]
    fn what_can_work_is_said_in_bytes() {
        assert_eq!(judge(&HERE, "memory.limit", "50%"), Ok((Some(4000 * MB), 256 * MB)));
        assert_eq!(judge(&HERE, "memory.limit", "auto"), Ok((None, 256 * MB)));
        assert_eq!(judge(&HERE, "memory.reserve", "100MB"), Ok((Some(1000 * MB), 100 * MB)));
        assert_eq!(judge(&HERE, "log.level", "debug"), Ok((Some(1000 * MB), 256 * MB)));
    }
}
