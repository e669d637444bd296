//! An authority for one test, and what it signs; made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::RedisServer;

/// A certificate and its key.
pub(crate) struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// See the module. Its files live as long as the value.
pub(crate) struct Authority {
    directory: TempDir,
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Self { directory };
        let mut make = vec!["req", "-x509", "-days", "2", "-subj", "/CN=An authority of a test"];
        make.extend(NEW_KEY);
        make.extend(["-keyout", "ca.key", "-out", "ca.pem"]);
        authority.openssl(&make);
        authority
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for localhost.
    pub(crate) fn localhost(&self) -> Certificate {
        self.sign("localhost", "2")
    }

    /// A certificate for `name` that ends in so many days.
    pub(crate) fn sign(&self, name: &str, days: &str) -> Certificate {
        let [key, csr, extensions, cert] =
            ["key", "csr", "ext", "pem"].map(|ending| format!("{name}.{ending}"));
        let subject = format!("/CN={name}");
        let mut ask = vec!["req", "-new", "-subj", &subject];
        ask.extend(NEW_KEY);
        ask.extend(["-keyout", &key, "-out", &csr]);
        self.openssl(&ask);
        let text = format!("basicConstraints=CA:FALSE\nsubjectAltName=DNS:{name}\n");
        std::fs::write(self.path(&extensions), text).unwrap();
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            &extensions,
            "-out",
            &cert,
        ]);
        Certificate { cert: self.path(&cert), key: self.path(&key) }
    }

    /// A server that speaks TLS too, with this certificate; `asks`: it wants one of
    /// its clients as well.
    pub(crate) fn server(&self, certificate: &Certificate, asks: bool) -> RedisServer {
        RedisServer::start(&[
            "--appendonly",
            "no",
            "--tls-port",
            "{tls}",
            "--tls-cert-file",
            text(&certificate.cert),
            "--tls-key-file",
            text(&certificate.key),
            "--tls-ca-cert-file",
            text(&self.ca()),
            "--tls-auth-clients",
            if asks { "yes" } else { "no" },
        ])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let ran = command.args(arguments).current_dir(self.directory.path()).output();
        let ran = ran.expect("openssl could not be started: install the package openssl");
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// The path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
