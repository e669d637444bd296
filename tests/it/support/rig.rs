//! One queue on one private Redis, and the hands of a producer and an operator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, cmd};
use serde_json::Value;
use tillroll::job::{Job, Name, Output, Priority, Status};
use tillroll::queue::{
    Address, Admitted, Claimed, Ending, Keys, Lease, LimitSettings, Next, Past, Queue, QueueConfig,
    QueueError, Refusal, Settled, Token,
};

use super::RedisServer;

/// The longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// When Redis counts as away.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a producer took.
#[derive(Debug)]
pub(crate) struct Answer {
    pub line: Value,
    pub pdf: Option<Vec<u8>>,
}

impl Answer {
    fn of(element: &[u8]) -> Self {
        let mut parts = element.splitn(2, |byte| *byte == b'\n');
        let line = serde_json::from_slice(parts.next().unwrap()).unwrap();
        Self { line, pdf: parts.next().map(<[u8]>::to_vec) }
    }

    pub(crate) fn status(&self) -> &str {
        self.line["status"].as_str().unwrap()
    }

    pub(crate) fn code(&self) -> &str {
        self.line["error"]["code"].as_str().unwrap()
    }
}

/// See the module.
pub(crate) struct Rig {
    pub server: RedisServer,
    pub keys: Keys,
    turns: AtomicU64,
}

impl Rig {
    /// On a Redis that keeps nothing on disk.
    pub(crate) fn new() -> Self {
        Self::on(RedisServer::volatile())
    }

    pub(crate) fn on(server: RedisServer) -> Self {
        Self { server, keys: Keys::new("receipts"), turns: AtomicU64::new(0) }
    }

    /// A connection of one's own; its reads may block for as long as a test waits.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let client = redis::Client::open(self.server.url()).unwrap();
        client.get_multiplexed_async_connection_with_config(&settings).await.unwrap()
    }

    /// One command.
    pub(crate) async fn ask<T: FromRedisValue>(&self, parts: &[&str]) -> T {
        ask(&mut self.connection().await, parts).await
    }

    /// The queue as the worker `id` sees it.
    pub(crate) async fn queue(&self, id: &str) -> Queue {
        self.queue_with_lease(id, PATIENCE).await
    }

    pub(crate) async fn queue_with_lease(&self, id: &str, lease: Duration) -> Queue {
        Self::queue_at(self.server.url(), id, lease).await
    }

    /// Through another line than the producers'.
    pub(crate) async fn queue_at(redis: impl Into<Address>, id: &str, lease: Duration) -> Queue {
        Self::connect(redis, id, lease).await.unwrap()
    }

    pub(crate) async fn connect(
        redis: impl Into<Address>,
        id: &str,
        lease: Duration,
    ) -> Result<Queue, QueueError> {
        Queue::connect(QueueConfig {
            redis: redis.into(),
            queue: "receipts".to_owned(),
            worker: id.to_owned(),
            lease,
            response_timeout: RESPONSE_TIMEOUT,
            limits: LimitSettings::default(),
            fenced: true,
        })
        .await
    }

    pub(crate) async fn push(&self, inbox: Priority, element: &[u8]) {
        let mut command = cmd("LPUSH");
        command.arg(self.keys.inbox(inbox)).arg(element);
        command.query_async::<()>(&mut self.connection().await).await.unwrap();
    }

    /// The number of the next element that a worker takes: each is dealt with once.
    pub(crate) fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Pushes an element and takes it into the stage of `queue`'s worker.
    pub(crate) async fn stage(&self, queue: &Queue, inbox: Priority, element: &[u8]) {
        self.push(inbox, element).await;
        let (from, to) = (self.keys.inbox(inbox), self.keys.stage(inbox, queue.worker()));
        let moved: Option<Vec<u8>> = self.ask(&["RPOPLPUSH", &from, &to]).await;
        assert_eq!(moved.as_deref(), Some(element));
    }

    /// Pushes, stages and admits, without a claim.
    pub(crate) async fn admit(&self, queue: &Queue, element: &[u8]) -> Admitted {
        self.admit_through(queue, Priority::Interactive, element).await
    }

    pub(crate) async fn admit_through(
        &self,
        queue: &Queue,
        inbox: Priority,
        element: &[u8],
    ) -> Admitted {
        self.stage(queue, inbox, element).await;
        let job = parsed(inbox, element);
        let (admitted, claim) =
            queue.admit(inbox, self.turn(), &job, element.len(), None).await.unwrap();
        assert_eq!(claim, None, "nobody asked for a claim");
        admitted
    }

    /// Takes the reply of a job.
    pub(crate) async fn reply(&self, name: &str) -> Answer {
        self.take(&self.keys.reply(&Name::parse(name).unwrap())).await
    }

    /// Takes the next line of a consumer's list.
    pub(crate) async fn reply_to(&self, list: &str) -> Answer {
        self.take(&format!("{}replies:{list}", self.keys.prefix())).await
    }

    async fn take(&self, key: &str) -> Answer {
        let seconds = PATIENCE.as_secs() - 5;
        let taken: Option<(String, Vec<u8>)> =
            self.ask(&["BLPOP", key, &seconds.to_string()]).await;
        Answer::of(&taken.unwrap_or_else(|| panic!("nothing came to {key}")).1)
    }

    /// What waits in a list, unread.
    pub(crate) async fn length(&self, key: &str) -> usize {
        self.ask(&["LLEN", key]).await
    }

    pub(crate) async fn exists(&self, key: &str) -> bool {
        self.ask(&["EXISTS", key]).await
    }

    /// One field of a job's record.
    pub(crate) async fn field(&self, name: &str, field: &str) -> Option<String> {
        self.ask(&["HGET", &self.keys.job(&Name::parse(name).unwrap()), field]).await
    }

    /// Makes a lease run out now.
    pub(crate) async fn expire_lease(&self, name: &str) {
        let changed: u64 = self.ask(&["ZADD", &self.keys.leased(), "XX", "CH", "1", name]).await;
        assert_eq!(changed, 1, "{name} has no lease");
    }

    /// Makes a delayed job due now.
    pub(crate) async fn make_due(&self, name: &str) {
        let changed: u64 = self.ask(&["ZADD", &self.keys.delayed(), "XX", "CH", "1", name]).await;
        assert_eq!(changed, 1, "{name} is not delayed");
    }

    /// Waits until the event stream says `event` of `job` and returns its code.
    pub(crate) async fn event(&self, event: &str, job: &str) -> String {
        let mut connection = self.connection().await;
        let mut last = "0".to_owned();
        loop {
            let mut read = cmd("XREAD");
            read.arg("BLOCK").arg(25_000).arg("STREAMS").arg(self.keys.events()).arg(&last);
            let heard: Option<redis::streams::StreamReadReply> =
                read.query_async(&mut connection).await.unwrap();
            let heard = heard.unwrap_or_else(|| panic!("no event {event} of {job}"));
            for entry in &heard.keys[0].ids {
                last.clone_from(&entry.id);
                let field = |name: &str| entry.get::<String>(name).unwrap();
                if field("event") == event && field("job") == job {
                    return field("code");
                }
            }
        }
    }
}

