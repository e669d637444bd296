//! The values that say where Redis is, and how to recognise it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::values::Setting;

/// Where Redis is, with its password: [`RedisUrl::expose`] is the only way to
/// see that.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// What stands for the private Redis of the state directory.
    pub const EMBEDDED: &str = "embedded";

    /// Whether it is the word `embedded`: the URL is then found in the state directory.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.0 == Self::EMBEDDED
    }

    /// Whether it asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("rediss://")
    }

    /// The URL as given, password included: for the Redis client only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_url(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// `url` without what may be secret in it: user and password before the host,
/// and everything after a question mark (`?pass=…` of a socket's URL).
#[must_use]
pub fn redact_url(url: &str) -> String {
    let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'+');
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(p, query)| (p, Some(query)));
    let hidden_query = if query.is_some() { "?***" } else { "" };
    match place.rsplit_once('@') {
        // Either a password with a question mark, or a query with an at sign.
        _ if query.is_some_and(|query| query.contains('@')) => format!("{scheme}***"),
        Some((_, host)) => format!("{scheme}***@{host}{hidden_query}"),
        None => format!("{scheme}{place}{hidden_query}"),
    }
}

impl Setting for Option<RedisUrl> {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        if text == RedisUrl::EMBEDDED {
            return Ok(Some(RedisUrl(text.into())));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("it has no scheme".into());
        };
        match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" if rest.is_empty() => {
                Err("it names no place".into())
            }
            "rediss" if rest.ends_with("#insecure") => {
                Err("a certificate is always checked: set redis.ca instead of #insecure".into())
            }
            "redis" | "rediss" | "unix" | "redis+unix" => Ok(Some(RedisUrl(text.into()))),
            "valkey" | "valkeys" => Err("its scheme is written redis or rediss here".into()),
            _ => Err("its scheme is unknown".into()),
        }
    }
    fn expects() -> String {
        "a URL such as redis://127.0.0.1:6379, rediss://redis.example:6380 or \
         unix:///run/redis/redis.sock, or \"embedded\""
            .into()
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, RedisUrl::to_string)
    }
}

/// The path of a file with certificates or a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemFile(PathBuf);

impl PemFile {
    /// The path, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// `None` (written `""`) is "none".
impl Setting for Option<PemFile> {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(None),
            _ => PathBuf::parse(text).map(|path| Some(PemFile(path))),
        }
    }
    fn expects() -> String {
        "the absolute path of a PEM file, or \"\" for none".into()
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, |file| file.0.show())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://:hunter2@db:6379/0", "redis://***@db:6379/0"),
            ("redis://app:hun@ter2@db", "redis://***@db"),
            ("redis://app:hunter2?x@db", "redis://***"),
            ("unix:///run/redis.sock?pass=hunter2", "unix:///run/redis.sock?***"),
            ("unix:///run/redis.sock?pass=hun@ter2", "unix://***"),
            (":hunter2@db:6379", "***@db:6379"),
            ("app:hunter2://x@db", "***@db"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
        let url = <Option<RedisUrl>>::parse("redis://:hunter2@db").unwrap().unwrap();
        assert!(!format!("{url} {url:?}").contains("hunter2"));
        assert_eq!(url.expose(), "redis://:hunter2@db");
    }

    proptest! {
        #[test]
        fn no_password_survives_redaction(password in "[a-zA-Z0-9:/?#@]{1,30}Q") {
            let url = format!("redis://app:{password}@host:6379/0");
            prop_assert!(!redact_url(&url).contains('Q'));
        }
    }
}
