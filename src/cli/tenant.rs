//! `tillroll tenant`: whose jobs the queue holds.

use super::Session;
use super::exit::Failure;
use super::forget;

/// What to do with a tenant.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Erase what the queue holds of a tenant, or of one of its jobs
    ///
    /// Documents, results, dead letters, histories, records, events; of a whole
    /// tenant its settings too. Jobs that wait or run are cancelled first, without a
    /// reply. What it cannot reach is said: docs/privacy.md. It may be run again at
    /// any time. Exit code 1 where jobs still run when their lease should be over.
    Forget(forget::Args),
}

/// Runs the verb.
///
/// # Errors
/// As the action.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match &args.action {
        Action::Forget(args) => forget::run(args, session),
    }
}
