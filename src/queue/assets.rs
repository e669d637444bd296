//! Assets of a tenant: stored once, for all its jobs.
//!
//! `P:assets:<tenant>` says what there is, `P:asset:<tenant>` holds the contents, and
//! the field `assets` of `P:tenant:<tenant>` is their version: a random word, new with
//! each change and gone with the last asset. A claim brings it along, so that a
//! worker knows without asking whether what it has in memory is still right. It is
//! no number: a Redis that was rolled back would count up to the same one again.
//!
//! Reading takes no transaction: the version is asked for first and last, in one
//! round trip, and what stands between two equal ones belongs together. An asset
//! whose content is not what its entry says is left out, and said.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{cmd, pipe};
use sha2::{Digest as _, Sha256};

use super::QueueError;
use super::fsck::starting_with;
use super::redis::{Inner, Queue};
use super::transitions::unexpected;
use crate::job::{Asset, MAX_ELEMENT_BYTES, assets, is_token};

/// No configuration allows more bytes in one asset: a job could not bring it either.
pub const MOST_BYTES: usize = MAX_ELEMENT_BYTES;
/// No configuration allows a tenant more assets.
pub const MOST_ASSETS: usize = 1000;
/// No configuration allows a tenant more bytes of assets: what a worker keeps in memory.
pub const MOST_TENANT_BYTES: usize = 32 << 20;

/// How often assets that change under our hands are read again.
const LOOKS: u32 = 6;
/// What is waited before the second look; it doubles. Whoever stores many does so at one go.
const PAUSE: Duration = Duration::from_millis(10);

/// An asset as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// Whose it is.
    pub tenant: String,
    /// Its name: a relative path.
    pub name: String,
    /// Its media type.
    #[serde(rename = "type")]
    pub media_type: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
    /// When it was stored: milliseconds of Redis' clock.
    pub at_ms: u64,
}

/// What became of an asset that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Added,
    /// It took the place of another of its name.
    Replaced,
    /// A limit; nothing was changed.
    Refused {
        /// Which: `asset_bytes`, `tenant_assets` or `tenant_asset_bytes`.
        limit: &'static str,
        /// What there would be.
        found: u64,
        /// What is allowed.
        allowed: u64,
    },
}

/// A tenant's assets as a worker reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// Their version; empty where there are none.
    pub version: String,
    /// Them, by name.
    pub assets: Vec<Asset>,
    /// Names of those that cannot be served: content and entry do not belong together.
    pub damaged: Vec<String>,
}

