//! `mobility-agent manual`: the manual pages and the shell completions, made from what the program itself takes for its
//! command line, so that neither can say anything else. Packages carry them; nobody else calls this.
//!
//! Deliberately not here: where they are installed.

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, ManualArgs};

const NAME: &str = "mobility-agent";

pub(crate) fn run(args: &ManualArgs) -> anyhow::Result<()> {
    let failed = || format!("cannot write to {}", args.dir.display());
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command.clone(), &args.dir).with_context(failed)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command.clone(), NAME, &args.dir).with_context(failed)?;
    }
    Ok(())
}
