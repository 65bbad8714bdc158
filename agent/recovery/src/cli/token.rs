//! `token`: enrolment tokens.
//!
//! Deliberately not here: how a machine uses one (that is the agent's).

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{
    exit::Outcome,
    service::{NOTHING, Place, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a token; it is shown once
    Create(Create),
    /// List the tokens that were made, newest first
    List(Place),
    /// Make a token good for nothing. Machines that enrolled with it stay
    Revoke(Revoke),
}

#[derive(Args)]
pub(super) struct Create {
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
pub(super) struct Revoke {
    #[command(flatten)]
    place: Place,
    /// Which, by its id
    id: String,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Create(create) => {
            let valid = create.hours.saturating_mul(3600);
            let wanted = json!({ "uses": create.uses, "valid_s": valid, "policy": create.policy });
            let made = create.place.connect()?.ask(Method::POST, &["tokens"], Some(&wanted))?;
            create.place.say(&made, &text(&made["command"]))?;
        }
        Command::List(place) => {
            let answer = place.connect()?.ask(Method::GET, &["tokens"], NOTHING)?;
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
            place.show(&answer, head, "tokens", row)?;
        }
        Command::Revoke(revoke) => {
            let answer = revoke.place.connect()?.ask(Method::DELETE, &["tokens", &revoke.id], NOTHING)?;
            revoke.place.say(&answer, &format!("token {} is good for nothing any more", revoke.id))?;
        }
    }
    Ok(Outcome::Done)
}