/// One command on a connection that is there already.
pub(crate) async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    parts: &[&str],
) -> T {
    let mut command = cmd(parts[0]);
    for part in &parts[1..] {
        command.arg(part);
    }
    let answer = command.query_async(connection).await;
    answer.unwrap_or_else(|error| panic!("{parts:?}: {error}"))
}

/// A framed element of the default form.
pub(crate) fn document(tenant: &str, id: &str, html: &str) -> Vec<u8> {
    format!("{{\"id\":\"{id}\",\"tenant\":\"{tenant}\"}}\n{html}").into_bytes()
}

pub(crate) fn parsed(inbox: Priority, element: &[u8]) -> Job {
    tillroll::job::parse(element, inbox, || "no-id".to_owned()).unwrap()
}

pub(crate) async fn expect_claim(queue: &Queue) -> Claimed {
    queue.claim(under(&queue.token())).await.unwrap().expect("there is a ready job")
}

/// A job that ends well with `pdf` in its reply.
pub(crate) fn done(pdf: &[u8]) -> Ending {
    Ending {
        status: Status::Done,
        code: "ok",
        line: r#"{"v":1,"status":"done"}"#.to_owned(),
        pdf: Some(pdf.to_vec().into()),
        output: Output::Reply { base64: false },
        reply_to: None,
        reply_ttl: Duration::from_secs(600),
        retain: Duration::from_secs(86_400),
        past: None,
    }
}

/// A job that ends without a PDF.
pub(crate) fn dead() -> Ending {
    Ending {
        status: Status::Dead,
        code: "scripted",
        line: r#"{"v":1,"status":"dead","error":{"code":"scripted"}}"#.to_owned(),
        pdf: None,
        ..done(b"")
    }
}

/// A claim under `token`, of any priority.
pub(crate) fn under(token: &Token) -> Next<'_> {
    Next { token, bulk: true }
}

/// What became of an attempt, in short.
pub(crate) fn past(code: &str, counted: bool) -> Past {
    Past {
        at: 1,
        attempt: 1,
        worker: "w".to_owned(),
        class: "document".to_owned(),
        code: code.to_owned(),
        message: "scripted".to_owned(),
        remedy: "none".to_owned(),
        duration_ms: 1,
        memory_bytes: None,
        needs_bytes: None,
        counted,
        warnings: Vec::new(),
    }
}

/// Transitions as the tests call them.
pub(crate) trait Calls {
    /// Fails an attempt; one that neither waits nor counts is released.
    async fn retry(
        &self,
        lease: &Lease,
        delay: Duration,
        counted: bool,
        code: &str,
    ) -> Result<Settled, QueueError>;

    /// Rejects what is in the stage of the interactive inbox.
    async fn rejects(
        &self,
        turn: u64,
        name: Option<&Name>,
        code: &str,
        line: &str,
        reply_ttl: Duration,
        reply_to: Option<&str>,
    ) -> Result<(), QueueError>;
}

impl Calls for Queue {
    async fn retry(
        &self,
        lease: &Lease,
        delay: Duration,
        counted: bool,
        code: &str,
    ) -> Result<Settled, QueueError> {
        let past = past(code, counted);
        if counted || !delay.is_zero() {
            return self.fail(lease, delay, &past).await;
        }
        self.release(lease, code, code == "browser_died", Some(&past)).await
    }

    async fn rejects(
        &self,
        turn: u64,
        name: Option<&Name>,
        code: &str,
        line: &str,
        reply_ttl: Duration,
        reply_to: Option<&str>,
    ) -> Result<(), QueueError> {
        let refusal = Refusal { code, line, reply_ttl, reply_to };
        self.reject(Priority::Interactive, turn, name, &refusal).await
    }
}
