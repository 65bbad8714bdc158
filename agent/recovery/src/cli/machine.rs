//! `machine`: what a service knows of its machines, and what it asks of them.
//!
//! Deliberately not here: their disks (`disk`) and recovery points (`point`).

use anyhow::Result;
use clap::{Args, Subcommand};
use mobility_format::ByteCount;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    exit::{NotFound, Outcome},
    print_json,
    service::{NOTHING, Place, Service, text},
    table::Align,
    target,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the machines
    List(Place),
    /// Show all that is known of a machine
    Show(One),
    /// Take a machine out of protection: its certificates are good for nothing any more. Its points stay
    Revoke(One),
    /// Have a machine compare its disks with what is stored, and send what differs
    Resync(Resync),
    /// Have a machine make a recovery point now
    Point(Point),
    /// Have a machine renew its certificate
    Renew(One),
    /// Have a machine send the newest lines of its log
    Logs(One),
    /// Let a machine's replication rest. Its writes are tracked meanwhile, and its points stay
    Pause(One),
    /// Let a machine's replication go on
    Resume(One),
    /// Give a machine another policy
    Policy(Assign),
    /// Where and as what a machine is to run when it is failed over
    Target {
        #[command(subcommand)]
        command: target::Command,
    },
}

#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    pub(super) place: Place,
    /// Which, by its id, the beginning of its id, or its name
    pub(super) machine: String,
}

#[derive(Args)]
pub(super) struct Resync {
    #[command(flatten)]
    one: One,
    /// Why, for people
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Args)]
pub(super) struct Point {
    #[command(flatten)]
    one: One,
    /// It shall be application-consistent
    #[arg(long)]
    app_consistent: bool,
}

#[derive(Args)]
pub(super) struct Assign {
    #[command(flatten)]
    one: One,
    /// The policy's name
    policy: String,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::List(place) => list(place)?,
        Command::Show(one) => {
            let (service, id) = one.find()?;
            print_json(&service.ask(Method::GET, &["machines", &id], NOTHING)?)?;
        }
        Command::Revoke(one) => {
            let (service, id) = one.find()?;
            let answer = service.ask(Method::POST, &["machines", &id, "revoke"], NOTHING)?;
            one.place.say(&answer, &format!("machine {id} is out of protection; its points stay"))?;
        }
        Command::Resync(resync) => {
            let mut order = json!({ "order": "resync" });
            if let Some(reason) = &resync.reason {
                order["reason"] = reason.as_str().into();
            }
            tell(&resync.one, &order)?;
        }
        Command::Point(point) => {
            tell(&point.one, &json!({ "order": "point", "application": point.app_consistent }))?;
        }
        Command::Target { command } => return target::run(command),
        Command::Pause(one) => pause(one, true)?,
        Command::Resume(one) => pause(one, false)?,
        Command::Renew(one) => tell(one, &json!({ "order": "renew" }))?,
        Command::Logs(one) => tell(one, &json!({ "order": "logs" }))?,
        Command::Policy(assign) => {
            let (service, id) = assign.one.find()?;
            let message = json!({ "policy": assign.policy });
            let answer = service.ask(Method::POST, &["machines", &id, "policy"], Some(&message))?;
            assign.one.place.say(&answer, &format!("machine {id} has policy '{}' now", assign.policy))?;
        }
    }
    Ok(Outcome::Done)
}

fn pause(one: &One, paused: bool) -> Result<()> {
    let (service, id) = one.find()?;
    let message = json!({ "paused": paused });
    let answer = service.ask(Method::POST, &["machines", &id, "paused"], Some(&message))?;
    let what = if paused { "rest" } else { "go on" };
    one.place.say(&answer, &format!("machine {id} will {what} with its next heartbeat"))
}

fn tell(one: &One, order: &Value) -> Result<()> {
    let (service, id) = one.find()?;
    let answer = service.ask(Method::POST, &["machines", &id, "commands"], Some(order))?;
    let told = format!("machine {id} will be told; `event list --machine {id}` shows what came of it");
    one.place.say(&answer, &told)
}

impl One {
    /// The service, and the id of the one machine that is meant.
    pub(super) fn find(&self) -> Result<(Service, String)> {
        let service = self.place.connect()?;
        let id = find(&service, &self.machine)?;
        Ok((service, id))
    }
}

/// The id of the one machine that is meant: by its id, the beginning of its id, or its name.
pub(super) fn find(service: &Service, wanted: &str) -> Result<String> {
    find_in(&all(service)?, wanted)
}

/// The same among machines that are known.
pub(super) fn find_in(machines: &[Value], wanted: &str) -> Result<String> {
    let is = |machine: &&Value| {
        let id = text(&machine["id"]);
        machine["name"] == wanted || (!wanted.is_empty() && id.starts_with(wanted))
    };
    let found: Vec<_> = machines.iter().filter(is).collect();
    match found[..] {
        [one] => Ok(text(&one["id"])),
        _ => {
            Err(NotFound(format!("'{wanted}' means {} machines of this service, not one", found.len()))
                .into())
        }
    }
}

/// All machines.
pub(super) fn all(service: &Service) -> Result<Vec<Value>> {
    service.all(&["machines"], &[], "machines")
}

fn list(place: &Place) -> Result<()> {
    let answer = json!({ "machines": all(&place.connect()?)? });
    let head = [
        ("MACHINE", Align::Left),
        ("NAME", Align::Left),
        ("POLICY", Align::Left),
        ("LAST CONTACT", Align::Left),
        ("NEWEST POINT", Align::Left),
        ("STORED", Align::Right),
        ("STATE", Align::Left),
    ];
    let row = |machine: &Value| {
        let state = match (machine["revoked"].is_null(), machine["overdue"] == true) {
            (false, _) => "revoked",
            _ if machine["over_quota"] == true => "OVER QUOTA",
            (_, true) => "OVERDUE",
            _ if machine["paused"] == true => "paused",
            _ if machine["point"].is_null() => "no point yet",
            _ => "protected",
        };
        let column = |name: &str| text(&machine[name]);
        [
            column("id"),
            column("name"),
            column("policy"),
            column("heard"),
            column("point_at"),
            machine["stored"].as_u64().map_or_else(String::new, |bytes| ByteCount(bytes).to_string()),
            state.to_owned(),
        ]
    };
    place.show(&answer, head, "machines", row)
}
