//! What can go wrong with TLS, found in the library's errors: it wraps what it was
//! told in I/O errors, inside a shared error. Also in those that are no I/O errors:
//! a host that cannot be a name, and files of the system that cannot be read.

use std::error::Error;
use std::sync::Arc;

use ::redis::RedisError;

/// Why no connection over TLS came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsTrouble {
    /// The system's own authorities cannot be read; they are, even where `redis.ca` is set.
    #[error("the authorities that this system trusts cannot be read")]
    System,
    /// A file of ours is damaged, or key and certificate are not a pair.
    #[error("what is in redis.ca, redis.cert or redis.key cannot be used")]
    Files,
    /// Signed by nobody whom we know.
    #[error("redis' certificate is signed by an authority that is not trusted here")]
    Untrusted,
    /// For another host.
    #[error("redis' certificate is for another name than the host in the URL")]
    WrongName,
    /// Before or after its time.
    #[error("redis' certificate has expired or is not valid yet")]
    Expired,
    /// Unfit in some other way.
    #[error("redis' certificate is not acceptable")]
    Certificate,
    /// The other side does not speak TLS.
    #[error("this redis does not speak TLS on this port")]
    NotTls,
    /// It did not answer the handshake at all.
    #[error("redis did not answer the TLS handshake")]
    Silent,
    /// It hung up in the handshake or right after it, as one does that wants a
    /// certificate of ours: with TLS 1.3 its reason comes too late to be read.
    #[error("redis closed the TLS connection at once")]
    Closed,
    /// It wants another certificate of ours, or one at all.
    #[error("redis refuses the certificate of this client, or the lack of one")]
    Client,
    /// Anything else.
    #[error("no TLS connection to redis came about")]
    Handshake,
}

impl TlsTrouble {
    /// What TLS found wrong: an error of its own, or one inside an I/O error.
    pub(super) fn in_error(error: &RedisError) -> Option<Self> {
        let cause = cause(error)?;
        let inner = match cause.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref()? as &(dyn Error + 'static),
            // Of what is called an I/O error and is none, the reading of the system's files is left.
            None if error.is_io_error() && !is_name(cause) => return Some(Self::System),
            None => cause,
        };
        inner.downcast_ref::<rustls::Error>().map(Self::of)
    }

    fn of(error: &rustls::Error) -> Self {
        use rustls::{AlertDescription as Alert, CertificateError as Certificate};
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                // A certificate of a server that is its own authority, too.
                Certificate::UnknownIssuer | Certificate::BadSignature => Self::Untrusted,
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    Self::WrongName
                }
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. } => Self::Expired,
                _ => Self::Certificate,
            },
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnknownCA
                | Alert::CertificateUnknown
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::AccessDenied,
            ) => Self::Client,
            _ => Self::Handshake,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::System => {
                "correct SSL_CERT_FILE and SSL_CERT_DIR, or leave them out; else repair the package \
                 ca-certificates"
            }
            Self::Files => {
                "look at each file (openssl x509 -noout -text -in FILE, openssl pkey -noout -in FILE), \
                 and check that the key belongs to the certificate"
            }
            Self::Untrusted => {
                "set redis.ca to the PEM file of the authority that signed Redis' certificate, \
                 or install that authority on this system"
            }
            Self::WrongName => {
                "write the host in the URL as the certificate names it, \
                 or give Redis a certificate with this name (subjectAltName)"
            }
            Self::Expired => "renew Redis' certificate, and check the clocks of both machines",
            Self::Certificate => {
                "give Redis a certificate of version 3 with a subjectAltName that is meant for servers"
            }
            Self::NotTls => {
                "use the port that tls-port names in Redis' configuration, or write redis:// for a \
                 connection that is not encrypted"
            }
            Self::Silent => {
                "check that Redis runs and that this port is its tls-port: one without TLS may not \
                 answer a handshake at all"
            }
            Self::Client | Self::Closed => {
                "look into Redis' log for the reason; where it asks for certificates, set \
                 redis.cert and redis.key to a certificate that Redis' tls-ca-cert-file signed, or set \
                 tls-auth-clients no there"
            }
            Self::Handshake => {
                "check that Redis allows TLS 1.2 or 1.3 (tls-protocols) and look into its log"
            }
        }
    }
}

/// What the library wraps, shared.
fn cause(error: &RedisError) -> Option<&(dyn Error + 'static)> {
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    Some(&**shared)
}

/// Whether the host cannot stand in any certificate.
pub(super) fn is_wrong_host(error: &RedisError) -> bool {
    cause(error).is_some_and(is_name)
}

fn is_name(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<rustls::pki_types::InvalidDnsNameError>()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use crate::queue::QueueError;

    #[test]
    fn a_host_that_no_certificate_can_name_is_a_wrong_url() {
        let error = ServerName::try_from("no name").unwrap_err();
        let error = QueueError::from(::redis::RedisError::from(error));
        assert_eq!(error.kind(), "url", "{error:?}");
    }

    #[test]
    fn an_io_error_alone_is_no_trouble_with_tls() {
        for kind in [std::io::ErrorKind::ConnectionRefused, std::io::ErrorKind::TimedOut] {
            let error = QueueError::from(::redis::RedisError::from(std::io::Error::from(kind)));
            assert_eq!(error.kind(), "unavailable", "{error:?}");
        }
    }
}
