//! Users, databases and sockets, as a URL names them.

use std::process::Command;

use tillroll::job::Priority::Interactive;
use tillroll::worker::Stop;

use crate::support::rig::PATIENCE;
use crate::support::{RedisServer, Rig, Running, Scripted, document};

/// A job through a worker whose URL is `url`; producers come as they always do.
async fn tour(rig: &Rig, url: &str) {
    let renderer = Scripted::open();
    let worker = Running::on(Rig::queue_at(url, "w1", PATIENCE).await, &renderer, 1, PATIENCE);
    rig.push(Interactive, &document("acme", "r-1", "<p>")).await;
    assert_eq!(rig.reply("acme/r-1").await.status(), "done", "{url}");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

async fn kind(url: &str) -> (&'static str, String) {
    let error = Rig::connect(url, "w1", PATIENCE).await.unwrap_err();
    (error.kind(), format!("{error:?} {error} {}", error.remedy()))
}

/// A user who may do anything, with a password that a URL has to encode.
async fn add_user(rig: &Rig) {
    let _: () = rig.ask(&["ACL", "SETUSER", "shop", "on", ">p@ss/word&?", "~*", "+@all"]).await;
}

#[tokio::test]
async fn a_user_and_a_password_are_taken_from_the_url() {
    let rig = Rig::new();
    add_user(&rig).await;
    let port = rig.server.port();
    tour(&rig, &format!("redis://shop:p%40ss%2Fword%26%3F@127.0.0.1:{port}")).await;
    let (is, shown) = kind(&format!("redis://shop:wrongword@127.0.0.1:{port}")).await;
    assert_eq!(is, "refused", "{shown}");
    assert!(shown.contains("user, password") && !shown.contains("wrongword"), "{shown}");
}

#[tokio::test]
async fn a_password_alone_is_the_default_users() {
    let rig = Rig::new();
    let _: () = rig.ask(&["CONFIG", "SET", "requirepass", "hunter2"]).await;
    let port = rig.server.port();
    let queue = Rig::queue_at(format!("redis://:hunter2@127.0.0.1:{port}"), "w1", PATIENCE).await;
    assert_eq!(queue.counts().await.unwrap().ready, 0);
    let (is, shown) = kind(&format!("redis://127.0.0.1:{port}")).await;
    assert_eq!(is, "refused", "{shown}");
}

#[tokio::test]
async fn a_database_is_chosen_by_its_number() {
    let rig = Rig::new();
    let url = format!("{}/7", rig.server.url());
    let renderer = Scripted::open();
    let worker =
        Running::on(Rig::queue_at(url.as_str(), "w1", PATIENCE).await, &renderer, 1, PATIENCE);
    let client = tillroll::client::Client::new(url, "receipts", 1).unwrap();
    client.push(Interactive, &document("acme", "r-1", "<p>")).await.unwrap();
    let name = tillroll::job::Name::parse("acme/r-1").unwrap();
    assert!(client.take(&name, PATIENCE).await.unwrap().is_some());
    worker.stop(Stop::Drain).await;
    let size: u64 = rig.ask(&["DBSIZE"]).await;
    assert_eq!(size, 0, "everything is in database 7");
    let (is, shown) = kind(&format!("{}/99", rig.server.url())).await;
    assert_eq!(is, "refused", "{shown}");
    assert!(shown.contains("database"), "{shown}");
}

#[tokio::test]
async fn a_socket_is_reached_by_its_path_with_user_and_database() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let socket = socket.to_str().unwrap();
    let rig = Rig::on(RedisServer::start(&["--appendonly", "no", "--unixsocket", socket]));
    add_user(&rig).await;
    tour(&rig, &format!("unix://{socket}")).await;
    let _: () = rig.ask(&["FLUSHALL"]).await;
    tour(&rig, &format!("redis+unix://{socket}?user=shop&pass=p%40ss%2Fword%26%3F")).await;
    let url = format!("unix://{socket}?user=shop&pass=p%40ss%2Fword%26%3F&db=5");
    let queue = Rig::queue_at(url, "w1", PATIENCE).await;
    queue.renew(&[], "{}").await.unwrap();
    let keyspace: String = rig.ask(&["INFO", "keyspace"]).await;
    assert!(keyspace.contains("db5:keys="), "{keyspace}");
    let (is, shown) = kind(&format!("unix://{socket}?user=shop&pass=wrongword")).await;
    assert_eq!(is, "refused", "{shown}");
    assert!(!shown.contains("wrongword"), "{shown}");
    let (is, shown) = kind("unix:///nowhere/redis.sock").await;
    assert_eq!(is, "unavailable", "{shown}");
}

#[tokio::test]
async fn no_verb_prints_a_password() {
    let rig = Rig::new();
    let _: () = rig.ask(&["ACL", "SETUSER", "shop", "on", ">hunter2", "~*", "+@all"]).await;
    let (port, home) = (rig.server.port(), rig.server.path(""));
    let urls = [
        (format!("redis://shop:hunter2@127.0.0.1:{port}"), 0),
        (format!("redis://shop:hunter2-and-more@127.0.0.1:{port}"), 69),
        ("redis://shop:hunter2@127.0.0.1:1".to_owned(), 69),
        ("redis://shop:hunter2@127.0.0.1:port".to_owned(), 78),
        ("rediss://shop:hunter2@127.0.0.1:1".to_owned(), 69),
        ("unix:///nowhere?user=shop&pass=hunter2".to_owned(), 69),
        ("unix:///nowhere?user=shop&pass=hunter2&db=none".to_owned(), 78),
    ];
    for (url, code) in &urls {
        for verb in [&["status"][..], &["doctor"], &["events", "--since", "1s", "--count", "1"]] {
            if verb[0] == "events" && *code == 0 {
                continue;
            }
            let ran = Command::new(env!("CARGO_BIN_EXE_tillroll"))
                .args(verb)
                .args(["--log-level", "trace", "--redis", url])
                .env("HOME", &home)
                .env("RUST_LOG", "trace")
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
            assert!(!shown.contains("hunter2"), "{verb:?} {url}:\n{shown}");
            if verb[0] != "doctor" {
                assert_eq!(ran.status.code(), Some(*code), "{verb:?} {url}:\n{shown}");
            }
        }
    }
}
