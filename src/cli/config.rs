//! `tillroll config show|check`.

use serde_json::{Map, Value, json};

use super::Session;
use super::exit::{Failure, print};

/// What to do with the configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print every key, its value, and where the value came from
    ///
    /// Passwords are not shown. With --json: an object from key to
    /// {"value", "source"}.
    Show,
    /// Say whether the configuration is right: exit code 0, or 78 with every
    /// mistake on stderr
    Check,
}

/// Runs the verb.
///
/// # Errors
/// When stdout cannot be written. A wrong configuration never gets here.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let entries = &session.loaded.entries;
    match args.action {
        Action::Show if session.json => {
            let object = entries.iter().map(|entry| {
                let shown = json!({"value": entry.value, "source": entry.source.to_string()});
                (entry.key.to_owned(), shown)
            });
            print(&format!("{:#}\n", Value::Object(object.collect::<Map<_, _>>())))
        }
        Action::Show => {
            let left = |entry: &crate::config::Entry| format!("{} = {:?}", entry.key, entry.value);
            let width = entries.iter().map(|entry| left(entry).chars().count()).max().unwrap_or(0);
            let lines =
                entries.iter().map(|entry| format!("{:width$}  # {}\n", left(entry), entry.source));
            print(&lines.collect::<String>())
        }
        Action::Check if session.json => print("{\"ok\":true}\n"),
        Action::Check => print(&format!("the configuration is right: {} keys\n", entries.len())),
    }
}
