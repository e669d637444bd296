//! `rediss://`: a worker works over it, and what does not fit is said.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tillroll::client::{Client, Receipt};
use tillroll::queue::{Address, QueueError, TlsFiles};
use tillroll::worker::Stop;

use crate::support::certificates::{Certificate, text};
use crate::support::rig::PATIENCE;
use crate::support::{Authority, RedisServer, Rig, Running, Scripted};

fn trusting(authority: &Authority) -> TlsFiles {
    TlsFiles { ca: Some(authority.ca()), ..TlsFiles::default() }
}

fn with_own(authority: &Authority, own: &Certificate) -> TlsFiles {
    let (cert, key) = (Some(own.cert.clone()), Some(own.key.clone()));
    TlsFiles { cert, key, ..trusting(authority) }
}

/// A job through a worker, both over TLS.
async fn tour(rig: &Rig, files: TlsFiles) {
    let address = Address::new(rig.server.tls_url(), files);
    let queue = Rig::queue_at(address.clone(), "w1", PATIENCE).await;
    let renderer = Scripted::open();
    let worker = Running::on(queue, &renderer, 2, PATIENCE);
    let client = Client::new(address, "receipts", 2).unwrap();
    let element = Receipt::new("<p>over TLS").tenant("acme").id("r-1").element().unwrap();
    client.send(&element).await.unwrap();
    let answer = client.take(element.name(), PATIENCE).await.unwrap().unwrap();
    let reply = answer.reply().unwrap();
    let pdf = client.pdf(answer, &reply).await.unwrap().unwrap();
    assert_eq!(pdf, Scripted::pdf("<p>over TLS"));
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

async fn refused(url: &str, files: TlsFiles) -> QueueError {
    Rig::connect(Address::new(url, files), "w1", PATIENCE).await.unwrap_err()
}

#[tokio::test]
async fn a_worker_and_a_producer_work_over_tls() {
    let authority = Authority::new();
    let rig = Rig::on(authority.server(&authority.localhost(), false));
    tour(&rig, trusting(&authority)).await;
}

#[tokio::test]
async fn a_certificate_of_our_own_is_shown_where_redis_asks_for_one() {
    let authority = Authority::new();
    let rig = Rig::on(authority.server(&authority.localhost(), true));
    let own = authority.sign("worker", "2");
    tour(&rig, with_own(&authority, &own)).await;

    let strangers = Authority::new();
    let strange = strangers.sign("worker", "2");
    for files in [trusting(&authority), with_own(&authority, &strange)] {
        let error = refused(&rig.server.tls_url(), files.clone()).await;
        assert_eq!(error.kind(), "tls", "{error:?}");
        assert!(error.remedy().contains("redis.cert"), "{error:?}");
        let address = Address::new(rig.server.tls_url(), files);
        let error = Client::new(address, "receipts", 1).unwrap().clock().await.unwrap_err();
        assert!(error.remedy().contains("redis.cert"), "{error:?}");
    }
    let mixed = TlsFiles { key: Some(strange.key), ..with_own(&authority, &own) };
    let damaged = rig.server.path("damaged.pem");
    std::fs::write(&damaged, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let damaged = TlsFiles { ca: Some(damaged), ..TlsFiles::default() };
    for files in [mixed, damaged] {
        let error = refused(&rig.server.tls_url(), files).await;
        assert!(error.remedy().contains("belongs to the certificate"), "{error:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_with_what_to_do() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let trusted = authority.server(&authority.localhost(), false);
    let elsewhere = authority.server(&authority.sign("elsewhere.example", "2"), false);
    let expired = authority.server(&authority.sign("localhost", "-1"), false);
    let cases = [
        (&trusted, trusting(&strangers), "not trusted", "redis.ca"),
        (&trusted, TlsFiles::default(), "not trusted", "redis.ca"),
        (&elsewhere, trusting(&authority), "another name", "subjectAltName"),
        (&expired, trusting(&authority), "expired", "renew"),
    ];
    for (server, files, what, remedy) in cases {
        let error = refused(&server.tls_url(), files).await;
        assert_eq!(error.kind(), "tls", "{error:?}");
        assert!(error.to_string().contains(what), "{what}: {error:?}");
        assert!(error.remedy().contains(remedy), "{remedy}: {}", error.remedy());
    }
    // The pool of a client says the same.
    let address = Address::new(trusted.tls_url(), trusting(&strangers));
    let client = Client::new(address, "receipts", 1).unwrap();
    let error = client.clock().await.unwrap_err();
    assert!(error.to_string().contains("not trusted"), "{error:?}");
}

#[tokio::test]
async fn a_port_without_tls_is_told_from_one_with() {
    let authority = Authority::new();
    let server = authority.server(&authority.localhost(), false);
    let plain = format!("rediss://localhost:{}", server.port());
    let error = refused(&plain, trusting(&authority)).await;
    assert_eq!(error.kind(), "tls", "{error:?}");
    assert!(error.remedy().contains("tls-port"), "{}", error.remedy());
    let encrypted = server.tls_url().replace("rediss://", "redis://");
    let error = refused(&encrypted, TlsFiles::default()).await;
    assert_eq!(error.kind(), "unavailable", "{error:?}");
    assert!(error.remedy().contains("rediss://"), "{}", error.remedy());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let missing = TlsFiles { ca: Some(PathBuf::from("/nowhere/ca.pem")), ..TlsFiles::default() };
    let error = refused("rediss://localhost:1", missing.clone()).await;
    assert_eq!(error.kind(), "file");
    let shown = error.to_string();
    assert!(shown.contains("redis.ca") && shown.contains("/nowhere/ca.pem"), "{shown}");
    let address = Address::new("rediss://localhost:1", missing);
    assert_eq!(Client::new(address, "receipts", 1).unwrap_err().kind(), "file");
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_not_taken_for_an_absent_redis() {
    let authority = Authority::new();
    let server = authority.server(&authority.localhost(), false);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tillroll"));
    command.args(["status", "--redis", &server.tls_url()]);
    let ran = command.env("SSL_CERT_FILE", "/nowhere/ca.pem").output().unwrap();
    let shown = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(shown.contains("cannot be read") && shown.contains("SSL_CERT_FILE"), "{shown}");
}

/// Runs a verb against `server`; `trusted`: the system's authorities.
fn verb(server: &RedisServer, trusted: Option<&Authority>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tillroll"));
    command.args(arguments).env_clear().env("REDIS_URL", server.tls_url());
    command.env("HOME", server.path("")).env("PATH", "/usr/bin:/bin");
    if let Some(authority) = trusted {
        command.env("SSL_CERT_FILE", authority.ca());
    }
    command.output().unwrap()
}

#[tokio::test]
async fn every_verb_takes_the_systems_authorities_or_those_of_redis_ca() {
    let authority = Authority::new();
    let rig = Rig::on(authority.server(&authority.localhost(), false));
    let html = rig.server.path("receipt.html");
    std::fs::write(&html, "<p>").unwrap();
    let own_ca = format!("redis.ca={}", text(&authority.ca()));
    let push = ["enqueue", "--tenant", "acme", "--id", "r-1", text(&html)];
    let renderer = Scripted::gated();
    let address = Address::new(rig.server.tls_url(), trusting(&authority));
    let queue = Rig::queue_at(address, "w1", PATIENCE).await;
    let worker = Running::on(queue, &renderer, 1, PATIENCE);
    for verb_arguments in [
        &push[..],
        &["status"],
        &["job", "show", "acme/r-1"],
        &["events", "--since", "1h", "--count", "1"],
        &["doctor"],
    ] {
        if verb_arguments[0] != "enqueue" {
            renderer.wait_started(1).await;
        }
        let with_key = [verb_arguments, &["--set", &own_ca]].concat();
        for (trusted, arguments) in [(Some(&authority), verb_arguments), (None, &with_key)] {
            let ran = verb(&rig.server, trusted, arguments);
            let shown = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
            assert!(!shown.contains("not trusted"), "{arguments:?}: {shown}");
            // The machine may lack something else that doctor wants.
            assert!(ran.status.success() || arguments[0] == "doctor", "{arguments:?}: {shown}");
        }
    }
    let ran = verb(&rig.server, None, &["status"]);
    assert_eq!(ran.status.code(), Some(69));
    let shown = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(shown.contains("not trusted") && shown.contains("redis.ca"), "{shown}");
    renderer.open_gate();
    rig.reply("acme/r-1").await;
    worker.stop(Stop::Drain).await;
}

/// The worker itself, as it is started by hand.
#[tokio::test]
async fn the_worker_verb_renders_over_tls() {
    let authority = Authority::new();
    let rig = Rig::on(authority.server(&authority.localhost(), false));
    let own_ca = format!("redis.ca={}", text(&authority.ca()));
    let mut worker = Command::new(env!("CARGO_BIN_EXE_tillroll"))
        .args(["worker", "--renderer", "null", "--set", &own_ca, "--set", "http.listen="])
        .env_clear()
        .env("REDIS_URL", rig.server.tls_url())
        .env("HOME", rig.server.path(""))
        .spawn()
        .unwrap();
    let answered = async {
        rig.push(tillroll::job::Priority::Interactive, b"{\"id\":\"r-1\"}\n<p>").await;
        rig.reply("default/r-1").await
    };
    let answer = tokio::time::timeout(PATIENCE + Duration::from_secs(5), answered).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(answer.unwrap().status(), "done");
}
