//! Connecting: from an [`Address`] to connections that are ready for commands.
//!
//! A worker has four sorts. One multiplexed connection carries the scripts and
//! reconnects by itself; another does the same for documents and large results,
//! so that no heartbeat waits behind them; a small pool is for clients, some of
//! whose calls block; each blocking read has a connection to itself, since it
//! would stall whatever shares it.
//!
//! What can go wrong, and who notices:
//!
//! * Redis is killed: the connections break, calls fail at once. The shared one
//!   is made again with growing pauses, the readers pause in the same way.
//! * Redis is silent with TCP still up (stopped, hung): every call has a time-out.
//! * The machine or the network is gone: the kernel gives an unanswered
//!   connection up after [`UNANSWERED`]; idle ones are probed. Without that, what
//!   is sent would wait for a quarter of an hour.
//! * Redis was demoted, or is silent for long: the shared connections are given up
//!   and made anew ([`Connections::renew`]), which may lead to another Redis.
//! * TLS fails: told at the first connection, with what is wrong, see
//!   [`QueueError`]. Certificates are always checked, names too.
//!
//! Nothing here shows a password: [`Address`] prints its URL redacted, and the
//! library's errors do not hold it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::{
    ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection,
};
use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisError, TlsCertificates, cmd,
};
use deadpool_redis::{Hook, HookError, Manager, Pool, PoolError, Runtime};

use super::{QueueError, TlsTrouble};
use crate::config::values::redact_url;

/// What was sent and not acknowledged for so long ends its connection.
const UNANSWERED: Duration = Duration::from_secs(10);
/// An idle connection is probed after this, and then as often.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The shared connection, lost: so many tries with growing pauses before the call fails.
const RECONNECTS: usize = 2;
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Connections for bodies and commands' own round trips.
const POOLED: usize = 8;

/// The files that TLS needs beyond what the system has; all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate (and its chain), where Redis asks for one.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// Where a Redis is and how to recognise it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: String,
    tls: TlsFiles,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, tls } = self;
        f.debug_struct("Address").field("url", &redact_url(url)).field("tls", tls).finish()
    }
}

impl<T: Into<String>> From<T> for Address {
    fn from(url: T) -> Self {
        Self { url: url.into(), tls: TlsFiles::default() }
    }
}

impl Address {
    /// `redis://[[user]:password@]host[:port][/database]`, `rediss://…` for TLS, or
    /// `unix:///path[?user=…&pass=…&db=…]`; the files matter for TLS only.
    #[must_use]
    pub fn new(url: impl Into<String>, tls: TlsFiles) -> Self {
        Self { url: url.into(), tls }
    }

    fn is_tls(&self) -> bool {
        self.url.starts_with("rediss://")
    }

    /// How to connect, with the files read.
    fn info(&self) -> Result<ConnectionInfo, QueueError> {
        let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(UNANSWERED);
        let info = self.url.as_str().into_connection_info().map_err(QueueError::Url)?;
        // Not CLIENT SETINFO: newer than 6.0, and one permission less to give.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
        if !self.is_tls() {
            return Ok(info);
        }
        if self.url.contains('#') {
            return Err(QueueError::Url(RedisError::from((
                ErrorKind::InvalidClientConfig,
                "a certificate is always checked: there is no #insecure, set redis.ca instead",
            ))));
        }
        // An error means that this process has one already: that one is as good.
        rustls::crypto::ring::default_provider().install_default().unwrap_or(());
        let certificates = self.certificates()?;
        let client = Client::build_with_tls(info, certificates)
            .map_err(|source| QueueError::Tls { why: TlsTrouble::Files, source })?;
        Ok(client.get_connection_info().clone())
    }

