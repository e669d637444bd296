//! `tillroll completions` and `tillroll man`: files made from the command line's
//! own description, so that they cannot tell another story.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use super::exit::{Exit, Failure, print};
use super::{Cli, Session, files};

/// Which shell.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell that is to complete
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Where the pages go.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Directory for tillroll.1, tillroll-worker.1 and so on; made where it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints the completion script.
///
/// # Errors
/// When stdout cannot be written.
pub fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tillroll", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes the manual pages and prints their paths.
///
/// # Errors
/// Where the directory cannot be written.
pub fn man(args: &Man, session: &Session) -> Result<(), Failure> {
    files::make_dir(&args.dir)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut written = Vec::new();
    pages(&command, "tillroll", &args.dir, &mut written)?;
    let paths = written.iter().map(|path| path.display().to_string());
    print(&if session.json {
        format!("{}\n", json!({"v": 1, "pages": paths.collect::<Vec<_>>()}))
    } else {
        paths.map(|path| path + "\n").collect()
    })
}

/// The page of `command`, which is called `name`, and those of its verbs.
fn pages(
    command: &clap::Command,
    name: &str,
    dir: &Path,
    written: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("tillroll ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)
        .map_err(|error| {
            let fix = "this is a bug: please report it";
            Failure::new(Exit::Bug, format!("writing {}", path.display()), error, fix)
        })?;
    files::write(&path, &page)?;
    written.push(path);
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, &format!("{name}-{}", verb.get_name()), dir, written)?;
    }
    Ok(())
}
