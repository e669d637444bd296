//! How a protocol call can fail.

use std::time::Duration;

/// Why a connection to a browser ended. The first reason is the one kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Chromium closed its end: it died or it was told to close.
    #[error("the pipe to Chromium reached its end")]
    EndOfFile,
    /// The child process ended.
    #[error("Chromium exited ({0})")]
    Exited(String),
    /// The process that its renderers are forked from ended.
    #[error("Chromium's zygote ended: it can start no more renderers")]
    ZygoteEnded,
    /// We closed it.
    #[error("the browser was closed")]
    Requested,
    /// Reading or writing failed.
    #[error("the pipe to Chromium failed: {0}")]
    Io(String),
    /// Chromium's main process sent a frame that is no protocol message: it was
    /// taken over, or is broken. What it is instead, without any of its content.
    #[error("Chromium sent what is not a protocol message: {0}")]
    Malformed(&'static str),
}

/// Why a call did not give its result. Never holds a document's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdpError {
    /// No reply in time: the renderer is busy or stopped. Its context cannot be
    /// trusted any more: close it.
    #[error("{method} gave no reply within {after:?}")]
    Timeout {
        /// The call.
        method: &'static str,
        /// How long it waited.
        after: Duration,
    },
    /// The connection ended before the reply.
    #[error("{method} was cut off: {reason}")]
    Closed {
        /// The call.
        method: &'static str,
        /// Why the connection ended.
        reason: CloseReason,
    },
    /// The renderer of this session crashed, was killed, or was detached.
    #[error("{method} was cut off: its renderer is gone")]
    Crashed {
        /// The call.
        method: &'static str,
    },
    /// The renderer of this session sent what is no protocol message, or answered
    /// for another: it was taken over, or is broken. Its context is to be closed.
    #[error("{method} was cut off: its renderer does not keep to the protocol")]
    Untrusted {
        /// The call.
        method: &'static str,
    },
    /// Chromium answered with an error.
    #[error("Chromium refused {method}: {message} ({code})")]
    Refused {
        /// The call.
        method: &'static str,
        /// The protocol's error code, such as -32000.
        code: i64,
        /// Chromium's own words.
        message: String,
    },
    /// The command is larger than Chromium reads; nothing was sent.
    #[error("{method} would send {bytes} bytes, and Chromium reads at most {limit}")]
    TooLarge {
        /// The call.
        method: &'static str,
        /// The size of the encoded command, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The answer, or something else that the page had told meanwhile, is larger
    /// than we read.
    #[error("Chromium would hand over more than {limit} bytes for {method}")]
    Oversized {
        /// The call.
        method: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The parameters could not be encoded, or the reply was not what the
    /// protocol describes.
    #[error("{method} cannot be understood: {detail}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What did not fit.
        detail: String,
    },
}

impl CdpError {
    /// Whether the whole browser is gone, not just this call or page.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}
