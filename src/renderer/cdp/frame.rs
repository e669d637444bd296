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

/// How much is kept of the beginning of a frame that is too long: its id stands there.
const HEAD: usize = 64;
/// And of its end, where an event's session stands.
const TAIL: usize = 256;

/// One frame, without its NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// All of it.
    Whole(Bytes),
    /// It was larger than the limit: what it answers or tells of is known, not
    /// what it says.
    Cut(Cut),
}

/// What is kept of a frame larger than the limit; the rest was never held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Cut {
    /// What would be kept of a frame that is here in full.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let mut cut = Self::default();
        cut.eat(frame);
        cut
    }

    fn eat(&mut self, bytes: &[u8]) {
        let missing = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// The call that it answers. Chromium writes the id first.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        let rest = self.head.strip_prefix(b"{\"id\":")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // Whoever wrote the next byte wrote all of the number.
        (rest.get(digits) == Some(&b',')).then_some(())?;
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    }

    /// The session that a frame came from. Chromium's main process writes it last,
    /// so that nothing that a renderer says can pass for it.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        const NAME: &[u8] = b",\"sessionId\":\"";
        let at = self.tail.windows(NAME.len()).rposition(|window| window == NAME)?;
        let id = self.tail[at + NAME.len()..].strip_suffix(b"\"}")?;
        let is_id = !id.is_empty() && id.iter().all(u8::is_ascii_alphanumeric);
        is_id.then(|| std::str::from_utf8(id).ok())?
    }
}

/// Cuts a stream of bytes into frames. One that is larger than the limit is let
/// pass without being held, and what follows it is read as ever.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Where the unfinished frame begins.
    start: usize,
    /// Up to where no NUL was found; at least `start`.
    scanned: usize,
    limit: usize,
    /// The frame that is let pass.
    passing: Option<Cut>,
}

impl FrameDecoder {
    /// A decoder that lets frames of more than `limit` bytes pass.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, limit, passing: None }
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

