//! `tillroll queue`: what is done to the whole queue.

use super::Session;
use super::exit::Failure;
use super::fsck;

/// What to do with the queue.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Find what something else broke in the queue; --repair mends it
    ///
    /// An eviction, a hand with redis-cli, an old release, a Redis that was rolled
    /// back. Safe while the queue is in use. Exit code 0 where nothing is broken, or
    /// all was mended; 1 where something is broken and was not mended.
    Fsck(fsck::Args),
}

/// Runs the verb.
///
/// # Errors
/// As the action.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match &args.action {
        Action::Fsck(args) => fsck::run(args, session),
    }
}
