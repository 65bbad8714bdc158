//! `disk`: the disks of a service's machines.
//!
//! Deliberately not here: what they hold (`restore`), and which of them are protected (`policy`).

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    exit::Outcome,
    machine::find,
    service::{Place, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the disks that machines have, and those that they had
    List(List),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Only this machine's, by its id, the beginning of its id, or its name
    #[arg(long, value_name = "ID")]
    machine: Option<String>,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    let Command::List(list) = command;
    let service = list.place.connect()?;
    let machine = list.machine.as_ref().map(|wanted| find(&service, wanted)).transpose()?;
    let query: Vec<_> = machine.map(|machine| ("machine", machine)).into_iter().collect();
    let disks = service.all(&["disks"], &query, "disks")?;
    let head = [
        ("MACHINE", Align::Left),
        ("DISK", Align::Left),
        ("NAME", Align::Left),
        ("BYTES", Align::Right),
        ("IN NEWEST POINT", Align::Left),
        ("ATTACHED", Align::Left),
    ];
    let row = |disk: &Value| {
        ["machine", "id", "name", "size", "in_newest", "attached"].map(|name| text(&disk[name]))
    };
    list.place.show(&json!({ "disks": disks }), head, "disks", row)?;
    Ok(Outcome::Done)
}