    fn certificates(&self) -> Result<TlsCertificates, QueueError> {
        let TlsFiles { ca, cert, key } = &self.tls;
        let root_cert = ca.as_deref().map(|path| pem(CA, path)).transpose()?;
        let client_tls = match (cert, key) {
            (Some(cert), Some(key)) => {
                Some(ClientTlsConfig { client_cert: pem(CERT, cert)?, client_key: pem(KEY, key)? })
            }
            (None, None) => None,
            (Some(path), None) => return Err(alone(CERT, path, "redis.key is not set")),
            (None, Some(path)) => return Err(alone(KEY, path, "redis.cert is not set")),
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }

    /// A client that makes connections to it.
    pub(crate) fn client(&self) -> Result<Client, QueueError> {
        Client::open(self.info()?).map_err(QueueError::Url)
    }

    /// One connection whose calls fail after `response`.
    pub(crate) async fn connect(
        &self,
        connecting: Duration,
        response: Duration,
    ) -> Result<MultiplexedConnection, QueueError> {
        let client = self.client()?;
        let settings = settings(connecting, response);
        let made = client.get_multiplexed_async_connection_with_config(&settings).await;
        let mut connection = made.map_err(|error| self.failed(error))?;
        self.greet(&mut connection).await?;
        Ok(connection)
    }

    /// With TLS 1.3 a server refuses a client only after the handshake.
    async fn greet(&self, connection: &mut impl ConnectionLike) -> Result<(), QueueError> {
        if self.is_tls() {
            ping(connection).await.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// A pool of at most `size` connections, made when first needed; `wait` for a
    /// free one is without an end where it is `None`.
    pub(super) fn pool(
        &self,
        size: usize,
        connecting: Duration,
        response: Duration,
        wait: Option<Duration>,
    ) -> Result<Bodies, QueueError> {
        let manager = Manager::new_with_config(self.info()?, settings(connecting, response))
            .map_err(QueueError::Url)?;
        let mut pool =
            Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1).wait_timeout(wait);
        if self.is_tls() {
            pool = pool.post_create(Hook::async_fn(|connection, _| {
                Box::pin(async move { ping(connection).await.map_err(HookError::Backend) })
            }));
        }
        let pool = pool.build().map_err(|error| QueueError::Unexpected {
            what: "the pool",
            answer: error.to_string(),
        })?;
        Ok(Bodies { pool, address: self.clone() })
    }

    /// A failure to connect. A port without TLS may leave a handshake unanswered;
    /// whoever wants another certificate hangs up.
    fn failed(&self, error: RedisError) -> QueueError {
        let dropped = error.is_connection_dropped() && !error.is_connection_refusal();
        match QueueError::from(error) {
            QueueError::Unavailable(source) if self.is_tls() && source.is_timeout() => {
                QueueError::Tls { why: TlsTrouble::Silent, source }
            }
            QueueError::Unavailable(source) if self.is_tls() && dropped => {
                QueueError::Tls { why: TlsTrouble::Closed, source }
            }
            // The URL has been read: what is left are the parameters of TLS.
            QueueError::Url(source)
                if self.is_tls() && source.kind() == ErrorKind::InvalidClientConfig =>
            {
                QueueError::Tls { why: TlsTrouble::Files, source }
            }
            error => error,
        }
    }
}

/// The key of the configuration, and what each block of its file begins with.
type Named = (&'static str, &'static [&'static str]);
const CA: Named = ("redis.ca", &["-----BEGIN CERTIFICATE-----"]);
const CERT: Named = ("redis.cert", &["-----BEGIN CERTIFICATE-----"]);
const KEY: Named = (
    "redis.key",
    &[
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----",
    ],
);

fn alone((key, _): Named, path: &Path, why: &str) -> QueueError {
    QueueError::File { key, path: path.to_owned(), why: format!("{why}, and each needs the other") }
}

/// Reads a PEM file; without a block of its kind it would be taken for an empty one.
fn pem((key, blocks): Named, path: &Path) -> Result<Vec<u8>, QueueError> {
    let unusable = |why: String| QueueError::File { key, path: path.to_owned(), why };
    let bytes = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    if blocks.iter().any(|block| text.contains(block)) {
        return Ok(bytes);
    }
    let why = if key == KEY.0 && text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        "the key has a passphrase: store it without one, readable by this user only".to_owned()
    } else {
        format!("there is no {} in it", blocks[0])
    };
    Err(unusable(why))
}

fn settings(connecting: Duration, response: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_response_timeout(Some(response))
        .set_connection_timeout(Some(connecting))
}

async fn ping(connection: &mut impl ConnectionLike) -> Result<(), RedisError> {
    cmd("PING").query_async(connection).await
}

/// A small pool of connections.
#[derive(Clone)]
pub(super) struct Bodies {
    pool: Pool,
    address: Address,
}

impl Bodies {
    /// One of them, for as long as it is held.
    pub(super) async fn get(&self) -> Result<deadpool_redis::Connection, QueueError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                self.address.failed(error)
            }
            other => QueueError::Pool(other),
        })
    }
}

