//! The examples of `docs/protocol.md`, as they stand there, with each
//! language's own client.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::redis_server::RedisServer;
use crate::support::Worker;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs an example against a live worker; it checks what it gets by itself.
fn run(mut command: Command) {
    let server = RedisServer::volatile();
    let worker = Worker::start(&server.url(), &[]);
    let output = command.arg(server.url()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}\nthe worker:\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        worker.log()
    );
}

/// What `scripts/install-deps test` has installed.
fn installed(path: &str) -> PathBuf {
    let path = repository().join("target").join(path);
    assert!(path.exists(), "{} is missing: run scripts/install-deps test", path.display());
    path
}

#[test]
fn the_python_example_gets_its_pdfs() {
    let mut command = Command::new(installed("test-venv/bin/python"));
    command.arg(repository().join("docs/examples/receipt.py"));
    run(command);
}

#[test]
fn the_node_example_gets_its_pdfs() {
    // A module is looked up beside the file that imports it.
    let modules = installed("test-node/node_modules");
    let example = modules.with_file_name("receipt.mjs");
    std::fs::copy(repository().join("docs/examples/receipt.mjs"), &example).unwrap();
    let mut command = Command::new("node");
    command.arg(example);
    run(command);
}
