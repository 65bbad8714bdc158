//! `reindex`: rebuilds the service's database from what is stored.
//!
//! Deliberately not here: how (the library's `service`).

use anyhow::Result;
use clap::Args;
use mobility_recovery::service::reindex;
use serde_json::json;

use super::{exit::Outcome, print, print_json, serve::Configuration};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let done = reindex(&arguments.configuration.options())?;
    if arguments.json {
        let (machines, points) = (done.machines, done.points);
        print_json(&json!({ "machines": machines, "points": points, "problems": done.problems }))?;
    } else {
        done.problems.iter().try_for_each(|problem| print(&format!("{problem}\n")))?;
        print(&format!("{} machines with {} points are in the database\n", done.machines, done.points))?;
    }
    Ok(if done.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}
