//! `token`: enrolment tokens.
//!
//! Deliberately not here: how a machine uses one (that is the agent's).

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{
    exit::Outcome,
    print, print_json,
    service::{self, NOTHING, Place, text},
    table::{Align, render},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a token; it is shown once
    Create(Create),
    /// List the tokens that were made, newest first
    List(Place),
    /// Make a token good for nothing. Machines that enrolled with it stay
    Revoke(Revoke),
}

#[derive(Args)]
struct Create {
    #[command(flatten)]
    place: Place,
    /// How many machines may enrol with it
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    uses: u64,
    /// For how many hours it is good
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    hours: u64,
    /// The policy of these machines
    #[arg(long, value_name = "NAME", default_value = "default")]
    policy: String,
}

#[derive(Args)]
struct Revoke {
    #[command(flatten)]
    place: Place,
    /// Which, by its id
    id: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    match &arguments.command {
        Command::Create(create) => {
            let valid = create.hours.saturating_mul(3600);
            let wanted = json!({ "uses": create.uses, "valid_s": valid, "policy": create.policy });
            let made = create.place.connect()?.ask(Method::POST, &["tokens"], Some(&wanted))?;
            match create.place.json {
                true => print_json(&made)?,
                false => print(&format!("{}\n", text(&made["command"])))?,
            }
        }
        Command::List(place) => {
            let answer = place.connect()?.ask(Method::GET, &["tokens"], NOTHING)?;
            if place.json {
                print_json(&answer)?;
                return Ok(Outcome::Done);
            }
            let head = [
                ("TOKEN", Align::Left),
                ("POLICY", Align::Left),
                ("LEFT", Align::Right),
                ("EXPIRES", Align::Left),
                ("REVOKED", Align::Left),
            ];
            let row = |token: &serde_json::Value| {
                ["id", "policy", "uses_left", "expires", "revoked"].map(|name| text(&token[name]))
            };
            print(&render(head, &service::list(&answer, "tokens").iter().map(row).collect::<Vec<_>>()))?;
        }
        Command::Revoke(revoke) => {
            let answer = revoke.place.connect()?.ask(Method::DELETE, &["tokens", &revoke.id], NOTHING)?;
            match revoke.place.json {
                true => print_json(&answer)?,
                false => print(&format!("token {} is good for nothing any more\n", revoke.id))?,
            }
        }
    }
    Ok(Outcome::Done)
}
