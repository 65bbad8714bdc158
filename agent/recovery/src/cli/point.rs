//! `point`: a machine's points as a service has them, and which of them are not to be pruned.
//!
//! Deliberately not here: listing points without a service (`points`), making one (`machine point`).

use anyhow::Result;
use clap::{Args, Subcommand};
use mobility_format::Epoch;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    exit::Outcome,
    machine::{One, find},
    service::{NOTHING, Place, list, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List a machine's points, oldest first
    List(List),
    /// Keep a point whatever the policy says
    Pin(Point),
    /// Let the policy decide about a point again
    Unpin(Point),
    /// Say which points stay whatever the policy says
    Pins(One),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Which machine's, by its id, the beginning of its id, or its name
    #[arg(long, value_name = "ID")]
    machine: String,
}

#[derive(Args)]
pub(super) struct Point {
    #[command(flatten)]
    one: One,
    /// The point's epoch
    epoch: u64,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::List(list) => list.show()?,
        Command::Pin(point) => point.set(Method::POST, "stays whatever the policy says")?,
        Command::Unpin(point) => point.set(Method::DELETE, "stays as long as the policy says")?,
        Command::Pins(one) => pins(one)?,
    }
    Ok(Outcome::Done)
}

fn pins(one: &One) -> Result<()> {
    let (service, id) = one.find()?;
    let answer = service.ask(Method::GET, &["machines", &id, "pins"], NOTHING)?;
    let epochs = answer["epochs"].as_array().into_iter().flatten().map(ToString::to_string);
    one.place.say(&answer, &epochs.collect::<Vec<_>>().join("\n"))
}

impl List {
    fn show(&self) -> Result<()> {
        let service = self.place.connect()?;
        let id = find(&service, &self.machine)?;
        let points = service.all(&["machines", &id, "points"], &[], "points")?;
        let head = [
            ("EPOCH", Align::Right),
            ("TIME", Align::Left),
            ("CONSISTENCY", Align::Left),
            ("DISKS", Align::Right),
            ("PINNED", Align::Left),
            ("", Align::Left),
        ];
        let row = |point: &Value| {
            [
                text(&point["epoch"]),
                text(&point["time"]),
                text(&point["consistency"]),
                list(point, "disks").len().to_string(),
                text(&point["pinned"]),
                point["damage"].as_str().map_or(String::new(), |problem| format!("DAMAGED: {problem}")),
            ]
        };
        self.place.show(&json!({ "machine": id, "points": points }), head, "points", row)
    }
}

impl Point {
    fn set(&self, method: Method, words: &str) -> Result<()> {
        let (service, id) = self.one.find()?;
        let answer = service.ask(method, &["machines", &id, "pins", &self.epoch.to_string()], NOTHING)?;
        self.one.place.say(&answer, &format!("the point of epoch {} {words}", Epoch(self.epoch)))
    }
}
