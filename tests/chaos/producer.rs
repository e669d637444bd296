//! Pushes jobs as a patient producer does: what was not acknowledged is pushed
//! again, under the same name.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Connection;
use serde_json::{Value, json};

use crate::support::{PREFIX, receipt};
use crate::watch::patient;

const TENANTS: usize = 10;
/// Longer than any run, and than an hour by which a clock may jump.
const KEPT_MS: u64 = 24 * 3_600_000;

/// The `number`-th job's name and tenant.
pub fn name(number: usize) -> String {
    format!("tenant-{}/r-{number}", number % TENANTS)
}

/// The `number`-th job's inbox and element: most are interactive and answered
/// with their PDF, some are bulk, stored or delayed.
pub fn job(number: usize) -> (String, Vec<u8>) {
    let mut header = header(number);
    if number % 7 == 3 {
        header["output"] = json!({"kind": "stored", "ttl_ms": KEPT_MS});
    }
    if number % 11 == 5 {
        header["delay_ms"] = 700.into();
    }
    let inbox = if number % 5 == 4 { "in:bulk" } else { "in" };
    let html = if number % 8 == 1 { slow(&name(number), 1500, 0) } else { receipt(&name(number)) };
    (format!("{PREFIX}{inbox}"), framed(&header, &html))
}

/// A document on which Chromium computes for long, in little memory: each of
/// its `elements` is compared with all before it, for ten rules that never
/// match. 2,300 take about a second, 8,000 ten and more. Each of `words` adds
/// some kilobytes to what the renderer holds meanwhile.
pub fn slow(title: &str, elements: usize, words: usize) -> String {
    let rules: Vec<_> = (0..10).map(|rule| format!(".n{rule}~i")).collect();
    format!(
        "<!doctype html><html><head><title>{title}</title><style>{}{{color:red}}</style></head>\
         <body><p>{title} {}</p><div>{}</div></body></html>",
        rules.join(","),
        "<b>1</b> ".repeat(words),
        "<i></i>".repeat(elements)
    )
}

/// The `number`-th job as plain as can be.
pub fn plain(number: usize) -> (String, Vec<u8>) {
    (format!("{PREFIX}in"), framed(&header(number), &receipt(&name(number))))
}

/// A header whose results outlive the run.
pub fn header(number: usize) -> Value {
    let name = name(number);
    let (tenant, id) = name.split_once('/').unwrap();
    // Patient, since the machine may be busy with other things as well.
    let options = json!({"paper": "80mm", "timeout_ms": 30_000});
    json!({"id": id, "tenant": tenant, "options": options, "reply_ttl_ms": KEPT_MS})
}

/// A framed element.
pub fn framed(header: &Value, html: &str) -> Vec<u8> {
    format!("{header}\n{html}").into_bytes()
}

/// Pushes over one connection; the names of what was pushed.
pub fn push(redis: &mut Connection, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers
        .map(|number| {
            let (inbox, element) = plain(number);
            redis::cmd("LPUSH").arg(inbox).arg(element).exec(redis).unwrap();
            name(number)
        })
        .collect()
}

/// Pushes jobs evenly over a time, in a thread.
pub struct Producer {
    thread: Option<JoinHandle<Vec<String>>>,
    /// Dropped to stop it.
    going: Option<std::sync::mpsc::SyncSender<()>>,
}

impl Producer {
    /// Pushes [`job`]s from `first` on: `count` of them within `over`, whatever dies.
    pub fn start(url: &str, first: usize, count: usize, over: Duration) -> Self {
        let (going, stopped) = sync_channel(1);
        let url = url.to_owned();
        let thread =
            std::thread::spawn(move || produce(&url, first..first + count, over, &stopped));
        Self { thread: Some(thread), going: Some(going) }
    }

    /// The names of all that was pushed, once all of it is.
    pub fn all(mut self) -> Vec<String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        drop(self.going.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn produce(
    url: &str,
    numbers: std::ops::Range<usize>,
    over: Duration,
    stopped: &Receiver<()>,
) -> Vec<String> {
    let (begun, count) = (Instant::now(), numbers.len());
    let mut connection = None;
    let mut pushed = Vec::new();
    for (index, number) in numbers.enumerate() {
        let due = begun + over.mul_f64(index as f64 / count as f64);
        // A pace, not a wait for anything; hung up means that nobody wants more.
        let pause = due.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return pushed;
        }
        let (inbox, element) = job(number);
        while push_once(url, &mut connection, &inbox, &element).is_err() {
            connection = None;
            let again = Duration::from_millis(50);
            if stopped.recv_timeout(again) == Err(RecvTimeoutError::Disconnected) {
                return pushed;
            }
        }
        pushed.push(name(number));
    }
    pushed
}

fn push_once(
    url: &str,
    connection: &mut Option<Connection>,
    inbox: &str,
    element: &[u8],
) -> redis::RedisResult<()> {
    if connection.is_none() {
        *connection = Some(patient(url)?);
    }
    match connection {
        Some(connection) => redis::cmd("LPUSH").arg(inbox).arg(element).exec(connection),
        None => Ok(()),
    }
}
