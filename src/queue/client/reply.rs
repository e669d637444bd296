//! Reading a reply. Pure.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::failure::Class;
use crate::job::{Status, reply::Timings};
use crate::queue::QueueError;

/// One reply as it came: the JSON line, and the bytes after it. Its `Debug` form has
/// neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reply's JSON line.
    pub line: String,
    /// The PDF, where it travels in the reply (base64 where that was asked for).
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} and {} bytes)", self.line.len(), self.body.len())
    }
}

impl Answer {
    /// Splits a reply element.
    #[must_use]
    pub fn read(mut element: Vec<u8>) -> Self {
        match element.iter().position(|byte| *byte == b'\n') {
            None => Self { line: String::from_utf8_lossy(&element).into_owned(), body: Vec::new() },
            Some(at) => {
                let body = element.split_off(at + 1);
                element.truncate(at);
                Self { line: String::from_utf8_lossy(&element).into_owned(), body }
            }
        }
    }

    /// What the line says.
    ///
    /// # Errors
    /// [`QueueError::Unexpected`] where it is no reply of this wire version.
    pub fn reply(&self) -> Result<Reply, QueueError> {
        Reply::read(&self.line)
    }

    /// The PDF that travelled in the reply, decoded; `None` where there is none.
    ///
    /// # Errors
    /// [`QueueError::Unexpected`] where it is to be base64 and is not.
    pub fn pdf(self, reply: &Reply) -> Result<Option<Vec<u8>>, QueueError> {
        let encoded = reply.output.as_ref().is_some_and(|place| place.encoding.is_some());
        if self.body.is_empty() {
            Ok(None)
        } else if encoded {
            let decoded = STANDARD.decode(&self.body);
            decoded.map(Some).map_err(|error| unexpected(&error))
        } else {
            Ok(Some(self.body))
        }
    }
}

/// How one job ended. Fields that a newer worker may add are passed over.
///
/// ```
/// use tillroll::client::{Reply, Status};
///
/// let line = r#"{"v":1,"id":"r-2","tenant":"cafe","status":"rejected","pages":0,"bytes":0,
///     "warnings":[],"timings":{"queued_ms":0,"rendered_ms":0,"total_ms":0},"attempts":0,
///     "error":{"class":"input","code":"unknown_field","message":"field `options.format` is unknown",
///              "remedy":"here it is called paper"}}"#;
/// let reply = Reply::read(line)?;
/// assert_eq!(reply.status, Status::Rejected);
/// assert_eq!(reply.error.unwrap().remedy, "here it is called paper");
/// # Ok::<(), tillroll::queue::QueueError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Reply {
    /// Wire version.
    pub v: u64,
    /// The producer's id.
    pub id: String,
    /// Whose job.
    pub tenant: String,
    /// How it ended.
    pub status: Status,
    /// Pages of the PDF.
    #[serde(default)]
    pub pages: u32,
    /// Bytes of the PDF.
    #[serde(default)]
    pub bytes: u64,
    /// SHA-256 of the PDF, hexadecimal.
    pub sha256: Option<String>,
    /// Where the PDF is.
    pub output: Option<Place>,
    /// What a person should know.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// Where the time went.
    #[serde(default)]
    pub timings: Timings,
    /// Attempts that counted.
    #[serde(default)]
    pub attempts: u32,
    /// What went wrong.
    pub error: Option<ReplyError>,
    /// The producer's own, handed back.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

impl Reply {
    /// Reads a reply's JSON line.
    ///
    /// # Errors
    /// [`QueueError::Unexpected`] where it is no reply of this wire version.
    pub fn read(line: &str) -> Result<Self, QueueError> {
        serde_json::from_str(line).map_err(|error| unexpected(&error))
    }
}

/// Where a PDF is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// `reply` or `stored`.
    pub kind: String,
    /// The Redis key, where it has one of its own.
    pub key: Option<String>,
    /// `base64`, where the bytes after the line are encoded so.
    pub encoding: Option<String>,
}

/// Something that a person should know about a PDF that was made all the same, or about
/// one that was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// For machines.
    pub code: String,
    /// What was noticed.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReplyError {
    /// Whose fault.
    pub class: Class,
    /// For machines.
    pub code: String,
    /// For people: what failed and why.
    pub message: String,
    /// For people: what to do.
    pub remedy: String,
    /// When to try again, in milliseconds, where that helps.
    pub retry_ms: Option<u64>,
}

fn unexpected(error: &dyn std::error::Error) -> QueueError {
    QueueError::Unexpected { what: "a wait for a reply", answer: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Name, reply as written};

    #[test]
    fn a_reply_is_split_at_its_first_newline() {
        let answer = Answer::read(b"{\"v\":1}\n%PDF-1.4\n%%EOF".to_vec());
        assert_eq!(answer.line, "{\"v\":1}");
        assert_eq!(answer.body, b"%PDF-1.4\n%%EOF");
        let answer = Answer::read(b"{\"v\":1}".to_vec());
        assert!(answer.body.is_empty() && answer.line == "{\"v\":1}");
    }

    /// Every field that a worker writes comes back: the two types are in step.
    #[test]
    fn all_that_a_worker_writes_is_read() {
        let mut reply = written::Reply::new(&Name::parse("acme/r-1").unwrap(), Status::Dead);
        (reply.pages, reply.bytes, reply.attempts) = (3, 4000, 2);
        reply.sha256 = Some("ab".into());
        reply.output =
            Some(written::Place { kind: "reply", key: Some("k".into()), encoding: Some("base64") });
        reply.warnings = vec![written::Warning {
            code: "font_missing",
            message: "m".into(),
            remedy: "r".into(),
        }];
        reply.timings = Timings { queued_ms: 1, rendered_ms: 2, total_ms: 3 };
        reply.error = Some(written::ReplyError {
            class: Class::Document,
            code: "c".into(),
            message: "m".into(),
            remedy: "r".into(),
            retry_ms: Some(5),
        });
        reply.meta.insert("order".into(), "1".into());
        let read = Reply::read(&reply.to_line().unwrap()).unwrap();
        assert_eq!(
            (read.v, &*read.id, &*read.tenant, read.status),
            (1, "r-1", "acme", Status::Dead)
        );
        assert_eq!((read.pages, read.bytes, read.attempts), (3, 4000, 2));
        assert_eq!(read.sha256.as_deref(), Some("ab"));
        assert_eq!(read.warnings[0].code, "font_missing");
        assert_eq!(read.timings, reply.timings);
        assert_eq!(read.error.as_ref().unwrap().retry_ms, Some(5));
        assert_eq!(read.meta["order"], "1");
        let answer = Answer { line: String::new(), body: b"JVBERg==".to_vec() };
        assert_eq!(answer.pdf(&read).unwrap().unwrap(), b"%PDF");
        let broken = Answer { line: String::new(), body: b"%PDF".to_vec() };
        assert!(broken.pdf(&read).is_err());
    }

    #[test]
    fn fields_of_a_newer_worker_are_passed_over() {
        let line = r#"{"v":1,"id":"a","tenant":"b","status":"done","colour":"red"}"#;
        let reply = Reply::read(line).unwrap();
        assert_eq!((reply.status, reply.pages), (Status::Done, 0));
        assert!(Reply::read("{}").is_err());
    }
}
