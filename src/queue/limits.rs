//! The limits of a queue: in jobs and in bytes.
//!
//! A worker brings its own, from its configuration; what an operator sets for
//! the queue (`tillroll config set limits.…`) is kept in Redis and wins, for
//! all workers and across restarts.

/// How much a queue takes. 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Living jobs.
    pub jobs: u64,
    /// Bytes of documents, of results that wait for their producers, and of dead letters together.
    pub bytes: u64,
    /// Bytes of results that wait for their producers; above that, nothing is claimed.
    pub held: u64,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of the documents of dead letters.
    pub dead_bytes: u64,
    /// Living jobs of one tenant.
    pub tenant_jobs: u64,
    /// Bytes of documents of one tenant's living jobs.
    pub tenant_bytes: u64,
    /// Jobs of one tenant that run at once.
    pub tenant_running: u64,
    /// Bytes of one asset of a tenant.
    pub asset_bytes: u64,
    /// Assets of one tenant.
    pub tenant_assets: u64,
    /// Bytes of one tenant's assets together.
    pub tenant_asset_bytes: u64,
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// The names of the limits, in the order of [`Limits::fields`].
pub const NAMES: [&str; 11] = [
    "jobs",
    "bytes",
    "held",
    "dead",
    "dead_bytes",
    "tenant_jobs",
    "tenant_bytes",
    "tenant_running",
    "asset_bytes",
    "tenant_assets",
    "tenant_asset_bytes",
];

impl Limits {
    /// What is taken for `auto` on a Redis with this `maxmemory` (0: none): for
    /// everything 1 GiB or half of it, for unread results 256 MiB or a quarter
    /// of that, for dead letters a quarter.
    #[must_use]
    pub fn auto_bytes(maxmemory: u64) -> (u64, u64, u64) {
        let all = if maxmemory == 0 { GIB } else { GIB.min(maxmemory / 2) };
        (all, (all / 4).min(256 * MIB), all / 4)
    }

    /// Name and value of each.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, u64); 11] {
        let values = [
            self.jobs,
            self.bytes,
            self.held,
            self.dead,
            self.dead_bytes,
            self.tenant_jobs,
            self.tenant_bytes,
            self.tenant_running,
            self.asset_bytes,
            self.tenant_assets,
            self.tenant_asset_bytes,
        ];
        std::array::from_fn(|i| (NAMES[i], values[i]))
    }
}

/// Limits as they are configured: bytes may follow what Redis may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// See [`Limits::jobs`].
    pub jobs: u64,
    /// See [`Limits::bytes`]; `None`: see [`Limits::auto_bytes`].
    pub bytes: Option<u64>,
    /// See [`Limits::held`]; `None`: see [`Limits::auto_bytes`].
    pub held: Option<u64>,
    /// See [`Limits::dead`].
    pub dead: u64,
    /// See [`Limits::dead_bytes`]; `None`: see [`Limits::auto_bytes`].
    pub dead_bytes: Option<u64>,
    /// See [`Limits::tenant_jobs`].
    pub tenant_jobs: u64,
    /// See [`Limits::tenant_bytes`].
    pub tenant_bytes: u64,
    /// See [`Limits::tenant_running`].
    pub tenant_running: u64,
    /// See [`Limits::asset_bytes`].
    pub asset_bytes: u64,
    /// See [`Limits::tenant_assets`].
    pub tenant_assets: u64,
    /// See [`Limits::tenant_asset_bytes`].
    pub tenant_asset_bytes: u64,
}

impl LimitSettings {
    /// The limits on a Redis with this `maxmemory` (0: none).
    #[must_use]
    pub fn on(&self, maxmemory: u64) -> Limits {
        let (bytes, held, dead_bytes) = Limits::auto_bytes(maxmemory);
        Limits {
            jobs: self.jobs,
            bytes: self.bytes.unwrap_or(bytes),
            held: self.held.unwrap_or(held),
            dead: self.dead,
            dead_bytes: self.dead_bytes.unwrap_or(dead_bytes),
            tenant_jobs: self.tenant_jobs,
            tenant_bytes: self.tenant_bytes,
            tenant_running: self.tenant_running,
            asset_bytes: self.asset_bytes,
            tenant_assets: self.tenant_assets,
            tenant_asset_bytes: self.tenant_asset_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_what_redis_may_hold() {
        assert_eq!(Limits::auto_bytes(0), (GIB, 256 * MIB, 256 * MIB));
        assert_eq!(Limits::auto_bytes(64 * MIB), (32 * MIB, 8 * MIB, 8 * MIB));
        let own = LimitSettings { held: Some(7), ..LimitSettings::default() };
        assert_eq!(own.on(64 * MIB).held, 7);
        assert_eq!(own.on(64 * MIB).bytes, 32 * MIB);
    }
}