fn managed(response_timeout: Duration) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_response_timeout(Some(response_timeout))
        .set_connection_timeout(Some(response_timeout))
        .set_number_of_retries(RECONNECTS)
        .set_min_delay(SHORTEST_PAUSE)
        .set_max_delay(LONGEST_PAUSE)
}

/// All connections of one queue.
pub(super) struct Connections {
    address: Address,
    shared: Mutex<Shared>,
    bodies: Bodies,
    client: Client,
    response_timeout: Duration,
}

/// The two that reconnect by themselves.
struct Shared {
    commands: ConnectionManager,
    documents: ConnectionManager,
}

impl Connections {
    /// Connects. A call that takes longer than `response_timeout` has failed.
    pub(super) async fn open(
        address: Address,
        response_timeout: Duration,
    ) -> Result<Self, QueueError> {
        let client = address.client()?;
        let manager = managed(response_timeout);
        let documents = ConnectionManager::new_lazy_with_config(client.clone(), manager.clone())
            .map_err(|error| address.failed(error))?;
        let made = client.get_connection_manager_with_config(manager).await;
        let mut commands = made.map_err(|error| address.failed(error))?;
        address.greet(&mut commands).await?;
        let bodies =
            address.pool(POOLED, response_timeout, response_timeout, Some(response_timeout))?;
        let shared = Mutex::new(Shared { commands, documents });
        Ok(Self { address, shared, bodies, client, response_timeout })
    }

