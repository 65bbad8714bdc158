//! The mobility agent: a table of contents.

mod broken;
mod check;
mod cli;
mod clock;
mod config;
mod demo;
mod exit;
mod guard;
mod identity;
mod log;
mod manager;
mod manual;
mod point;
mod replicate;
mod request;
mod run;
mod scripts;
mod service;
mod state_file;
mod status;
mod stop;
mod systemd;
mod thaw;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::report(match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Point(args) => point::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Enroll(args) => service::enrol::run(&args),
        Command::Unenroll(args) => service::unenrol::run(&args),
        Command::Thaw(args) => thaw::run(&args),
        Command::Guard => guard::run(),
        Command::Manual(args) => manual::run(&args),
    })
}
