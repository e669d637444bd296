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

#[path = "../../docs/examples/receipt.rs"]
mod rust_example;

#[test]
fn the_rust_example_gets_its_pdf() {
    let server = RedisServer::volatile();
    let _worker = Worker::start(&server.url(), &[]);
    let pdf = rust_example::render(&server.url(), "cafe", "r-1").unwrap();
    assert!(pdf.starts_with(b"%PDF-"));
}

#[test]
fn the_python_example_for_text_clients_gets_its_pdf() {
    let mut command = Command::new(installed("test-venv/bin/python"));
    command.arg(repository().join("docs/examples/receipt_text.py"));
    run(command);
}

#[test]
fn the_node_example_for_clients_with_a_prefix_gets_its_pdf() {
    run(node("receipt_prefix.mjs"));
}

#[test]
fn the_python_example_gets_its_pdfs() {
    let mut command = Command::new(installed("test-venv/bin/python"));
    command.arg(repository().join("docs/examples/receipt.py"));
    run(command);
}

#[test]
fn the_node_example_gets_its_pdfs() {
    run(node("receipt.mjs"));
}

/// A module is looked up beside the file that imports it.
fn node(name: &str) -> Command {
    let example = installed("test-node/node_modules").with_file_name(name);
    std::fs::copy(repository().join("docs/examples").join(name), &example).unwrap();
    let mut command = Command::new("node");
    command.arg(example);
    command
}