    /// Gives the shared connections up and makes them anew with the next call. A
    /// Redis that became a replica keeps its clients, and answers them with
    /// READONLY for ever, though the name may lead to the new primary by now; and
    /// what is silent for long may only seem to be connected.
    pub(super) fn renew(&self) -> Result<(), QueueError> {
        let make = || {
            let manager = managed(self.response_timeout);
            ConnectionManager::new_lazy_with_config(self.client.clone(), manager)
                .map_err(|error| self.address.failed(error))
        };
        let fresh = Shared { commands: make()?, documents: make()? };
        *self.shared() = fresh;
        Ok(())
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared connection for what is small.
    pub(super) fn commands(&self) -> ConnectionManager {
        self.shared().commands.clone()
    }

    /// The shared connection for documents and large results.
    pub(super) fn documents(&self) -> ConnectionManager {
        self.shared().documents.clone()
    }

    /// One of the pool.
    pub(super) async fn pooled(&self) -> Result<deadpool_redis::Connection, QueueError> {
        self.bodies.get().await
    }

    /// A new one, for reads that block for at most `block`.
    pub(super) async fn blocking(
        &self,
        block: Duration,
    ) -> Result<MultiplexedConnection, QueueError> {
        let settings = settings(self.response_timeout, block + self.response_timeout);
        let made = self.client.get_multiplexed_async_connection_with_config(&settings).await;
        made.map_err(|error| self.address.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> TlsFiles {
        let owned = |path: Option<&Path>| path.map(Path::to_owned);
        TlsFiles { ca: owned(ca), cert: owned(cert), key: owned(key) }
    }

    /// An error and its cause.
    fn told(error: &QueueError) -> String {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    }

    fn refused(url: &str, tls: TlsFiles) -> String {
        told(&Address::new(url, tls).client().unwrap_err())
    }

    #[test]
    fn no_password_is_in_what_is_printed() {
        let urls = [
            "redis://shop:hunter2@h:1/2",
            "rediss://:hunter2@h",
            "unix:///run/redis.sock?pass=hunter2&db=1",
            "redis+unix:///run/redis.sock?user=shop&pass=hunter2",
            "redis://shop:hunter2@h/no-number",
            "redis://shop:hunter2@:x",
            "rediss://shop:hunter2@h/#insecure",
        ];
        for url in urls {
            let address = Address::from(url);
            let mut shown = format!("{address:?}");
            match address.client() {
                Ok(client) => shown += &format!("{client:?} {:?}", client.get_connection_info()),
                Err(error) => {
                    shown += &format!("{error:?} {}", told(&error));
                }
            }
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn files_are_read_once_and_what_is_wrong_with_them_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, other) = (dir.path().join("missing.pem"), dir.path().join("other.pem"));
        std::fs::write(&other, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        let url = "rediss://localhost";
        let why = refused(url, files(Some(&missing), None, None));
        assert!(why.contains("redis.ca") && why.contains("missing.pem"), "{why}");
        assert!(why.contains("No such file"), "{why}");
        let why = refused(url, files(Some(&other), None, None));
        assert!(why.contains("no -----BEGIN CERTIFICATE-----"), "{why}");
        let why = refused(url, files(None, Some(&other), None));
        assert!(why.contains("redis.cert") && why.contains("redis.key is not set"), "{why}");
        let why = refused(url, files(None, None, Some(&other)));
        assert!(why.contains("redis.cert is not set"), "{why}");
        let cert = dir.path().join("cert.pem");
        std::fs::write(&cert, CERT.1[0]).unwrap();
        let why = refused(url, files(None, Some(&cert), Some(&other)));
        assert!(why.contains("redis.key") && why.contains("passphrase"), "{why}");
        // Without TLS they do not matter.
        let without = Address::new("redis://localhost", files(Some(&missing), None, None));
        without.client().unwrap();
    }

    #[test]
    fn a_connection_to_a_machine_that_is_gone_is_given_up_by_the_kernel() {
        for url in ["redis://h", "rediss://h"] {
            let info = Address::from(url).info().unwrap();
            let tcp = info.tcp_settings();
            assert!(tcp.nodelay() && tcp.keepalive().is_some(), "{url}");
            assert_eq!(tcp.user_timeout(), Some(UNANSWERED), "{url}");
        }
    }

    #[test]
    fn certificates_cannot_be_left_unchecked() {
        let why = refused("rediss://localhost/#insecure", TlsFiles::default());
        assert!(why.contains("redis.ca"), "{why}");
    }

    #[test]
    fn users_databases_and_sockets_are_read_from_the_url() {
        let settings = |url: &str| {
            let info = Address::from(url).info().unwrap();
            let redis = info.redis_settings();
            let text = |part: Option<&str>| part.unwrap_or("-").to_owned();
            (text(redis.username()), text(redis.password()), redis.db())
        };
        let expected = |user: &str, password: &str, db| (user.to_owned(), password.to_owned(), db);
        assert_eq!(settings("redis://h"), expected("-", "-", 0));
        assert_eq!(settings("redis://:p@h/3"), expected("-", "p", 3));
        assert_eq!(settings("rediss://shop:p%40ss@h:1/3"), expected("shop", "p@ss", 3));
        for scheme in ["unix", "redis+unix"] {
            let url = format!("{scheme}:///run/r.sock?user=shop&pass=p%26q&db=5");
            assert_eq!(settings(&url), expected("shop", "p&q", 5));
        }
    }
}
