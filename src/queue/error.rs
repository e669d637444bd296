//! Why Redis did not do what was asked: told apart by what an operator must do.
//!
//! * It is away, or silent: [`QueueError::Unavailable`], [`QueueError::Pool`].
//! * It answers, and will not now: [`QueueError::Hindered`], with its reason. All of
//!   these pass; a call may be repeated.
//! * It does not want us: [`QueueError::Refused`], [`QueueError::Tls`]; what was
//!   configured is wrong: [`QueueError::Url`], [`QueueError::File`].
//! * It says what our scripts never say: [`QueueError::Unexpected`].
//!
//! An error inside a script has its own code from Redis 7 on. Before that the
//! code is in the message, behind a minus sign, so it is looked for there too.

use std::path::PathBuf;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use super::tls::{self, TlsTrouble};

/// Why Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// It cannot be reached, or did not answer in time; the call may be repeated.
    #[error("redis is not available")]
    Unavailable(#[source] RedisError),
    /// It answers that it cannot do this now; the call may be repeated.
    #[error("{why}")]
    Hindered {
        /// What keeps it from doing so.
        why: Hindrance,
        /// Its answer.
        #[source]
        source: RedisError,
    },
    /// It refuses us: wrong password, missing permission, wrong database.
    #[error("redis refuses this client")]
    Refused(#[source] RedisError),
    /// No connection over TLS came about.
    #[error("{why}")]
    Tls {
        /// What is wrong.
        why: TlsTrouble,
        /// As the library says it.
        #[source]
        source: RedisError,
    },
    /// A file that TLS needs cannot be used.
    #[error("{key}: {} cannot be used: {why}", path.display())]
    File {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It answered what no release of our scripts answers.
    #[error("redis answered something unexpected to {what}: {answer}")]
    Unexpected {
        /// What was asked.
        what: &'static str,
        /// The answer, shortened.
        answer: String,
    },
    /// No connection of the pool came free.
    #[error("no redis connection came free")]
    Pool(#[source] deadpool_redis::PoolError),
    /// The URL cannot be used.
    #[error("the redis URL cannot be used")]
    Url(#[source] RedisError),
}

/// Why a Redis that answers cannot do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hindrance {
    /// It could not write to its disk (`MISCONF`).
    #[error("redis cannot write to its disk and refuses writes")]
    Misconf,
    /// Too few replicas are connected (`NOREPLICAS`).
    #[error("redis has fewer replicas than it is told to have and refuses writes")]
    NoReplicas,
    /// It reads its data from disk (`LOADING`).
    #[error("redis is loading its data")]
    Loading,
    /// It is a replica, perhaps since a failover (`READONLY`, `MASTERDOWN`, `UNBLOCKED`).
    #[error("redis is a replica here and takes no writes")]
    ReadOnly,
    /// It is at its `maxmemory` (`OOM`).
    #[error("redis is full")]
    Full,
    /// A script of somebody else runs for too long (`BUSY`).
    #[error("redis is busy with a script that does not end")]
    Busy,
    /// It is a node of a cluster (`CLUSTERDOWN`, `MOVED`, `ASK`, `CROSSSLOT`).
    #[error("redis is a node of a cluster that does not hold this queue")]
    Cluster,
}

impl Hindrance {
    /// By the code that Redis' errors begin with.
    fn of(code: &str) -> Option<Self> {
        Some(match code {
            "MISCONF" => Self::Misconf,
            "NOREPLICAS" => Self::NoReplicas,
            "LOADING" => Self::Loading,
            "READONLY" | "MASTERDOWN" | "UNBLOCKED" => Self::ReadOnly,
            "OOM" => Self::Full,
            "BUSY" => Self::Busy,
            "CLUSTERDOWN" | "MOVED" | "ASK" | "CROSSSLOT" => Self::Cluster,
            _ => return None,
        })
    }

    /// What Redis calls it, wherever in an answer it stood.
    fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::Misconf => "MISCONF",
            Self::NoReplicas => "NOREPLICAS",
            Self::Loading => "LOADING",
            Self::ReadOnly => "READONLY",
            Self::Full => "OOM",
            Self::Busy => "BUSY",
            Self::Cluster => return None,
        })
    }

    /// A bounded name for metrics and logs.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Misconf => "misconf",
            Self::NoReplicas => "noreplicas",
            Self::Loading => "loading",
            Self::ReadOnly => "readonly",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Cluster => "cluster",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Misconf => {
                "make room on the disk of Redis, or let it write there (its log says what failed); \
                 it takes writes again after the next save or append that works"
            }
            Self::NoReplicas => {
                "bring its replicas back, or lower min-replicas-to-write if they are not needed"
            }
            Self::Loading => {
                "wait until it has read its files; its log and INFO persistence tell how far it is"
            }
            Self::ReadOnly => {
                "name the Redis that is the primary now, by an address that follows a failover \
                 (or make this one a primary: REPLICAOF NO ONE)"
            }
            Self::Full => {
                "let producers take their replies, or raise maxmemory; \
                 what waits in the queue is rendered as soon as there is room for results"
            }
            Self::Busy => "wait, or end that script with SCRIPT KILL; Redis' log tells which it is",
            Self::Cluster => {
                "name a Redis that is not part of a cluster: a queue lives on one Redis"
            }
        }
    }
}

