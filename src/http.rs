//! Health, metrics and status over HTTP, for probes, Prometheus and people.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 `ok` while the dispatcher speaks; 503 when it hangs: restart |
//! | `/readyz`, `/health` | 200 or 503, JSON with the reasons why no job is taken |
//! | `/metrics` | Prometheus' text format |
//! | `/status` | the whole [`Snapshot`] as JSON |
//!
//! Read-only and without secrets, but without a password too: it listens on
//! loopback unless told otherwise. It reads the latest snapshot and never waits
//! for the dispatcher, so it answers just when that hangs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::metrics::Exporter;
use crate::worker::snapshot::Snapshot;

/// How many ports above the one asked for are tried.
const PORTS: u16 = 100;
/// How long open connections may hold up the end.
const LINGER: Duration = Duration::from_secs(2);
/// How often histograms are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Pages {
    /// The latest snapshot.
    pub snapshot: watch::Receiver<Snapshot>,
    /// The metrics.
    pub metrics: Exporter,
}

/// Listens on `address`, or on the next free port of the 100 above it. Ask the
/// listener for the port it got, and print that.
///
/// # Errors
/// When all of them are taken, or the address cannot be listened on at all.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let mut address = address;
    let last = address.port().saturating_add(PORTS);
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() < last => {
                address.set_port(address.port() + 1);
            }
            result => return result,
        }
    }
}

/// Serves the pages until `stop` is done; then lets answers that have begun end,
/// for two seconds at most.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let metrics = pages.metrics.clone();
    let (stopping, mut stopped) = watch::channel(false);
    let server = axum::serve(listener, router(pages)).with_graceful_shutdown(async move {
        stop.await;
        stopping.send_replace(true);
    });
    let overdue = async move {
        // An error means that the server has ended already.
        if stopped.wait_for(|stopped| *stopped).await.is_ok() {
            tokio::time::sleep(LINGER).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = server.into_future() => result,
        () = overdue => Ok(()),
        () = keep_up(metrics) => Ok(()),
    }
}

async fn keep_up(metrics: Exporter) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(ready))
        .route("/health", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(pages)
}

async fn index() -> &'static str {
    "tillroll: /healthz /readyz /health /metrics /status\n"
}

async fn healthz(State(pages): State<Pages>) -> Response {
    if pages.snapshot.borrow().alive() {
        return "ok\n".into_response();
    }
    let silence = Snapshot::SILENCE.as_secs();
    let body = format!("the dispatcher has been silent for more than {silence} s\n");
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn ready(State(pages): State<Pages>) -> Response {
    let (phase, reasons, renderer, notices) = {
        let snapshot = pages.snapshot.borrow();
        (snapshot.phase, snapshot.reasons(), snapshot.renderer_kind, snapshot.notices())
    };
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": reasons.is_empty(), "phase": phase, "reasons": reasons,
        "renderer": renderer, "notices": notices,
    });
    (status, Json(body)).into_response()
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, pages.metrics.render()).into_response()
}

async fn status(State(pages): State<Pages>) -> Json<Snapshot> {
    Json(pages.snapshot.borrow().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use crate::worker::snapshot::{Condition, Phase};

    /// One recorder for the process: tests may share it.
    fn exporter() -> Exporter {
        static EXPORTER: OnceLock<Exporter> = OnceLock::new();
        EXPORTER.get_or_init(|| Exporter::install().unwrap()).clone()
    }

    struct Server {
        address: SocketAddr,
        snapshot: watch::Sender<Snapshot>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    async fn server() -> Server {
        let (snapshot, receiver) =
            watch::channel(Snapshot::starting("w-1".into(), "receipts".into()));
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let pages = Pages { snapshot: receiver, metrics: exporter() };
        let task = tokio::spawn(serve(listener, pages, async {
            stopped.await.unwrap();
        }));
        Server { address, snapshot, stop, task }
    }

    impl Server {
        /// Status code and body.
        async fn get(&self, path: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
        }

        fn run(&self) {
            self.snapshot.send_modify(|snapshot| {
                snapshot.phase = Phase::Running;
                snapshot.redis = Condition::ok();
                snapshot.renderer = Condition::ok();
                snapshot.memory.condition = Condition::ok();
            });
        }

        async fn end(self) {
            self.stop.send(()).unwrap();
            self.task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_starting_worker_is_alive_but_not_ready() {
        let server = server().await;
        assert_eq!(server.get("/healthz").await, (200, "ok\n".into()));
        for path in ["/readyz", "/health"] {
            let (status, body) = server.get(path).await;
            assert_eq!(status, 503);
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["ready"], false);
            let reasons = body["reasons"].as_array().unwrap();
            let what: Vec<_> = reasons.iter().map(|reason| &reason["what"]).collect();
            assert_eq!(what, ["phase", "redis", "renderer", "memory"]);
        }
        server.end().await;
    }

    #[tokio::test]
    async fn a_running_worker_is_ready_until_it_drains_or_loses_redis() {
        let server = server().await;
        server.run();
        assert_eq!(server.get("/readyz").await.0, 200);
        server.snapshot.send_modify(|snapshot| snapshot.redis = Condition::bad("READONLY"));
        let (status, body) = server.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("READONLY"), "{body}");
        server.run();
        server.snapshot.send_modify(|snapshot| snapshot.phase = Phase::Draining);
        let (status, body) = server.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("draining"), "{body}");
        server.end().await;
    }

    #[tokio::test]
    async fn a_silent_dispatcher_is_neither_alive_nor_ready() {
        let server = server().await;
        server.run();
        let long_ago = Instant::now().checked_sub(Snapshot::SILENCE * 2).unwrap();
        server.snapshot.send_modify(|snapshot| snapshot.published = long_ago);
        assert_eq!(server.get("/healthz").await.0, 503);
        let (status, body) = server.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("dispatcher"), "{body}");
        server.end().await;
    }

    #[tokio::test]
    async fn status_and_metrics_are_served() {
        let server = server().await;
        let (status, body) = server.get("/status").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["worker"]), (200, &json!("w-1")));
        assert!(body["uptime_ms"].is_u64() && body["age_ms"].is_u64());
        let (status, body) = server.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("tillroll_build_info{version="), "{body}");
        assert_eq!(server.get("/nothing").await.0, 404);
        server.end().await;
    }

    #[tokio::test]
    async fn a_taken_port_gives_the_next_free_one() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let next = listen(address).await.unwrap().local_addr().unwrap();
        assert!(next.port() > address.port() && next.port() <= address.port() + PORTS);
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_does_not_hold_up_the_end() {
        let server = server().await;
        let silent = TcpStream::connect(server.address).await.unwrap();
        tokio::time::timeout(LINGER * 5, server.end()).await.unwrap();
        drop(silent);
    }
}
