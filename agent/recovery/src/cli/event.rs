//! `event`: what happened.
//!
//! Deliberately not here: who is told at once; that is the service's webhook.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;

use super::{
    exit::Outcome,
    service::{NOTHING, Place, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List what happened, newest first
    List(List),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Only of this machine, by its id
    #[arg(long, value_name = "ID")]
    machine: Option<String>,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    most: u32,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    let Command::List(list) = command;
    let mut query = vec![("most", list.most.to_string())];
    query.extend(list.machine.clone().map(|machine| ("machine", machine)));
    let answer = list.place.connect()?.ask_for(Method::GET, &["events"], &query, NOTHING)?;
    let head =
        [("TIME", Align::Left), ("MACHINE", Align::Left), ("EVENT", Align::Left), ("MESSAGE", Align::Left)];
    let row = |event: &serde_json::Value| ["at", "machine", "kind", "message"].map(|name| text(&event[name]));
    list.place.show(&answer, head, "events", row)?;
    Ok(Outcome::Done)
}
