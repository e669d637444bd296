//! Frames: bytes in, messages out. Pure; no I/O.
//!
//! A frame is one JSON object followed by a NUL byte (JSON text never contains
//! one). [`FrameDecoder`] takes bytes as they come, however they are cut.

use std::borrow::Cow;
use std::ffi::CStr;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What Chromium reads into one command before it gives up the pipe
/// (`kReceiveBufferSizeForDevTools` in devtools_pipe_handler.cc), in bytes.
pub const OUTGOING_LIMIT: usize = 100 * 1024 * 1024 - 1;

/// Frames up to this size are copied out of the read buffer; larger ones take
/// the buffer with them. So a small reply never pins a large buffer.
const COPY_UP_TO: usize = 64 * 1024;

/// How much room a read gets, in bytes: what a pipe holds by default.
const READ_ROOM: usize = 64 * 1024;

/// The other side sent a frame larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of more than {limit} bytes")]
pub struct FrameTooLarge {
    /// The limit, in bytes.
    pub limit: usize,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Where the unfinished frame begins.
    start: usize,
    /// Up to where no NUL was found; at least `start`.
    scanned: usize,
    limit: usize,
}

impl FrameDecoder {
    /// A decoder that refuses frames of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, limit }
    }

    /// Where the next bytes are to be appended, with room reserved.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.reserve(READ_ROOM);
        &mut self.buffer
    }

    /// The next whole frame, without its NUL; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameTooLarge`], again and again: the stream cannot be used further.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        let fresh = &self.buffer[self.scanned..];
        // The C string search looks at whole words at a time.
        let Ok(found) = CStr::from_bytes_until_nul(fresh) else {
            self.scanned = self.buffer.len();
            if self.scanned - self.start > self.limit {
                return Err(FrameTooLarge { limit: self.limit });
            }
            return Ok(None);
        };
        let end = self.scanned + found.count_bytes();
        if end - self.start > self.limit {
            return Err(FrameTooLarge { limit: self.limit });
        }
        Ok(Some(self.take(end)))
    }

    fn take(&mut self, end: usize) -> Bytes {
        let (start, next) = (self.start, end + 1);
        if end - start <= COPY_UP_TO {
            let frame = Bytes::copy_from_slice(&self.buffer[start..end]);
            if next == self.buffer.len() {
                self.buffer.clear();
                (self.start, self.scanned) = (0, 0);
            } else {
                (self.start, self.scanned) = (next, next);
            }
            return frame;
        }
        let rest = self.buffer[next..].to_vec();
        let whole = std::mem::replace(&mut self.buffer, rest);
        (self.start, self.scanned) = (0, 0);
        Bytes::from(whole).slice(start..end)
    }
}

#[derive(Serialize)]
struct Outgoing<'a, P: ?Sized> {
    id: u64,
    method: &'a str,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    params: &'a P,
}

/// One command as a frame, with its NUL.
pub(super) fn encode<P: Serialize + ?Sized>(
    id: u64,
    method: &str,
    session: Option<&str>,
    params: &P,
) -> serde_json::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(256);
    serde_json::to_writer(&mut frame, &Outgoing { id, method, session, params })?;
    frame.push(0);
    Ok(frame)
}

#[derive(Deserialize)]
struct Incoming<'a> {
    id: Option<u64>,
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<WireError>,
}

/// The error that Chromium answers with.
#[derive(Debug, Deserialize)]
pub(crate) struct WireError {
    pub(crate) code: i64,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) data: Option<String>,
}

/// What a frame is. Ranges point into it.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Reply { id: u64, result: Range<usize> },
    Failure { id: Option<u64>, error: WireError },
    Event { session: Option<Cow<'a, str>>, method: Cow<'a, str>, params: Range<usize> },
}

