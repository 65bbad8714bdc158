//! The command line: what can be said, and what each command prints.
//!
//! Deliberately not here: anything that a program would want to call.

mod disk;
mod event;
pub(crate) mod exit;
mod export;
mod failover;
mod machine;
mod manual;
mod mount;
mod network;
mod open;
mod plan;
mod plan_report;
mod point;
mod points;
mod policy;
mod prune;
mod reindex;
mod restore;
mod serve;
mod service;
mod stepwise;
mod table;
mod target;
mod token;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use exit::Outcome;

/// Lists, restores, verifies and prunes recovery points.
#[derive(Parser)]
#[command(name = "recovery-service", version, about, after_help = exit::HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the recovery points, oldest first
    Points(points::Arguments),
    /// Restore disks as of a recovery point, to image files or onto a block device
    Restore(restore::Arguments),
    /// Check that everything stored is intact, or all that one point needs
    Verify(verify::Arguments),
    /// Thin out recovery points, and give back the space of what lay between them
    Prune(prune::Arguments),
    /// Run the recovery service
    Serve(serve::Arguments),
    /// Rebuild the service's database from what is stored, after it was lost
    Reindex(reindex::Arguments),
    /// Tokens that machines enrol with
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
    /// The machines of a running service
    Machine {
        #[command(subcommand)]
        command: machine::Command,
    },
    /// The disks of a running service's machines
    Disk {
        #[command(subcommand)]
        command: disk::Command,
    },
    /// What a running service wants of its machines
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// The points that a running service has, and those that are not to be pruned
    Point {
        #[command(subcommand)]
        command: point::Command,
    },
    /// From a recovery point to a running machine
    Failover {
        #[command(subcommand)]
        command: failover::Command,
    },
    /// Several machines in ordered groups, failed over by one command
    Plan {
        #[command(subcommand)]
        command: plan::Command,
    },
    /// Which network of the target stands for which of the source
    Network {
        #[command(subcommand)]
        command: network::Command,
    },
    /// A point's disks over HTTPS, for nbdkit, qemu-img and others
    Export {
        #[command(subcommand)]
        command: export::Command,
    },
    /// A point's disks as files, and what is on their file systems, by nbdkit and nbdfuse
    Mount(mount::Arguments),
    /// What happened
    Event {
        #[command(subcommand)]
        command: event::Command,
    },
    /// Write manual pages and shell completions. For those who make packages
    #[command(hide = true)]
    Manual(manual::Arguments),
}

/// What every command works on.
#[derive(Args)]
struct Place {
    /// The vault's directory
    #[arg(long, value_name = "DIR", required_unless_present = "config", conflicts_with = "config")]
    vault: Option<PathBuf>,
    /// The service's configuration file, which says where its storages are
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The machine, by its id or the beginning of it. May be left out where there is only one
    #[arg(long, value_name = "ID")]
    machine: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command that was asked for.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    match arguments.command {
        Command::Points(arguments) => points::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Prune(arguments) => prune::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Reindex(arguments) => reindex::run(&arguments),
        Command::Token { command } => token::run(&command),
        Command::Machine { command } => machine::run(&command),
        Command::Disk { command } => disk::run(&command),
        Command::Policy { command } => policy::run(&command),
        Command::Point { command } => point::run(&command),
        Command::Failover { command } => failover::run(&command),
        Command::Plan { command } => plan::run(&command),
        Command::Network { command } => network::run(&command),
        Command::Export { command } => export::run(&command),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Event { command } => event::run(&command),
        Command::Manual(arguments) => manual::run(&arguments),
    }
}

/// Prints to standard output. A reader that has seen enough, as `head` has, is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => Err(err.into()),
        _ => Ok(()),
    }
}

fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
