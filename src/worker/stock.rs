//! Assets of tenants in this worker's memory, so that a job does not wait for them.
//!
//! ```text
//! claim brings no version ─▶ nothing: the tenant has no assets
//! claim brings a version ─┬─ the one in memory ─▶ served from there
//!                         └─ another, or none ──▶ read from Redis, kept
//! ```
//!
//! A fixed share of the worker's memory: [`MOST_BYTES`] of contents at most, the least
//! recently used tenant's go first. What the worker takes is measured, so the
//! governor's ledger counts them like everything else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::job::{Asset, Job, shared};
use crate::queue::assets::MOST_TENANT_BYTES;
use crate::queue::{Claimed, Queue, QueueError};
use crate::renderer;

/// Bytes of contents that are kept: any one tenant's assets fit.
const MOST_BYTES: usize = MOST_TENANT_BYTES;
/// Tenants whose assets are kept.
const MOST_TENANTS: usize = 1024;

/// See the module. Cheap to clone; clones share what is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelves {
    kept: Arc<Mutex<Kept>>,
}

impl Shelves {
    /// The job with those of its tenant's assets that its document may ask for.
    ///
    /// # Errors
    /// Where they must be read from Redis, and that is away.
    pub(super) async fn stocked(
        &self,
        queue: &Queue,
        claimed: &Claimed,
        mut job: Arc<Job>,
    ) -> Result<Arc<Job>, QueueError> {
        let Some(version) = &claimed.assets else { return Ok(job) };
        let scripts = job.options.script.is_some();
        if job.assets.is_empty() && !scripts && !renderer::loads_anything(&job.html) {
            return Ok(job);
        }
        let tenant = job.name.tenant();
        let assets = match self.get(tenant, version) {
            Some(assets) => assets,
            None => self.read(queue, tenant).await?,
        };
        let brought = job.assets.len();
        let mut all = job.assets.clone();
        shared::share(&job.html, scripts, &mut all, &assets);
        if all.len() > brought {
            Arc::make_mut(&mut job).assets = all;
        }
        Ok(job)
    }

    async fn read(&self, queue: &Queue, tenant: &str) -> Result<Arc<[Asset]>, QueueError> {
        let stock = queue.stock(tenant).await?;
        if !stock.damaged.is_empty() {
            tracing::warn!(
                tenant,
                assets = %stock.damaged.join(", "),
                "assets are damaged in Redis and not served: put them again, or run `tillroll queue fsck`"
            );
        }
        let assets: Arc<[Asset]> = stock.assets.into();
        self.lock(|kept| kept.put(tenant, stock.version, Arc::clone(&assets)));
        Ok(assets)
    }

    fn get(&self, tenant: &str, version: &str) -> Option<Arc<[Asset]>> {
        self.lock(|kept| kept.get(tenant, version))
    }

    fn lock<T>(&self, what: impl FnOnce(&mut Kept) -> T) -> T {
        // Whoever panicked left it whole: it is changed at one stroke.
        what(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is kept. Pure.
#[derive(Debug, Default)]
struct Kept {
    tenants: HashMap<String, Shelf>,
    bytes: usize,
    /// Grows with each use.
    clock: u64,
}

#[derive(Debug)]
struct Shelf {
    version: String,
    assets: Arc<[Asset]>,
    bytes: usize,
    used: u64,
}

impl Kept {
    fn get(&mut self, tenant: &str, version: &str) -> Option<Arc<[Asset]>> {
        self.clock += 1;
        let shelf = self.tenants.get_mut(tenant).filter(|shelf| shelf.version == version)?;
        shelf.used = self.clock;
        Some(Arc::clone(&shelf.assets))
    }

    fn put(&mut self, tenant: &str, version: String, assets: Arc<[Asset]>) {
        self.drop_shelf(tenant);
        let bytes = assets.iter().map(|asset| asset.bytes.len() + asset.name.len()).sum();
        if version.is_empty() || bytes > MOST_BYTES {
            return;
        }
        while self.bytes + bytes > MOST_BYTES || self.tenants.len() >= MOST_TENANTS {
            let oldest = self.tenants.iter().min_by_key(|(_, shelf)| shelf.used);
            let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) else { break };
            self.drop_shelf(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        let shelf = Shelf { version, assets, bytes, used: self.clock };
        self.tenants.insert(tenant.to_owned(), shelf);
    }

    fn drop_shelf(&mut self, tenant: &str) {
        if let Some(shelf) = self.tenants.remove(tenant) {
            self.bytes -= shelf.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assets(bytes: usize) -> Arc<[Asset]> {
        let bytes = vec![b'x'; bytes - 1].into();
        [Asset { name: "a".to_owned(), media_type: "image/png", bytes }].into()
    }

    #[test]
    fn only_the_version_that_was_claimed_is_served() {
        let mut kept = Kept::default();
        kept.put("acme", "1".to_owned(), assets(10));
        assert!(kept.get("acme", "2").is_none() && kept.get("zeta", "1").is_none());
        assert_eq!(kept.get("acme", "1").unwrap().len(), 1);
        kept.put("acme", "2".to_owned(), assets(20));
        assert!(kept.get("acme", "1").is_none() && kept.get("acme", "2").is_some());
        assert_eq!(kept.bytes, 20);
        // The last one was removed while it was read.
        kept.put("acme", String::new(), Arc::default());
        assert_eq!((kept.bytes, kept.tenants.len()), (0, 0));
    }

    #[test]
    fn the_least_recently_used_make_room_and_the_bound_holds() {
        let mut kept = Kept::default();
        let third = MOST_BYTES / 3;
        for tenant in ["a", "b", "c"] {
            kept.put(tenant, "1".to_owned(), assets(third));
        }
        assert!(kept.get("a", "1").is_some());
        kept.put("d", "1".to_owned(), assets(third));
        assert!(kept.get("b", "1").is_none(), "it was used before the others");
        for tenant in ["a", "c", "d"] {
            assert!(kept.get(tenant, "1").is_some(), "{tenant}");
        }
        kept.put("e", "1".to_owned(), assets(MOST_BYTES));
        assert_eq!((kept.bytes, kept.tenants.len()), (MOST_BYTES, 1));
        kept.put("f", "1".to_owned(), assets(MOST_BYTES + 1));
        assert!(kept.get("f", "1").is_none() && kept.get("e", "1").is_some());
        for n in 0..MOST_TENANTS + 10 {
            kept.put(&format!("t{n}"), "1".to_owned(), assets(8));
        }
        assert_eq!((kept.bytes, kept.tenants.len()), (8 * MOST_TENANTS, MOST_TENANTS));
    }
}
