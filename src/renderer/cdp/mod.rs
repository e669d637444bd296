//! The Chrome DevTools Protocol over two pipes: a small client of our own, on
//! the protocol types of `chromiumoxide`.
//!
//! Commands go in as JSON frames that each end in a NUL byte, replies and
//! events come out the same way. Two calls per receipt pass here, documents of
//! megabytes among them, so a frame is encoded once, straight from the caller's
//! value, and a reply stays in the bytes it arrived in until its reader takes
//! what it needs ([`RawReply`]).
//!
//! ```text
//! Session::call ─▶ encode ─▶ bounded queue ─▶ writer task ─▶ pipe ─▶ Chromium
//!       ▲                                                               │
//!       └── oneshot by id ── route ◀── frames ◀── reader task ◀── pipe ◀┘
//!                              └── events ─▶ bounded subscriptions
//! ```
//!
//! Failures: every call ends, at the latest at its deadline ([`CdpError`]). End
//! of file on the pipe fails all pending calls at once; a crashed renderer
//! fails those of its session. A call whose future is dropped forgets its id;
//! its late reply is ignored. A subscriber that does not keep up is told so and
//! loses its subscription: events are never dropped in silence. A frame larger than
//! the connection's limit ([`frame_limit`]) is never held: the call that it answers
//! fails, or the session that it tells of ends, and the browser serves everyone else.
//!
//! A browser may have been taken over by a document, so who wrote a frame decides what
//! becomes of one that is not right. Renderers write what stands in a frame; the main
//! process writes the session behind it.
//!
//! | frame | what becomes of it |
//! |---|---|
//! | no protocol message, with the session of a page | that session ends ([`CdpError::Untrusted`]), others do not notice |
//! | no protocol message, without a session | the main process wrote it: the connection ends ([`CloseReason::Malformed`]), and the browser with it |
//! | an answer from another session than was asked | nobody gets it, and the session that it came from ends |
//! | an error without an id (a command was not understood) | logged; the call that it was meant for ends at its deadline |
//! | an event of a kind or session that nobody knows, a late answer | nothing |

mod client;
mod error;
pub(crate) mod frame;
mod session;
#[cfg(test)]
mod tests;

pub use client::{Connection, FRAME_LIMIT, frame_limit};
pub use error::{CdpError, CloseReason};
pub use frame::{Cut, Frame, FrameDecoder, OUTGOING_LIMIT};
pub use session::{Event, Events, Lagged, RawReply, Session};
