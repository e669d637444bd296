//! The process: command line, configuration, logs, verb, exit code.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tillroll::cli::Cli;
use tillroll::cli::exit::{Exit, Failure};
use tillroll::telemetry;

/// Documents and PDFs come and go by the megabyte. glibc's allocator keeps what
/// they took for good; this one returns it, so that the memory stays the
/// machine's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let line = telemetry::panic_line(info.payload(), info.location());
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => format!("{trace}\n"),
            _ => String::new(),
        };
        // With stderr gone nobody would read it.
        write!(std::io::stderr(), "{line}\n{trace}").ok();
    }));
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
    tillroll::dumps::forbid().map_err(|error| {
        Failure::new(
            Exit::Unexpected,
            "forbidding core dumps",
            error.to_string(),
            "a core dump would hold documents; allow the program to lower RLIMIT_CORE",
        )
    })?;
    let session = cli.session()?;
    telemetry::init(&session.loaded.config.log);
    cli.run(&session)
}
