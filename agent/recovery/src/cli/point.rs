//! `point`: points that are not to be pruned.
//!
//! Deliberately not here: listing points (`points`), making one (`machine point`).

use anyhow::Result;
use clap::{Args, Subcommand};
use mobility_format::Epoch;
use reqwest::Method;

use super::{
    exit::Outcome,
    machine::{One, said},
    service::NOTHING,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep a point whatever the policy says
    Pin(Point),
    /// Let the policy decide about a point again
    Unpin(Point),
}

#[derive(Args)]
struct Point {
    #[command(flatten)]
    one: One,
    /// The point's epoch
    epoch: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let (point, method, words) = match &arguments.command {
        Command::Pin(point) => (point, Method::POST, "stays whatever the policy says"),
        Command::Unpin(point) => (point, Method::DELETE, "stays as long as the policy says"),
    };
    let (service, id) = point.one.find()?;
    let epoch = Epoch(point.epoch).to_string();
    let answer = service.ask(method, &["machines", &id, "pins", &point.epoch.to_string()], NOTHING)?;
    said(&point.one.place, &answer, &format!("the point of epoch {epoch} {words}"))?;
    Ok(Outcome::Done)
}
