//! What a Redis' `INFO` says.

use std::collections::BTreeMap;

use redis::Connection;

/// What Redis has counted so far.
pub(crate) struct Info {
    fields: BTreeMap<String, String>,
}

impl Info {
    pub(crate) fn read(redis: &mut Connection) -> Self {
        let text: String = redis::cmd("INFO").arg("everything").query(redis).unwrap();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self { fields: fields.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }

    pub(crate) fn number(&self, field: &str) -> f64 {
        self.fields.get(field).map_or(0.0, |value| value.parse().unwrap())
    }

    /// `calls` and `usec` of each command, those inside scripts included.
    fn commands(&self) -> impl Iterator<Item = (&str, f64, f64)> {
        self.fields.iter().filter_map(|(field, value)| {
            let part = |name: &str| {
                let part = value.split(',').find_map(|part| part.strip_prefix(name));
                part.and_then(|number| number.strip_prefix('=')?.parse().ok()).unwrap_or(0.0)
            };
            Some((field.strip_prefix("cmdstat_")?, part("calls"), part("usec")))
        })
    }

    /// How often `command` was called.
    pub(crate) fn calls(&self, command: &str) -> f64 {
        self.commands().find(|(name, ..)| *name == command).map_or(0.0, |(_, calls, _)| calls)
    }

    /// Microseconds that Redis spent on `command`.
    pub(crate) fn micros(&self, command: &str) -> f64 {
        self.commands().find(|(name, ..)| *name == command).map_or(0.0, |(_, _, usec)| usec)
    }

    /// Bytes that hold keys and values: without scripts, and what is on its way from and
    /// to connections and the disk.
    pub(crate) fn data(&self) -> f64 {
        let passing = ["mem_clients_normal", "mem_aof_buffer", "used_memory_scripts"];
        let passing = passing.iter().map(|field| self.number(field)).sum::<f64>();
        self.number("used_memory") - passing
    }

    /// Seconds of CPU that Redis took.
    pub(crate) fn cpu(&self) -> f64 {
        self.number("used_cpu_sys_main_thread") + self.number("used_cpu_user_main_thread")
    }

    /// Times that Redis read a request, or several sent at once: round trips, as long
    /// as requests are small.
    pub(crate) fn reads(&self) -> f64 {
        self.number("total_reads_processed")
    }

    /// What was called more often than in `before`, by `per`, the most frequent first.
    pub(crate) fn since(&self, before: &Self, per: f64) -> String {
        let mut more: Vec<(String, f64)> = self
            .commands()
            .map(|(name, calls, _)| (name.to_owned(), (calls - before.calls(name)) / per))
            .filter(|(_, calls)| *calls >= 0.05)
            .collect();
        more.sort_by(|a, b| b.1.total_cmp(&a.1));
        let texts: Vec<String> = more.iter().map(|(name, n)| format!("{name} {n:.1}")).collect();
        texts.join(", ")
    }
}
