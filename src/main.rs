//! The process: command line, configuration, logs, verb, exit code.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tillroll::cli::Cli;
use tillroll::cli::exit::{Exit, Failure};
use tillroll::telemetry;

fn main() -> ExitCode {
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // The panic hook has printed what happened and where.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&cli))).unwrap_or_else(|_| {
        Err(Failure::new(
            Exit::Bug,
            "running tillroll",
            "it panicked (see above)",
            "this is a bug: please report the lines above, without any document's content",
        ))
    });
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => match writeln!(std::io::stderr(), "{failure}") {
            // With stderr gone the exit code is all that can still be said.
            Ok(()) | Err(_) => failure.exit.into(),
        },
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let session = cli.session()?;
    telemetry::init(&session.loaded.config.log);
    cli.run(&session)
}