/// Reads a frame's envelope only; what it carries stays where it is.
pub(crate) fn parse(frame: &[u8]) -> Result<Message<'_>, String> {
    let message: Incoming<'_> = serde_json::from_slice(frame).map_err(|e| e.to_string())?;
    let range = |raw: Option<&RawValue>| match raw {
        // Both point into `frame`, so the difference is the offset.
        Some(raw) => {
            let start = raw.get().as_ptr() as usize - frame.as_ptr() as usize;
            start..start + raw.get().len()
        }
        None => 0..0,
    };
    match (message.id, message.error, message.method) {
        (id, Some(error), _) => Ok(Message::Failure { id, error }),
        (Some(id), None, _) => Ok(Message::Reply { id, result: range(message.result) }),
        (None, None, Some(method)) => {
            let params = range(message.params);
            Ok(Message::Event { session: message.session, method, params })
        }
        (None, None, None) => Err("neither an id nor a method".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(decoder: &mut FrameDecoder, bytes: &[u8]) -> Vec<Bytes> {
        decoder.room().extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            frames.push(frame);
        }
        frames
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec(prop::collection::vec(1u8.., 0..300), 0..20),
            cuts in prop::collection::vec(1usize..200, 1..50),
        ) {
            let stream: Vec<u8> =
                frames.iter().flat_map(|f| f.iter().copied().chain([0])).collect();
            let mut decoder = FrameDecoder::new(300);
            let (mut rest, mut got) = (&stream[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                got.extend(feed(&mut decoder, now));
                rest = later;
            }
            prop_assert_eq!(got, frames.into_iter().map(Bytes::from).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_large_frame_keeps_what_follows_it() {
        let mut stream = vec![b'x'; COPY_UP_TO * 3];
        stream.extend_from_slice(b"\0small\0part");
        let mut decoder = FrameDecoder::new(COPY_UP_TO * 3);
        let frames = feed(&mut decoder, &stream);
        assert_eq!(frames[0].len(), COPY_UP_TO * 3);
        assert_eq!(frames[1], "small");
        assert_eq!(feed(&mut decoder, b"ial\0"), ["partial"]);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_ends() {
        let mut decoder = FrameDecoder::new(8);
        assert_eq!(feed(&mut decoder, b"12345678\0"), ["12345678"]);
        decoder.room().extend_from_slice(b"123456789");
        assert_eq!(decoder.next_frame(), Err(FrameTooLarge { limit: 8 }));
        let mut decoder = FrameDecoder::new(8);
        decoder.room().extend_from_slice(b"123456789\0");
        assert_eq!(decoder.next_frame(), Err(FrameTooLarge { limit: 8 }));
    }

    #[test]
    fn envelopes_are_told_apart() {
        let frame = br#"{"id":7,"result":{"data":"JVBE"},"sessionId":"S"}"#;
        let Message::Reply { id: 7, result } = parse(frame).unwrap() else { panic!("reply") };
        assert_eq!(&frame[result], br#"{"data":"JVBE"}"#);

        let frame = br#"{"method":"Page.x","params":{"a":1},"sessionId":"S"}"#;
        let Message::Event { session, method, params } = parse(frame).unwrap() else {
            panic!("event")
        };
        assert_eq!(
            (session.as_deref(), &*method, &frame[params]),
            (Some("S"), "Page.x", &br#"{"a":1}"#[..])
        );

        let frame = br#"{"error":{"code":-32700,"message":"JSON"}}"#;
        assert!(matches!(parse(frame), Ok(Message::Failure { id: None, .. })));
        assert!(parse(b"{}").is_err() && parse(b"").is_err() && parse(b"\xff").is_err());
    }

    #[test]
    fn a_command_ends_in_its_only_nul() {
        let frame = encode(3, "Page.enable", Some("S"), &serde_json::json!({"t": "a\0b"})).unwrap();
        assert_eq!(
            frame,
            b"{\"id\":3,\"method\":\"Page.enable\",\"sessionId\":\"S\",\"params\":{\"t\":\"a\\u0000b\"}}\0"
        );
    }
}
