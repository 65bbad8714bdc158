//! `reindex`: rebuilds the service's database from what is stored.
//!
//! Deliberately not here: how (the library's `service`).

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mobility_recovery::service::{Options, reindex};
use serde_json::json;

use super::{exit::Outcome, print, print_json};

#[derive(Args)]
pub(super) struct Arguments {
    /// The service's configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything lies [default: /var/lib/recovery-service]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let options =
        Options { config: arguments.config.clone(), data: arguments.data.clone(), ..Options::default() };
    let done = reindex(&options)?;
    if arguments.json {
        let (machines, points) = (done.machines, done.points);
        print_json(&json!({ "machines": machines, "points": points, "problems": done.problems }))?;
    } else {
        done.problems.iter().try_for_each(|problem| print(&format!("{problem}\n")))?;
        print(&format!("{} machines with {} points are in the database\n", done.machines, done.points))?;
    }
    Ok(if done.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}
