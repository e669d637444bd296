//! The connection against the other ends of its pipes.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
/// The largest frame that is read here.
const LIMIT: usize = 4 << 20;

/// A connection, and what Chromium would hold.
fn connected() -> (Connection, std::fs::File, std::fs::File) {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((commands, ours), (theirs, replies)): ((OwnedFd, _), (OwnedFd, _)) = (pipe(), pipe());
    (Connection::start(ours, theirs, LIMIT).unwrap(), commands.into(), replies.into())
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
            (r#"{"id":1,"result":{"data":""#, LIMIT, r#""},"sessionId":"A"}"#),
            (r#"{"id":2,"result":{"data":""#, 10, r#""},"sessionId":"B"}"#),
        ],
    );
    let (first, second) = tokio::join!(
        big.call_raw("Page.printToPDF", &nothing, PATIENCE),
        small.call_raw("Page.printToPDF", &nothing, PATIENCE),
    );
    let method = "Page.printToPDF";
    assert_eq!(first.unwrap_err(), CdpError::Oversized { method, limit: LIMIT });
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
            (r#"{"method":"Network.x","params":{"url":""#, LIMIT, r#""},"sessionId":"A"}"#),
            (r#"{"method":"Target.x","params":{"url":""#, LIMIT, r#""}}"#),
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

/// Sends `frames` once `calls` commands were read.
fn say(
    ends: (std::fs::File, std::fs::File),
    calls: usize,
    frames: &'static [&'static str],
) -> std::thread::JoinHandle<(std::fs::File, std::fs::File)> {
    answer(ends, calls, frames.iter().map(|frame| (*frame, 0, "")).collect())
}

#[tokio::test]
async fn a_renderer_that_sends_garbage_loses_its_own_session_only() {
    for garbage in [
        r#"{"method":"A.b","sessionId":"B","sessionId":"A"}"#,
        r#"{"id":"two","result":{},"sessionId":"A"}"#,
        r#"{"params":{},"sessionId":"A"}"#,
        r#"nothing of the kind,"sessionId":"A"}"#,
    ] {
        let (connection, commands, replies) = connected();
        let (bad, good) = (connection.session("A"), connection.session("B"));
        let nothing = json!({});
        let frames: &'static [&'static str] =
            vec![garbage, r#"{"id":2,"result":{"x":1},"sessionId":"B"}"#].leak();
        let chromium = say((commands, replies), 2, frames);
        let (first, second) = tokio::join!(
            bad.call_raw("Page.enable", &nothing, PATIENCE),
            good.call_raw("Page.enable", &nothing, PATIENCE),
        );
        assert_eq!(first.unwrap_err(), CdpError::Untrusted { method: "Page.enable" }, "{garbage}");
        assert_eq!(second.unwrap().json(), br#"{"x":1}"#);
        assert!(bad.gone().is_cancelled() && !good.gone().is_cancelled());
        assert_eq!(connection.close_reason(), None);
        drop(chromium.join().unwrap());
    }
}

#[tokio::test]
async fn a_main_process_that_sends_garbage_ends_its_browser_and_the_reason_is_kept() {
    for (garbage, why) in [
        ("Total for M. Moreau", "it is no JSON"),
        (r#"{"params":{"a":",\"sessionId\":\"A\"}"}}"#, "it has neither an id nor a method"),
    ] {
        let (connection, commands, replies) = connected();
        let session = connection.session("A");
        let chromium = say((commands, replies), 1, vec![garbage].leak());
        let called = session.call_raw("Page.enable", &json!({}), PATIENCE).await;
        let reason = CloseReason::Malformed(why);
        assert_eq!(connection.close_reason(), Some(reason.clone()));
        assert!(!reason.to_string().contains("Moreau"));
        assert_eq!(called.unwrap_err(), CdpError::Closed { method: "Page.enable", reason });
        connection.finished().await;
        drop(chromium.join().unwrap());
    }
}

#[tokio::test]
async fn an_error_without_a_number_is_nobodys() {
    let (connection, commands, replies) = connected();
    let session = connection.session("A");
    let chromium = say(
        (commands, replies),
        1,
        &[
            r#"{"error":{"code":-32700,"message":"JSON: object expected"}}"#,
            r#"{"error":{"code":-32600,"message":"no id"},"sessionId":"A"}"#,
            r#"{"id":99,"result":{}}"#,
            r#"{"method":"Nobody.knows","params":{},"sessionId":"Z"}"#,
            r#"{"id":1,"result":{"x":1},"sessionId":"A"}"#,
        ],
    );
    let called = session.call_raw("Page.enable", &json!({}), PATIENCE).await;
    assert_eq!(called.unwrap().json(), br#"{"x":1}"#);
    assert_eq!(connection.close_reason(), None);
    drop(chromium.join().unwrap());
}

#[tokio::test]
async fn nobody_answers_for_another_and_nobody_ends_another() {
    for forged in [
        r#"{"id":2,"result":{"x":"forged"},"sessionId":"A"}"#,
        r#"{"id":2,"error":{"code":-1,"message":"forged"},"sessionId":"A"}"#,
    ] {
        let (connection, commands, replies) = connected();
        let (bad, good) = (connection.session("A"), connection.session("B"));
        let nothing = json!({});
        let frames = vec![
            r#"{"method":"Target.detachedFromTarget","params":{"sessionId":"B"},"sessionId":"A"}"#,
            forged,
            // The main process may: it says so where a session is not there any more.
            r#"{"id":2,"error":{"code":-32001,"message":"Session with given id not found."}}"#,
        ];
        let chromium = say((commands, replies), 2, frames.leak());
        let (first, second) = tokio::join!(
            bad.call_raw("Page.enable", &nothing, PATIENCE),
            good.call_raw("Page.enable", &nothing, PATIENCE),
        );
        assert_eq!(first.unwrap_err(), CdpError::Untrusted { method: "Page.enable" });
        assert!(matches!(second.unwrap_err(), CdpError::Refused { code: -32001, .. }), "{forged}");
        assert!(!good.gone().is_cancelled() && connection.close_reason().is_none());
        drop(chromium.join().unwrap());
    }
}

#[tokio::test]
async fn an_answer_for_another_that_is_too_large_is_not_taken_either() {
    let (connection, commands, replies) = connected();
    let (bad, good) = (connection.session("A"), connection.session("B"));
    let nothing = json!({});
    let chromium = answer(
        (commands, replies),
        2,
        vec![
            (r#"{"id":2,"result":{"data":""#, LIMIT, r#""},"sessionId":"A"}"#),
            (r#"{"id":2,"result":{"data":""#, 1, r#""},"sessionId":"B"}"#),
        ],
    );
    let (first, second) = tokio::join!(
        bad.call_raw("Page.enable", &nothing, PATIENCE),
        good.call_raw("Page.enable", &nothing, PATIENCE),
    );
    assert!(matches!(first.unwrap_err(), CdpError::Untrusted { .. }));
    assert_eq!(second.unwrap().json(), br#"{"data":"x"}"#);
    drop(chromium.join().unwrap());
}

#[test]
fn frames_have_room_for_the_largest_pdf_and_little_more() {
    const MIB: u64 = 1 << 20;
    assert_eq!(frame_limit(0), FRAME_LIMIT);
    for pdf in [1, 20 * MIB, 32 * MIB, 96 * MIB, 1 << 32] {
        let limit = frame_limit(pdf) as u64;
        let base64 = 4 * pdf.div_ceil(3);
        assert!(limit >= base64 + MIB && limit <= base64 + 33 * MIB, "{pdf}: {limit}");
    }
    assert_eq!(frame_limit(1), 32 << 20, "events and other answers need room too");
    assert!(frame_limit(u64::MAX) as u64 > 1 << 40);
}

#[tokio::test]
async fn with_no_time_left_nothing_is_sent_and_who_is_gone_is_said_to_be() {
    let (connection, mut commands, replies) = connected();
    let (session, method) = (connection.session("A"), "Page.printToPDF");
    let nothing = json!({});
    let late = || session.call_raw(method, &nothing, Duration::ZERO);
    let after = Duration::ZERO;
    assert_eq!(late().await.unwrap_err(), CdpError::Timeout { method, after });
    drop(replies);
    connection.finished().await;
    assert!(matches!(late().await, Err(CdpError::Closed { .. })));
    let mut sent = Vec::new();
    commands.read_to_end(&mut sent).unwrap();
    assert!(sent.is_empty());
}