impl QueueError {
    /// A bounded name for metrics and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Hindered { why, .. } => why.kind(),
            Self::Refused(_) => "refused",
            Self::Tls { .. } => "tls",
            Self::File { .. } => "file",
            Self::Unexpected { .. } => "unexpected",
            Self::Pool(_) => "pool",
            Self::Url(_) => "url",
        }
    }

    /// Whether asking again later may help without anybody changing what was
    /// configured: it was away, silent, or said that it cannot do this now.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Pool(_) | Self::Hindered { .. })
    }

    /// What keeps Redis from working, where it says so.
    #[must_use]
    pub fn hindrance(&self) -> Option<Hindrance> {
        match self {
            Self::Hindered { why, .. } => Some(*why),
            _ => None,
        }
    }

    /// What Redis called it (`OOM`, `NOSCRIPT`, …), where it said something; of
    /// several names for one hindrance the usual one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Hindered { why, source } => Some(why.code().or(source.code())?),
            error => std::error::Error::source(error)?.downcast_ref::<RedisError>()?.code(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unavailable(_) | Self::Pool(_) => {
                "check that Redis runs and that its host and port can be reached from here \
                 (redis-cli -u URL ping); a port that speaks TLS only needs rediss://"
            }
            Self::Hindered { why, .. } => why.remedy(),
            Self::Refused(_) => {
                "check user, password and database number in the URL, and the user's permissions \
                 (\"Access control\" in docs/operations.md)"
            }
            Self::Tls { why, .. } => why.remedy(),
            Self::File { .. } => {
                "name a file in PEM form (-----BEGIN …) that this user may read, by its absolute path"
            }
            Self::Unexpected { .. } => {
                "workers of different releases may share this queue; run the same release everywhere, \
                 or check that no other program writes keys below tillroll:"
            }
            Self::Url(_) => {
                "write it as redis://[[user]:password@]host[:port][/database], rediss://… for TLS, or \
                 unix:///path[?user=…&pass=…&db=…]; percent-encode what a URL reserves (%40 for @)"
            }
        }
    }
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        if let Some(why) = TlsTrouble::in_error(&error) {
            return Self::Tls { why, source: error };
        }
        let codes = codes(&error);
        let said = |code: &str| codes.iter().any(|said| said == code);
        if let Some(why) = codes.iter().find_map(|code| Hindrance::of(code)) {
            return Self::Hindered { why, source: error };
        }
        let switching = "Redis server refused to switch database";
        match error.kind() {
            ErrorKind::InvalidClientConfig => Self::Url(error),
            ErrorKind::Io if tls::is_wrong_host(&error) => Self::Url(error),
            ErrorKind::AuthenticationFailed => Self::Refused(error),
            _ if ["WRONGPASS", "NOAUTH", "NOPERM"].into_iter().any(said) => Self::Refused(error),
            ErrorKind::Server(ServerErrorKind::ResponseError)
                if error.to_string().starts_with(switching) =>
            {
                Self::Refused(error)
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
                Self::Unexpected { what: "a command", answer: error.to_string() }
            }
            _ => Self::Unavailable(error),
        }
    }
}

/// The codes of all errors in an answer; of an error inside a script also those
/// that Redis 6 puts into the message, behind a minus sign.
fn codes(error: &RedisError) -> Vec<String> {
    let Some(errors) = error.clone().into_server_errors() else {
        return error.code().map(str::to_owned).into_iter().collect();
    };
    let mut codes = Vec::new();
    for (_, error) in errors.iter() {
        codes.push(error.code().to_owned());
        let words = error.details().unwrap_or_default().split_ascii_whitespace();
        codes.extend(words.filter_map(|word| word.strip_prefix('-')).map(str::to_owned));
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_error(code: &str, detail: &str) -> QueueError {
        ::redis::make_extension_error(code.to_owned(), Some(detail.to_owned())).into()
    }

    #[test]
    fn what_hinders_a_redis_is_known_by_its_code() {
        let cases = [
            ("MISCONF", "misconf"),
            ("NOREPLICAS", "noreplicas"),
            ("LOADING", "loading"),
            ("READONLY", "readonly"),
            ("MASTERDOWN", "readonly"),
            ("UNBLOCKED", "readonly"),
            ("OOM", "full"),
            ("BUSY", "busy"),
            ("MOVED", "cluster"),
            ("CLUSTERDOWN", "cluster"),
            ("NOPERM", "refused"),
            ("WRONGPASS", "refused"),
            ("NOAUTH", "refused"),
            ("ERR", "unavailable"),
        ];
        for (code, kind) in cases {
            let error = server_error(code, "as it is");
            assert_eq!(error.kind(), kind, "{code}");
            assert!(!error.remedy().is_empty());
        }
    }

    #[test]
    fn inside_a_script_redis_6_names_the_code_in_the_message() {
        let detail = "Error running script (call to f_0): @user_script:7: @user_script: 7: \
                      -OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(server_error("ERR", detail).kind(), "full");
        let detail = "Error running script (call to f_0): @user_script:1: -MISCONF Redis is";
        assert_eq!(server_error("ERR", detail).hindrance(), Some(Hindrance::Misconf));
        assert_eq!(server_error("ERR", "value is not an integer -1").kind(), "unavailable");
    }
}
