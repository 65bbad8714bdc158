//! `point`: points that are not to be pruned.
//!
//! Deliberately not here: listing points (`points`), making one (`machine point`).

use anyhow::Result;
use clap::{Args, Subcommand};
use mobility_format::Epoch;
use reqwest::Method;

use super::{exit::Outcome, machine::One, service::NOTHING};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Keep a point whatever the policy says
    Pin(Point),
    /// Let the policy decide about a point again
    Unpin(Point),
    /// Say which points stay whatever the policy says
    Pins(One),
}

#[derive(Args)]
pub(super) struct Point {
    #[command(flatten)]
    one: One,
    /// The point's epoch
    epoch: u64,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    let (point, method, words) = match command {
        Command::Pins(one) => return pins(one),
        Command::Pin(point) => (point, Method::POST, "stays whatever the policy says"),
        Command::Unpin(point) => (point, Method::DELETE, "stays as long as the policy says"),
    };
    let (service, id) = point.one.find()?;
    let epoch = Epoch(point.epoch).to_string();
    let answer = service.ask(method, &["machines", &id, "pins", &point.epoch.to_string()], NOTHING)?;
    point.one.place.say(&answer, &format!("the point of epoch {epoch} {words}"))?;
    Ok(Outcome::Done)
}

fn pins(one: &One) -> Result<Outcome> {
    let (service, id) = one.find()?;
    let answer = service.ask(Method::GET, &["machines", &id, "pins"], NOTHING)?;
    let epochs = answer["epochs"].as_array().into_iter().flatten().map(ToString::to_string);
    one.place.say(&answer, &epochs.collect::<Vec<_>>().join("\n"))?;
    Ok(Outcome::Done)
}
