//! Why work waits for want of memory, in one sentence with its remedy: what `/readyz`
//! answers and `tillroll status` prints. Pure.
//!
//! Each text says what is compared with what. Memory may be scarce although there is
//! enough of it again: the system's own counters say that something waits for it, or it
//! was too little a moment ago (see [`crate::memory::ladder`]).

use super::snapshot::Governed;
use crate::config::units::show_bytes_rounded as show;
use crate::memory::change::Ground;
use crate::memory::ladder::{CALM_DOWN, Pressure};

impl Governed {
    /// Why little or nothing is let in, if that is for want of memory: a person may
    /// have to do something about it.
    #[must_use]
    pub fn shortage(&self, ground: &Ground) -> Option<String> {
        let stuck = self.running == 0 && self.fits_bytes == 0;
        if self.pressure == Pressure::Nominal && !stuck {
            return None;
        }
        let effect = match self.pressure {
            Pressure::Nominal => "nothing is started",
            Pressure::Elevated => {
                "what runs goes on, and a job is started only while no other runs"
            }
            Pressure::Critical => {
                "nothing is started, and where that does not help the youngest job goes back to the \
                 queue"
            }
        };
        Some(format!(
            "memory pressure is {}: {}; {effect}; {}",
            self.pressure,
            self.compared(ground),
            self.remedy(ground)
        ))
    }

    /// What is less than what; or why that is not all.
    fn compared(&self, ground: &Ground) -> String {
        let place = match ground.limit_bytes {
            Some(limit) if self.is_within(ground) => {
                format!(" within memory.limit ({})", show(limit))
            }
            _ => String::new(),
        };
        let (free, keep) = (show(self.free_bytes), show(self.reserve_bytes));
        if self.free_bytes < self.reserve_bytes {
            return format!("{free} are free{place}, less than the {keep} that are to stay free");
        }
        let enough =
            format!("{free} are free{place}, enough beside the {keep} that are to stay free");
        if self.stalled {
            return format!("{enough}, but the system waits for memory or reads from swap");
        }
        if self.pressure == Pressure::Nominal {
            return format!(
                "{enough}, but {} of it are promised to jobs that end, {} to {} other worker(s) on \
                 this machine, or a job of theirs goes first",
                show(self.outstanding_bytes),
                show(self.elsewhere_bytes),
                self.other_workers
            );
        }
        format!(
            "{enough}, but they were not a moment ago: it has to last for {} s",
            CALM_DOWN.as_secs()
        )
    }

    /// Whether it is the operator's limit that leaves no more, not the machine.
    fn is_within(&self, ground: &Ground) -> bool {
        let left = |limit: u64| limit.saturating_sub(ground.used_bytes);
        ground.limit_bytes.is_some_and(|limit| left(limit) < ground.free_bytes)
    }

    fn remedy(&self, ground: &Ground) -> String {
        let reserve = show(ground.reserve_bytes);
        if self.is_within(ground) {
            return format!(
                "raise memory.limit (`tillroll config set memory.limit SIZE`; {} are free on the \
                 machine), or lower memory.reserve ({reserve})",
                show(ground.free_bytes)
            );
        }
        format!(
            "let the other programs on this machine give memory back, give it more, or lower \
             memory.reserve ({reserve}; `tillroll config set memory.reserve SIZE`)"
        )
    }
}

/// The same without a ledger: one more render is planned with less than there is.
pub(super) fn too_little(ground: &Ground, needed: u64) -> String {
    format!(
        "{} are free, less than the {} that one more render needs beside memory.reserve ({}); what \
         runs goes on, nothing is started; let the other programs on this machine give memory back, \
         or lower memory.reserve or memory.per_render in the file and restart the worker",
        show(ground.free_bytes),
        show(needed),
        show(ground.reserve_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn governed(pressure: Pressure, free: u64, keep: u64) -> Governed {
        Governed {
            pressure,
            stalled: false,
            free_bytes: free * MB,
            reserve_bytes: keep * MB,
            outstanding_bytes: 0,
            idle_bytes: 0,
            fits_bytes: 0,
            running: 1,
            waiting: 0,
            waits: Vec::new(),
            contexts: Vec::new(),
            oom_kills: None,
            fence_bytes: None,
            fence_kills: 0,
            other_workers: 0,
            elsewhere_bytes: 0,
            unshared: None,
        }
    }

    fn ground(limit: Option<u64>) -> Ground {
        Ground {
            limit_bytes: limit.map(|limit| limit * MB),
            reserve_bytes: 256 * MB,
            free_bytes: 3000 * MB,
            used_bytes: 450 * MB,
            ..Ground::default()
        }
    }

    #[test]
    fn what_is_said_to_be_less_is_less() {
        let said = |governed: Governed| governed.shortage(&ground(Some(500))).unwrap();
        let short = said(governed(Pressure::Elevated, 50, 90));
        assert!(
            short.contains("50 MB are free within memory.limit (500 MB), less than"),
            "{short}"
        );
        assert!(short.contains("raise memory.limit") && short.contains("3 GB are free"), "{short}");
        for calm in [
            said(governed(Pressure::Critical, 200, 90)),
            said(Governed { stalled: true, ..governed(Pressure::Elevated, 200, 90) }),
            said(Governed { running: 0, ..governed(Pressure::Nominal, 200, 90) }),
        ] {
            assert!(!calm.contains("less than") && calm.contains("enough beside"), "{calm}");
            assert!(calm.contains(", but "), "{calm}");
        }
        let moment = said(governed(Pressure::Elevated, 200, 90));
        assert!(moment.contains("a moment ago"), "{moment}");
    }

    #[test]
    fn the_remedy_is_for_what_binds() {
        let machine = governed(Pressure::Elevated, 50, 290).shortage(&ground(None)).unwrap();
        assert!(!machine.contains("memory.limit"), "{machine}");
        assert!(machine.contains("memory.reserve (256 MB"), "{machine}");
        let wide = governed(Pressure::Elevated, 50, 290).shortage(&ground(Some(9000))).unwrap();
        assert!(!wide.contains("memory.limit"), "{wide}");
        let plain = too_little(&ground(None), 350 * MB);
        assert!(plain.contains("350 MB") && plain.contains("lower memory.reserve"), "{plain}");
    }

    #[test]
    fn a_worker_that_lets_jobs_in_has_no_reason() {
        let busy = governed(Pressure::Nominal, 50, 90);
        assert_eq!(busy.shortage(&ground(None)), None, "jobs run: that is what memory is for");
        let idle = Governed { running: 0, fits_bytes: MB, ..governed(Pressure::Nominal, 500, 90) };
        assert_eq!(idle.shortage(&ground(None)), None);
    }
}
