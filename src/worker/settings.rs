//! How a worker behaves, and what of it can be changed while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// A duration that may be changed while others read it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared(Arc<AtomicU64>);

impl Shared {
    /// Begins with `duration`; milliseconds count.
    #[must_use]
    pub fn new(duration: Duration) -> Self {
        let shared = Self(Arc::default());
        shared.set(duration);
        shared
    }

    /// The duration now.
    #[must_use]
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// Changes it for all who read it from now on.
    pub fn set(&self, duration: Duration) {
        self.0.store(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// One setting of a running worker, as the configuration would have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tuned {
    /// Its key.
    pub key: &'static str,
    /// Its value now.
    pub value: String,
    /// What the worker started with.
    pub configured: String,
}

/// Changes settings of a running worker.
pub trait Tune: Send + Sync {
    /// Changes one, by the key and the value of the configuration; `default` is what
    /// the worker started with.
    ///
    /// # Errors
    /// What is wrong, with the remedy, where it cannot be.
    fn set(&self, key: &str, value: &str) -> Result<(), String>;

    /// Those that can be changed, as they are.
    fn settings(&self) -> Vec<Tuned>;
}

/// Nothing can be changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fixed;

impl Tune for Fixed {
    fn set(&self, key: &str, _value: &str) -> Result<(), String> {
        Err(format!("{key} is fixed in this worker"))
    }

    fn settings(&self) -> Vec<Tuned> {
        Vec::new()
    }
}

/// How a worker behaves.
#[derive(Clone)]
pub struct Settings {
    /// How long a lease holds without a heartbeat.
    pub lease: Duration,
    /// How often leases are renewed.
    pub heartbeat: Duration,
    /// How long what runs may take to finish once the worker stops.
    pub drain: Shared,
    /// No job may render for longer.
    pub max_timeout: Duration,
    /// What the control channel may change.
    pub tune: Arc<dyn Tune>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("lease", &self.lease)
            .field("heartbeat", &self.heartbeat)
            .field("drain", &self.drain)
            .field("max_timeout", &self.max_timeout)
            .finish_non_exhaustive()
    }
}
