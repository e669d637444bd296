//! The connection against the other ends of its pipes.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection, and what Chromium would hold.
fn connected() -> (Connection, std::fs::File, std::fs::File) {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((commands, ours), (theirs, replies)): ((OwnedFd, _), (OwnedFd, _)) = (pipe(), pipe());
    (Connection::start(ours, theirs).unwrap(), commands.into(), replies.into())
}

/// Reads `calls` commands, then writes `frames`, each larger than is read.
fn answer(
    (mut commands, mut replies): (std::fs::File, std::fs::File),
    calls: usize,
    frames: Vec<(&'static str, usize, &'static str)>,
) -> std::thread::JoinHandle<(std::fs::File, std::fs::File)> {
    std::thread::spawn(move || {
        let mut byte = [0];
        for _ in 0..calls {
            while commands.read(&mut byte).unwrap() == 1 && byte != [0] {}
        }
        for (head, bytes, tail) in frames {
            replies.write_all(head.as_bytes()).unwrap();
            replies.write_all(&vec![b'x'; bytes]).unwrap();
            replies.write_all(tail.as_bytes()).unwrap();
            replies.write_all(&[0]).unwrap();
        }
        (commands, replies)
    })
}

#[tokio::test]
async fn an_answer_that_is_too_large_fails_its_call_and_no_other() {
    let (connection, commands, replies) = connected();
    let (big, small) = (connection.session("A"), connection.session("B"));
    let nothing = json!({});
    let chromium = answer(
        (commands, replies),
        2,
        vec![
            (r#"{"id":1,"result":{"data":""#, FRAME_LIMIT, r#""},"sessionId":"A"}"#),
            (r#"{"id":2,"result":{"data":""#, 10, r#""},"sessionId":"B"}"#),
        ],
    );
    let (first, second) = tokio::join!(
        big.call_raw("Page.printToPDF", &nothing, PATIENCE),
        small.call_raw("Page.printToPDF", &nothing, PATIENCE),
    );
    let method = "Page.printToPDF";
    assert_eq!(first.unwrap_err(), CdpError::Oversized { method, limit: FRAME_LIMIT });
    assert_eq!(second.unwrap().json(), br#"{"data":"xxxxxxxxxx"}"#);
    assert!(!big.gone().is_cancelled() && connection.close_reason().is_none());
    drop(chromium.join().unwrap());
}

#[tokio::test]
async fn an_event_that_is_too_large_ends_its_session_and_no_other() {
    let (connection, commands, replies) = connected();
    let (big, small) = (connection.session("A"), connection.session("B"));
    let nothing = json!({});
    let chromium = answer(
        (commands, replies),
        2,
        vec![
            (r#"{"method":"Network.x","params":{"url":""#, FRAME_LIMIT, r#""},"sessionId":"A"}"#),
            (r#"{"method":"Target.x","params":{"url":""#, FRAME_LIMIT, r#""}}"#),
            (r#"{"id":2,"result":{"data":""#, 1, r#""},"sessionId":"B"}"#),
        ],
    );
    let (first, second) = tokio::join!(
        big.call_raw("Page.enable", &nothing, PATIENCE),
        small.call_raw("Page.enable", &nothing, PATIENCE),
    );
    assert!(matches!(first.unwrap_err(), CdpError::Oversized { .. }));
    assert!(second.is_ok() && big.gone().is_cancelled() && !small.gone().is_cancelled());
    drop(chromium.join().unwrap());
}

#[tokio::test]
async fn large_events_are_not_hoarded() {
    let (connection, commands, replies) = connected();
    let session = connection.session("A");
    let mut events = session.events("Network.x");
    let large = (r#"{"method":"Network.x","params":{"url":""#, 2 << 20, r#""},"sessionId":"A"}"#);
    let chromium = answer((commands, replies), 0, vec![large; 20]);
    tokio::task::spawn_blocking(move || drop(chromium.join().unwrap())).await.unwrap();
    connection.finished().await;
    let mut bytes = 0;
    let end = loop {
        match events.next().await {
            Ok(Some(event)) => bytes += event.json().len(),
            other => break other.map(drop),
        }
    };
    assert_eq!(end, Err(Lagged));
    assert!((28 << 20..=32 << 20).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn who_falls_behind_is_told_without_waiting_too() {
    let (connection, _commands, mut replies) = connected();
    let session = connection.session("A");
    let mut events = session.events("Page.frameNavigated");
    for _ in 0..=1024 {
        replies
            .write_all(b"{\"method\":\"Page.frameNavigated\",\"params\":{},\"sessionId\":\"A\"}\0")
            .unwrap();
        tokio::task::yield_now().await;
    }
    drop(replies);
    connection.finished().await;
    let mut got = 0;
    let end = loop {
        match events.try_next() {
            Ok(Some(_)) => got += 1,
            other => break other.map(drop),
        }
    };
    assert_eq!((got, end), (1024, Err(Lagged)));
}
