//! The mobility agent: a table of contents.

mod check;
mod cli;
mod clock;
mod config;
mod demo;
mod exit;
mod identity;
mod replicate;
mod run;
mod state_file;
mod status;
mod systemd;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::report(match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args),
    })
}
