//! SIGTERM and SIGINT as requests to stop, each worse than the one before.
//!
//! ```text
//! (running) ──first signal──▶ Drain ──second signal──▶ Abort
//! ```
//!
//! Drain: take nothing new, finish what has begun. Abort: give back what has
//! begun, and stop now. More signals say Abort again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::worker::Stop;

/// Requests that may wait: a person pressing Ctrl-C in anger loses nothing when
/// the fifth is dropped.
const WAITING: usize = 4;

/// Takes over SIGTERM and SIGINT, until the receiver is dropped. Needs a tokio
/// runtime.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn listen() -> io::Result<mpsc::Receiver<Stop>> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(forward(terminate, interrupt, sender));
    Ok(receiver)
}

async fn forward(mut terminate: Signal, mut interrupt: Signal, sender: mpsc::Sender<Stop>) {
    let mut stop = Stop::Drain;
    loop {
        let name = tokio::select! {
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
            () = sender.closed() => return,
            else => return,
        };
        tracing::info!(signal = name, request = ?stop, "asked to stop");
        if sender.try_send(stop).is_err() {
            tracing::debug!(signal = name, "the request is one too many");
        }
        stop = Stop::Abort;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{self, getpid, kill_process};

    #[tokio::test]
    async fn the_first_signal_drains_and_the_next_ones_abort() {
        let mut stop = listen().unwrap();
        assert!(stop.try_recv().is_err());
        for (signal, expected) in [
            (process::Signal::TERM, Stop::Drain),
            (process::Signal::INT, Stop::Abort),
            (process::Signal::TERM, Stop::Abort),
        ] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(stop.recv().await, Some(expected));
        }
    }
}
