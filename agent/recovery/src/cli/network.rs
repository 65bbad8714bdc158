//! `network`: which network of the target stands for which of the source.
//!
//! Deliberately not here: what single machines have instead (`machine target`).

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    exit::Outcome,
    service::{NOTHING, Place, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the network mappings
    List(Place),
    /// Have a network of the target stand for one of the source. It holds both ways
    Map(Map),
    /// Forget the mapping of a network
    Unmap(Unmap),
}

#[derive(Args)]
pub(super) struct Map {
    #[command(flatten)]
    place: Place,
    /// The network at the source: NETWORK, NETWORK/SUBNET, a subnet's full id, or its range if it has no name
    source: String,
    /// The network at the target
    target: String,
    /// The source's addresses, as 10.1.0.0/24, by which a machine's interface is known to be in it
    #[arg(long, value_name = "RANGE")]
    source_range: Option<String>,
    /// The target's addresses, which say what addresses can be kept, and which interfaces are in it on the way back
    #[arg(long, value_name = "RANGE")]
    target_range: Option<String>,
}

#[derive(Args)]
pub(super) struct Unmap {
    #[command(flatten)]
    place: Place,
    /// The network at the source
    source: String,
}

const PATH: &str = "network-mappings";

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::List(place) => {
            let answer = place.connect()?.ask(Method::GET, &[PATH], NOTHING)?;
            let head = ["SOURCE", "RANGE", "TARGET", "RANGE"].map(|title| (title, Align::Left));
            let row = |mapping: &Value| {
                ["source", "source_range", "target", "target_range"].map(|name| text(&mapping[name]))
            };
            place.show(&answer, head, "mappings", row)?;
        }
        Command::Map(map) => {
            let wanted = json!({
                "source_range": map.source_range,
                "target": map.target,
                "target_range": map.target_range,
            });
            let answer = map.place.connect()?.ask(Method::PUT, &[PATH, &map.source], Some(&wanted))?;
            map.place.say(&answer, &format!("network {} stands for {} now", map.target, map.source))?;
        }
        Command::Unmap(unmap) => {
            let answer = unmap.place.connect()?.ask(Method::DELETE, &[PATH, &unmap.source], NOTHING)?;
            unmap.place.say(&answer, &format!("no network stands for {} any more", unmap.source))?;
        }
    }
    Ok(Outcome::Done)
}
