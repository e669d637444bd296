//! What can be set, and by whom it was set.
//!
//! Four layers, the first that names a key wins: a flag, the environment
//! (`TILLROLL_<SECTION>__<KEY>`, and `REDIS_URL` below that), the file given with
//! `--config`, and `worker-config/default.toml`, which is compiled in and is the
//! only place where defaults stand. Every mistake in every layer is reported, all
//! at once, with the key, where it came from and what would be right.
//!
//! Adding a key is one line in `keys!` below, one entry in `default.toml` with its
//! unit and reason. The environment is passed in, so that a test depends on
//! nothing; no file is read but the one that is named.

pub mod error;
pub mod load;
mod redis;
pub mod units;
pub mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigError, ConfigErrors};
pub use load::{Entry, Given, Loaded, Source, load};
use values::{
    ByteLimit, Concurrency, Count, FenceKind, GovernorKind, Isolation, Jail, LogFormat, LogLevel,
    Memory, Nice, PemFile, QueueName, RedisUrl, RendererKind, Scripts, Setting, Size, Spares,
};

/// The defaults, with units and reasons.
pub const DEFAULTS: &str = include_str!("../../worker-config/default.toml");

/// One key: all that the layers need to know of it.
#[derive(Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// Never shown as it is.
    pub secret: bool,
    /// What a right value looks like.
    pub expects: fn() -> String,
    /// Reads a value and shows it as `config show` does; or says what is wrong.
    pub check: fn(&str) -> Result<String, String>,
}

impl Key {
    /// The variable that sets this key.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TILLROLL_{}", self.name.replace('.', "__").to_uppercase())
    }
}

