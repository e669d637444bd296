//! SIGTERM and SIGINT as a state that only gets worse.
//!
//! ```text
//! Run ──first signal──▶ Drain ──second signal──▶ Abort
//! ```
//!
//! Drain: take nothing new, finish what has begun. Abort: give back what has
//! begun, and stop now. More signals change nothing.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How urgently the process is asked to stop; the worse is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stop {
    /// Not at all.
    #[default]
    Run,
    /// Finish what has begun.
    Drain,
    /// Stop now.
    Abort,
}

impl Stop {
    /// What one more signal makes of it.
    #[must_use]
    pub fn worse(self) -> Self {
        match self {
            Self::Run => Self::Drain,
            Self::Drain | Self::Abort => Self::Abort,
        }
    }
}

/// Listens for the signals until it is dropped.
#[derive(Debug)]
pub struct Signals {
    stop: watch::Receiver<Stop>,
    listener: JoinHandle<()>,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses a signal handler.
    pub fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let (sender, stop) = watch::channel(Stop::Run);
        Ok(Self { stop, listener: tokio::spawn(forward(terminate, interrupt, sender)) })
    }

    /// The state, now and as it changes.
    #[must_use]
    pub fn stop(&self) -> watch::Receiver<Stop> {
        self.stop.clone()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn forward(mut terminate: Signal, mut interrupt: Signal, sender: watch::Sender<Stop>) {
    loop {
        let name = tokio::select! {
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
            else => return,
        };
        sender.send_modify(|stop| *stop = stop.worse());
        match *sender.borrow() {
            Stop::Run | Stop::Drain => {
                tracing::info!(signal = name, "draining: no new jobs; once more to abort");
            }
            Stop::Abort => tracing::warn!(signal = name, "aborting: jobs go back to the queue"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{self, getpid, kill_process};

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_aborts() {
        let signals = Signals::listen().unwrap();
        let mut stop = signals.stop();
        assert_eq!(*stop.borrow(), Stop::Run);
        kill_process(getpid(), process::Signal::TERM).unwrap();
        stop.changed().await.unwrap();
        assert_eq!(*stop.borrow_and_update(), Stop::Drain);
        kill_process(getpid(), process::Signal::INT).unwrap();
        stop.changed().await.unwrap();
        assert_eq!(*stop.borrow(), Stop::Abort);
    }

    #[test]
    fn it_only_gets_worse() {
        assert!(Stop::Run < Stop::Drain && Stop::Drain < Stop::Abort);
        assert_eq!(Stop::Abort.worse(), Stop::Abort);
    }
}
