//! `policy`: what a service wants of its machines.
//!
//! Deliberately not here: which machine has which (`machine policy`).

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::{
    exit::Outcome,
    print_json,
    service::{NOTHING, Place, text},
    table::Align,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the policies
    List(Place),
    /// Show a policy, as JSON that `set` takes
    Show(Show),
    /// Change a policy, or make a new one. Machines follow it with their next heartbeat
    Set(Set),
}

#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    place: Place,
    /// Its name
    name: String,
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    place: Place,
    /// Its name
    name: String,
    /// All of it, as JSON in a file, or on standard input where this is `-`; else only what is said below changes
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// From one point to the next, in seconds
    #[arg(long, value_name = "SECONDS")]
    interval: Option<u64>,
    /// From one application-consistent point to the next, in seconds; 0 for none by schedule
    #[arg(long, value_name = "SECONDS")]
    app_interval: Option<u64>,
    /// Which points to keep
    #[arg(long, value_name = "LADDER")]
    keep: Option<String>,
    /// How fast segments may be uploaded, in bytes per second; 0 for as fast as goes
    #[arg(long, value_name = "BYTES")]
    upload_rate: Option<u64>,
    /// How much of target storage a machine's points may take, in bytes; 0 for as much as there is
    #[arg(long, value_name = "BYTES")]
    quota: Option<u64>,
    /// Whether the operator's scripts may run
    #[arg(long, value_name = "true|false")]
    scripts: Option<bool>,
    /// Whether replication rests
    #[arg(long, value_name = "true|false")]
    paused: Option<bool>,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::List(place) => {
            let answer = place.connect()?.ask(Method::GET, &["policies"], NOTHING)?;
            let head = [
                ("POLICY", Align::Left),
                ("VERSION", Align::Right),
                ("INTERVAL", Align::Right),
                ("KEEPS", Align::Left),
                ("PAUSED", Align::Left),
            ];
            let row = |policy: &Value| {
                ["name", "version", "interval_s", "retention", "paused"].map(|name| text(&policy[name]))
            };
            place.show(&answer, head, "policies", row)?;
        }
        Command::Show(show) => {
            print_json(&show.place.connect()?.ask(Method::GET, &["policies", &show.name], NOTHING)?)?;
        }
        Command::Set(set) => {
            let policy = set.send()?;
            let words = format!("policy '{}' is version {} now", set.name, policy["version"]);
            set.place.say(&policy, &words)?;
        }
    }
    Ok(Outcome::Done)
}

impl Set {
    fn send(&self) -> Result<Value> {
        let service = self.place.connect()?;
        let mut policy: Value = match &self.file {
            Some(file) => {
                let text = match file.as_os_str() == "-" {
                    true => std::io::read_to_string(std::io::stdin()),
                    false => std::fs::read_to_string(file),
                };
                let text = text.with_context(|| format!("read {}", file.display()))?;
                serde_json::from_str(&text).with_context(|| format!("understand {}", file.display()))?
            }
            // What is not said stays as it is, or is as the first policy has it.
            None => match service.ask(Method::GET, &["policies", &self.name], NOTHING) {
                Ok(policy) => policy,
                Err(_) => service.ask(Method::GET, &["policies", "default"], NOTHING)?,
            },
        };
        self.change(&mut policy);
        service.ask(Method::PUT, &["policies", &self.name], Some(&policy))
    }

    fn change(&self, policy: &mut Value) {
        let unless_zero = |number: u64| if number == 0 { Value::Null } else { number.into() };
        let changes = [
            ("interval_s", self.interval.map(Value::from)),
            ("application_interval_s", self.app_interval.map(unless_zero)),
            ("retention", self.keep.as_deref().map(Value::from)),
            ("upload_rate", self.upload_rate.map(unless_zero)),
            ("quota", self.quota.map(unless_zero)),
            ("scripts", self.scripts.map(Value::from)),
            ("paused", self.paused.map(Value::from)),
        ];
        for (name, value) in changes {
            if let Some(value) = value {
                policy[name] = value;
            }
        }
    }
}
