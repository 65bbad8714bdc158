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
        print_json(&json!({
            "machines": done.machines,
            "points": done.points,
            "failovers": done.failovers,
            "plan_runs": done.plan_runs,
            "problems": done.problems,
        }))?;
    } else {
        done.problems.iter().try_for_each(|problem| print(&format!("{problem}\n")))?;
        print(&format!("{} machines with {} points are in the database\n", done.machines, done.points))?;
        if done.failovers > 0 {
            print(&format!("{} failovers are in it, too, as far as each was\n", done.failovers))?;
        }
        if done.plan_runs > 0 {
            print(&format!("{} plan runs are in it with their reports\n", done.plan_runs))?;
        }
    }
    Ok(if done.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}
