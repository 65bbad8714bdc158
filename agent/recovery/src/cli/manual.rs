//! `manual`: the manual pages and the shell completions, made from what the program itself takes for its command line, so that
//! neither can say anything else. Packages carry them; nobody else calls this.
//!
//! Deliberately not here: where they are installed.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Outcome;

const NAME: &str = "recovery-service";

#[derive(Args)]
pub(super) struct Arguments {
    /// Where to. It has to be there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let failed = || format!("cannot write to {}", arguments.dir.display());
    let command = super::Arguments::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command.clone(), &arguments.dir).with_context(failed)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command.clone(), NAME, &arguments.dir).with_context(failed)?;
    }
    Ok(Outcome::Done)
}