impl Queue {
    /// Stores an asset for all jobs of a tenant, in the place of one of the same name.
    ///
    /// # Errors
    /// Where Redis is away or full; asking again is safe.
    pub async fn put_asset(&self, tenant: &str, asset: &Asset) -> Result<Put, QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let digest = hex(&Sha256::digest(&asset.bytes));
        let mut call = scripts.asset_put.call();
        call.key(keys.assets(tenant))
            .key(keys.asset(tenant))
            .key(keys.tenant(tenant))
            .arg(keys.prefix())
            .arg(tenant)
            .arg(&asset.name)
            .arg(format!("{} {} {digest}", asset.media_type, asset.bytes.len()))
            .arg(asset.bytes.len())
            .arg(version())
            .arg(&asset.bytes[..])
            .arg(MOST_BYTES)
            .arg(MOST_ASSETS)
            .arg(MOST_TENANT_BYTES);
        let (outcome, found, allowed): (String, u64, u64) =
            call.invoke(&mut self.documents()).await?;
        let limit = ["asset_bytes", "tenant_assets", "tenant_asset_bytes"];
        match (outcome.as_str(), limit.into_iter().find(|limit| *limit == outcome)) {
            ("added", _) => Ok(Put::Added),
            ("replaced", _) => Ok(Put::Replaced),
            (_, Some(limit)) => Ok(Put::Refused { limit, found, allowed }),
            (other, None) => Err(unexpected("asset_put", other)),
        }
    }

    /// Takes assets of a tenant away; the names of those that were there.
    ///
    /// # Errors
    /// Where Redis is away; asking again is safe.
    pub async fn remove_assets(
        &self,
        tenant: &str,
        names: &[String],
    ) -> Result<Vec<String>, QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let mut removed = Vec::new();
        for page in names.chunks(MOST_ASSETS) {
            let mut call = scripts.asset_remove.call();
            call.key(keys.assets(tenant))
                .key(keys.asset(tenant))
                .key(keys.tenant(tenant))
                .arg(keys.prefix())
                .arg(tenant)
                .arg(version());
            for name in page {
                call.arg(name);
            }
            let page: Vec<String> = call.invoke(&mut self.commands()).await?;
            removed.extend(page);
        }
        Ok(removed)
    }

    /// The assets of one tenant, by name, without their contents.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn list_assets(&self, tenant: &str) -> Result<Vec<Stored>, QueueError> {
        let mut read = cmd("HGETALL");
        read.arg(self.keys().assets(tenant));
        let lines: Vec<(String, String)> = read.query_async(&mut self.commands()).await?;
        let mut found: Vec<_> =
            lines.into_iter().filter_map(|(name, line)| stored(tenant, name, &line)).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// The tenants that have assets, by name.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn tenants_with_assets(&self) -> Result<Vec<String>, QueueError> {
        let pattern = starting_with(&format!("{}assets:", self.keys().prefix()));
        let (mut cursor, mut found) = (0, std::collections::BTreeSet::new());
        loop {
            let (next, page) = self.scan(cursor, &pattern).await?;
            let tenants = page.iter().filter_map(|key| key.strip_prefix("assets:"));
            found.extend(tenants.filter(|tenant| is_token(tenant, 64)).map(str::to_owned));
            cursor = next;
            if cursor == 0 {
                return Ok(found.into_iter().collect());
            }
        }
    }

    /// A tenant's assets with their contents, for a worker.
    ///
    /// # Errors
    /// Where Redis is away, or they change all the time.
    pub async fn stock(&self, tenant: &str) -> Result<Stock, QueueError> {
        type Version = Option<String>;
        type Read = (Version, Vec<(String, String)>, HashMap<String, Vec<u8>>, Version);
        let keys = self.keys();
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(look - 1)).await;
            }
            let mut read = pipe();
            read.cmd("HGET").arg(keys.tenant(tenant)).arg("assets");
            read.cmd("HGETALL").arg(keys.assets(tenant));
            read.cmd("HGETALL").arg(keys.asset(tenant));
            read.cmd("HGET").arg(keys.tenant(tenant)).arg("assets");
            let (before, lines, contents, after): Read =
                read.query_async(&mut self.documents()).await?;
            if before == after {
                return Ok(stock(tenant, before.unwrap_or_default(), lines, contents));
            }
        }
        Err(unexpected("asset", "the assets change again and again"))
    }
}

fn stock(
    tenant: &str,
    version: String,
    lines: Vec<(String, String)>,
    mut contents: HashMap<String, Vec<u8>>,
) -> Stock {
    let mut stock = Stock { version, ..Stock::default() };
    for (name, line) in lines {
        let bytes = contents.remove(&name).unwrap_or_default();
        let media_type = stored(tenant, name.clone(), &line)
            .filter(|entry| hex(&Sha256::digest(&bytes)) == entry.sha256)
            .and_then(|entry| assets::known_type(&entry.media_type));
        match media_type {
            Some(media_type) => {
                stock.assets.push(Asset { name, media_type, bytes: bytes.into() });
            }
            None => stock.damaged.push(name),
        }
    }
    // Redis keeps them in no order of its own; a document gets them in one.
    stock.assets.sort_by(|one, other| one.name.cmp(&other.name));
    stock.damaged.sort();
    stock
}

/// An entry: `type bytes digest time`.
fn stored(tenant: &str, name: String, line: &str) -> Option<Stored> {
    let mut parts = line.split(' ');
    let (media_type, bytes, sha256, at) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Stored {
        tenant: tenant.to_owned(),
        name,
        media_type: media_type.to_owned(),
        bytes: bytes.parse().ok()?,
        sha256: sha256.to_owned(),
        at_ms: at.parse().ok()?,
    })
}

/// A word that was never there before.
pub(super) fn version() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