/// The table of keys: makes [`Config`], its sections, [`KEYS`], and the function
/// that builds the one from values for the other.
macro_rules! keys {
    ($($(#[$about:meta])* $section:ident: $Section:ident {
        $($(#[$doc:meta])* $key:ident: $type:ty $(, $secret:ident)?;)+
    })+) => {
        /// The configuration in force.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $($(#[$about])* pub $section: $Section,)+
        }

        $($(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Section {
            $($(#[$doc])* pub $key: $type,)+
        })+

        /// Every key there is, in the order in which they are shown.
        pub static KEYS: &[Key] = &[
            $($(Key {
                name: concat!(stringify!($section), ".", stringify!($key)),
                secret: keys!(@secret $($secret)?),
                expects: <$type as Setting>::expects,
                check: |text| <$type as Setting>::parse(text).map(|value| value.show()),
            },)+)+
        ];

        impl Config {
            /// Builds it from the text that `text_of` gives for each key; `None` if
            /// one has no text, or no right one.
            fn build<'a>(text_of: impl Fn(&'static str) -> Option<&'a str>) -> Option<Self> {
                Some(Self { $($section: $Section { $($key: {
                    let name = concat!(stringify!($section), ".", stringify!($key));
                    <$type as Setting>::parse(text_of(name)?).ok()?
                },)+ },)+ })
            }
        }
    };
    (@secret secret) => { true };
    (@secret) => { false };
}

keys! {
    /// Where the queue lives.
    redis: Redis {
        /// `None` where nobody named one: the verbs that need it refuse.
        url: Option<RedisUrl>, secret;
        /// Authorities that may sign Redis' certificate; `None`: the system's.
        ca: Option<PemFile>;
        /// Our certificate, where Redis asks for one.
        cert: Option<PemFile>;
        /// Its private key.
        key: Option<PemFile>;
        /// How much an embedded Redis may hold.
        maxmemory: Size;
    }
    /// The queue.
    queue: Queue {
        /// Part of every key in Redis.
        name: QueueName;
        /// How long a claimed job stays claimed without a sign of life.
        lease: Duration;
        /// How often leases are renewed.
        heartbeat: Duration;
    }
    /// How much the queue takes; what an operator sets in Redis wins.
    limits: Limits {
        /// Living jobs.
        jobs: Count;
        /// Documents, results that wait for their producers, and dead letters together.
        bytes: ByteLimit;
        /// Results that wait for their producers.
        held: ByteLimit;
        /// Dead letters.
        dead: Count;
        /// Documents of dead letters.
        dead_bytes: ByteLimit;
        /// Living jobs of one tenant.
        tenant_jobs: Count;
        /// Documents of one tenant's living jobs.
        tenant_bytes: ByteLimit;
        /// Jobs of one tenant that run at once.
        tenant_running: Count;
        /// One asset of a tenant.
        asset_bytes: ByteLimit;
        /// Assets of one tenant.
        tenant_assets: Count;
        /// One tenant's assets together.
        tenant_asset_bytes: ByteLimit;
    }
    /// The worker.
    worker: Worker {
        /// How many documents render at once, if memory allows.
        concurrency: Concurrency;
    }
    /// The memory budget.
    memory: MemoryBudget {
        /// Whether each render is admitted by what its document may take.
        governor: GovernorKind;
        /// Whether each browser gets a control group of its own.
        fence: FenceKind;
        /// What the worker and Chromium may take together; `None`: all that is free.
        limit: Option<Memory>;
        /// What is never planned for.
        reserve: Memory;
        /// What one more render is expected to take.
        per_render: Size;
    }
    /// Chromium.
    renderer: Renderer {
        /// What renders.
        kind: RendererKind;
        /// The program; `None`: search for it.
        path: Option<PathBuf>;
        /// What a document is locked into.
        jail: Jail;
        /// Who shares a renderer process.
        isolation: Isolation;
        /// Whether a job may have its document's scripts run.
        scripts: Scripts;
        /// How much time scripts see pass.
        script_time: Duration;
        /// A context is closed after so many jobs.
        recycle_jobs: Count;
        /// A context is closed after so long.
        recycle_age: Duration;
        /// A context whose renderer holds more after a job is closed.
        recycle_memory: Size;
        /// How often the engine's and the fonts' files are looked at.
        look_every: Duration;
        /// Contexts made ready ahead, while nothing is rendered.
        spares: Spares;
        /// Niceness of Chromium's processes.
        nice: Nice;
        /// The longest that one render may take.
        timeout: Duration;
        /// The most tags of one document.
        max_nodes: Count;
        /// The most elements within each other.
        max_depth: Count;
        /// The most pixels of a document's images together.
        max_pixels: Count;
        /// The most pages of one PDF.
        max_pages: Count;
        /// The largest PDF.
        max_pdf: Size;
    }
    /// Stopping.
    drain: Drain {
        /// How long renders that have begun may go on.
        timeout: Duration;
    }
    /// Health, metrics, status.
    http: Http {
        /// Address and port; `None`: off.
        listen: Option<SocketAddr>;
    }
    /// Files that outlive a run.
    state: State {
        /// The directory, absolute. Not made yet.
        dir: PathBuf;
    }
    /// Logs.
    log: Log {
        /// The least severe line that is written.
        level: LogLevel;
        /// How lines look.
        format: LogFormat;
    }
}

/// The key called `name`.
#[must_use]
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// What is wrong between keys that are right each by itself: the key to blame,
/// and why.
fn contradictions(config: &Config) -> Vec<(&'static str, String)> {
    /// Below this, a few large documents fill it.
    const SMALLEST_REDIS: u64 = 32_000_000;
    let mut found = Vec::new();
    if config.redis.maxmemory.bytes() < SMALLEST_REDIS {
        let least = units::show_bytes(SMALLEST_REDIS);
        found.push((
            "redis.maxmemory",
            format!("it is less than {least}, four of the largest documents"),
        ));
    }
    let Redis { url, ca, cert, key, .. } = &config.redis;
    let files = [("redis.ca", ca), ("redis.cert", cert), ("redis.key", key)];
    let unencrypted = url.as_ref().is_some_and(|url| !url.is_tls() && !url.is_embedded());
    for (name, _) in files.iter().filter(|(_, file)| unencrypted && file.is_some()) {
        found.push((
            *name,
            "redis.url is not rediss://, so nothing would be encrypted or checked".to_owned(),
        ));
    }
    for ((name, file), (other, its_file)) in [(files[1], files[2]), (files[2], files[1])] {
        if file.is_some() && its_file.is_none() {
            found.push((name, format!("{other} is not set, and each needs the other")));
        }
    }
    let Queue { lease, heartbeat, .. } = config.queue;
    if heartbeat * 3 > lease {
        let lease = units::show_duration(lease);
        found.push((
            "queue.heartbeat",
            format!("it is more than a third of queue.lease ({lease}), so two failed renewals would lose a lease"),
        ));
    }
    if let (Some(Memory::Bytes(limit)), Memory::Bytes(reserve)) =
        (config.memory.limit, config.memory.reserve)
        && let Some(why) = does_not_fit(limit, reserve, config.memory.per_render.bytes())
    {
        found.push(("memory.limit", why));
    }
    found
}

/// Why a `memory.limit` cannot be with this `memory.reserve` and `memory.per_render`, all in
/// bytes. Shares are not known before the machine is.
#[must_use]
pub fn does_not_fit(limit: u64, reserve: u64, per_render: u64) -> Option<String> {
    (reserve.saturating_add(per_render) > limit).then(|| {
        format!(
            "memory.reserve ({}) and one render ({}) do not fit in it",
            units::show_bytes(reserve),
            units::show_bytes(per_render)
        )
    })
}
