//! `recovery-service`: lists, restores, verifies and prunes the recovery points of a vault, with nothing else running.
//!
//! Deliberately not here: what the commands do (`cli`), and how (the library).

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    cli::exit::report(cli::run(arguments))
}