    /// The next frame; `None` if more bytes are needed.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let fresh = &self.buffer[self.scanned..];
        // The C string search looks at whole words at a time.
        let Ok(found) = CStr::from_bytes_until_nul(fresh) else {
            self.scanned = self.buffer.len();
            if self.passing.is_some() || self.scanned - self.start > self.limit {
                self.let_pass();
            }
            return None;
        };
        let end = self.scanned + found.count_bytes();
        if self.passing.is_some() || end - self.start > self.limit {
            let mut cut = self.passing.take().unwrap_or_default();
            cut.eat(&self.buffer[self.start..end]);
            self.go_on_at(end + 1);
            return Some(Frame::Cut(cut));
        }
        Some(Frame::Whole(self.take(end)))
    }

    /// Gives up what is there of a frame that is too long.
    fn let_pass(&mut self) {
        let mut cut = self.passing.take().unwrap_or_default();
        cut.eat(&self.buffer[self.start..]);
        self.passing = Some(cut);
        if self.buffer.capacity() > 2 * READ_ROOM {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        (self.start, self.scanned) = (0, 0);
    }

    fn go_on_at(&mut self, next: usize) {
        if next == self.buffer.len() {
            self.buffer.clear();
            (self.start, self.scanned) = (0, 0);
        } else {
            (self.start, self.scanned) = (next, next);
        }
    }

    fn take(&mut self, end: usize) -> Bytes {
        let (start, next) = (self.start, end + 1);
        if end - start <= COPY_UP_TO {
            let frame = Bytes::copy_from_slice(&self.buffer[start..end]);
            self.go_on_at(next);
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
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The error that Chromium answers with.
#[derive(Debug, Deserialize)]
pub(crate) struct WireError {
    pub(crate) code: i64,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) data: Option<String>,
}

impl WireError {
    /// Half a character in Chromium's words must not cost the whole connection.
    fn read(raw: &RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or_else(|_| Self {
            code: 0,
            message: "an error that cannot be read".to_owned(),
            data: None,
        })
    }
}

/// What a frame is. Ranges point into it.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Reply { id: u64, session: Option<Cow<'a, str>>, result: Range<usize> },
    Failure { id: Option<u64>, session: Option<Cow<'a, str>>, error: WireError },
    Event { session: Option<Cow<'a, str>>, method: Cow<'a, str>, params: Range<usize> },
}

/// Reads a frame's envelope only; what it carries stays where it is. The error has
/// nothing of the frame in it: it may be logged.
pub(crate) fn parse(frame: &[u8]) -> Result<Message<'_>, &'static str> {
    use serde_json::error::Category;

    let message: Incoming<'_> =
        serde_json::from_slice(frame).map_err(|error| match error.classify() {
            Category::Syntax | Category::Io => "it is no JSON",
            Category::Eof => "its JSON has no end",
            Category::Data => "its fields are not those of a message",
        })?;
    let session = message.session;
    let range = |raw: Option<&RawValue>| match raw {
        // Both point into `frame`, so the difference is the offset.
        Some(raw) => {
            let start = raw.get().as_ptr() as usize - frame.as_ptr() as usize;
            start..start + raw.get().len()
        }
        None => 0..0,
    };
    match (message.id, message.error, message.method) {
        (id, Some(error), _) => Ok(Message::Failure { id, session, error: WireError::read(error) }),
        (Some(id), None, _) => Ok(Message::Reply { id, session, result: range(message.result) }),
        (None, None, Some(method)) => {
            Ok(Message::Event { session, method, params: range(message.params) })
        }
        (None, None, None) => Err("it has neither an id nor a method"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(decoder: &mut FrameDecoder, bytes: &[u8]) -> Vec<Bytes> {
        decoder.room().extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame() {
            match frame {
                Frame::Whole(frame) => frames.push(frame),
                Frame::Cut(cut) => panic!("{cut:?}"),
            }
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

        #[test]
        fn long_frames_pass_and_the_others_arrive(
            frames in prop::collection::vec(prop::collection::vec(1u8.., 0..900), 0..20),
            cuts in prop::collection::vec(1usize..700, 1..50),
        ) {
            const LIMIT: usize = 300;
            let stream: Vec<u8> =
                frames.iter().flat_map(|f| f.iter().copied().chain([0])).collect();
            let mut decoder = FrameDecoder::new(LIMIT);
            let (mut rest, mut got) = (&stream[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.room().extend_from_slice(now);
                got.extend(std::iter::from_fn(|| decoder.next_frame()));
                prop_assert!(decoder.buffer.len() - decoder.start <= LIMIT);
                rest = later;
            }
            let want: Vec<Frame> = frames.into_iter().map(|frame| {
                if frame.len() <= LIMIT { return Frame::Whole(frame.into()); }
                let (head, tail) = (&frame[..HEAD], &frame[frame.len() - TAIL..]);
                Frame::Cut(Cut { head: head.to_vec(), tail: tail.to_vec() })
            }).collect();
            prop_assert_eq!(got, want);
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

    fn cut(text: &str) -> Cut {
        Cut::of(text.as_bytes())
    }

    #[test]
    fn what_a_long_frame_was_about_is_known() {
        let long = "x".repeat(1_000);
        let reply = cut(&format!(r#"{{"id":17,"result":{{"data":"{long}"}},"sessionId":"AB12"}}"#));
        assert_eq!((reply.id(), reply.session()), (Some(17), Some("AB12")));
        let event =
            cut(&format!(r#"{{"method":"A.b","params":{{"x":"{long}"}},"sessionId":"AB12"}}"#));
        assert_eq!((event.id(), event.session()), (None, Some("AB12")));
        // Of the browser itself, with what a document would like to be taken for.
        for forged in [r#","sessionId":"AB12"}"#, r#"\",\"sessionId\":\"AB12\"}"#] {
            let event = cut(&format!(r#"{{"method":"A.b","params":{{"x":"{long}{forged}"}}}}"#));
            assert_eq!((event.id(), event.session()), (None, None), "{forged}");
        }
        assert_eq!(cut(r#"{"id":17"#).id(), None);
        assert_eq!(cut("").id(), None);
    }

    #[test]
    fn an_error_that_cannot_be_read_is_still_an_answer() {
        let frame = br#"{"id":4,"error":{"code":-32000,"message":"\ud800"}}"#;
        assert!(matches!(parse(frame), Ok(Message::Failure { id: Some(4), .. })));
    }

    #[test]
    fn envelopes_are_told_apart() {
        let frame = br#"{"id":7,"result":{"data":"JVBE"},"sessionId":"S"}"#;
        let Message::Reply { id: 7, session, result } = parse(frame).unwrap() else {
            panic!("reply")
        };
        assert_eq!(session.as_deref(), Some("S"));
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
    fn why_a_frame_is_none_says_nothing_of_what_it_says() {
        for (frame, why) in [
            (&b"Total for M. Moreau"[..], "it is no JSON"),
            (br#"{"id":"Moreau"}"#, "its fields are not those of a message"),
            (br#"{"id":1,"Moreau""#, "its JSON has no end"),
            (
                br#"{"method":"A.b","sessionId":"X","sessionId":"Y"}"#,
                "its fields are not those of a message",
            ),
            (b"{}", "it has neither an id nor a method"),
        ] {
            assert_eq!(parse(frame).unwrap_err(), why);
        }
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
