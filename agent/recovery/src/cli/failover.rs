//! `failover`: from a recovery point to a running machine, and what becomes of it.
//!
//! Deliberately not here: restoring disks without a service (`restore`).

use std::io::IsTerminal;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mobility_format::ByteCount;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    exit::Outcome,
    machine::find,
    print, print_json,
    service::{NOTHING, Place, list, text},
    stepwise::{Found, Steps},
    table::Align,
};

static FAILOVERS: Steps = Steps { what: "failover", path: "failovers", items: "failovers" };

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a machine of a recovery point
    Start(Start),
    /// List failovers, newest first
    List(List),
    /// Show all that is known of a failover
    Show(One),
    /// Wait until a failover's steps are done, and show them
    Watch(One),
    /// Do again what went wrong, and go on
    Resume(Act),
    /// Undo a failover, or end a test: nothing of it is left at the target, and the machine goes on where it was
    #[command(visible_alias = "cleanup")]
    Cancel(Act),
    /// Make the machine at the target anew, from another point
    ChangePoint(ChangePoint),
    /// Keep the machine at the target as the real one
    Commit(Act),
    /// Let the machine at the target replicate, and the one before it never again
    Reprotect(Act),
    /// Remove a machine at a target that is not the real one any more, after failing back
    Remove(Act),
}

/// Why.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    /// To see that it works, on a network of its own, while the machine goes on
    Test,
    /// Because the machine is to run elsewhere: what writes on it is stopped, its last point taken in, and it is switched off before
    Planned,
    /// Because the machine is gone
    Unplanned,
}

#[derive(Args)]
pub(super) struct Start {
    #[command(flatten)]
    place: Place,
    /// Which machine, by its id, the beginning of its id, or its name
    machine: String,
    /// Why
    #[arg(long, value_enum)]
    kind: Kind,
    /// Where to: the NAME of a table [failover.NAME] of the service's configuration. May be left out where the machine's target
    /// settings name one, or there is only one
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Which point: `latest` takes in first what is in cache storage, `latest-processed` does not; `latest-app-consistent`, a time
    /// such as 2026-11-22T23:57:00Z (the newest at or before it), or an id
    #[arg(long, value_name = "POINT", default_value = "latest")]
    point: String,
    /// Wait until the machine is up
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Only of this machine
    #[arg(long, value_name = "ID")]
    machine: Option<String>,
}

#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    place: Place,
    /// Which, by its id or the beginning of its id
    failover: String,
}

#[derive(Args)]
pub(super) struct Act {
    #[command(flatten)]
    one: One,
    /// Wait until that is done
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
pub(super) struct ChangePoint {
    #[command(flatten)]
    act: Act,
    /// Which point: as for `failover start`
    #[arg(long, value_name = "POINT")]
    point: String,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Start(start) => begin(start),
        Command::List(list) => all(list),
        Command::Show(one) => {
            print_json(&one.find()?.get()?)?;
            Ok(Outcome::Done)
        }
        Command::Watch(one) => watch(&one.place, &one.find()?),
        Command::Resume(it) => act(it, &json!({ "action": "resume" })),
        Command::Cancel(it) => act(it, &json!({ "action": "cancel" })),
        Command::ChangePoint(it) => act(&it.act, &json!({ "action": "change-point", "point": it.point })),
        Command::Commit(it) => act(it, &json!({ "action": "commit" })),
        Command::Reprotect(it) => act(it, &json!({ "action": "reprotect" })),
        Command::Remove(it) => act(it, &json!({ "action": "remove" })),
    }
}

fn begin(start: &Start) -> Result<Outcome> {
    let service = start.place.connect()?;
    let kind = match start.kind {
        Kind::Test => "test",
        Kind::Planned => "planned",
        Kind::Unplanned => "unplanned",
    };
    let wanted = json!({
        "machine": find(&service, &start.machine)?,
        "kind": kind,
        "place": start.to,
        "point": start.point,
    });
    let answer = service.ask(Method::POST, &["failovers"], Some(&wanted))?;
    let id = text(&answer["id"]);
    match start.wait {
        true => watch(&start.place, &FAILOVERS.known(service, id)),
        false => {
            start.place.say(
                &answer,
                &format!("failover {id} was begun: `failover watch {id}` shows how far it is"),
            )?;
            Ok(Outcome::Done)
        }
    }
}

fn act(act: &Act, action: &Value) -> Result<Outcome> {
    let found = act.one.find()?;
    found.act(&act.one.place, action, act.wait)?;
    if act.wait { watch(&act.one.place, &found) } else { Ok(Outcome::Done) }
}

impl One {
    fn find(&self) -> Result<Found> {
        FAILOVERS.find(&self.place, &self.failover)
    }
}

/// Waits until nothing more is done, and shows what was.
fn watch(place: &Place, found: &Found) -> Result<Outcome> {
    let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
    if let Some(bar) = &bar {
        let style = "{msg:30} [{bar:30}] {bytes:>10} of {total_bytes}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    }
    let failover = found.rests(&["running"], |failover| {
        if let Some(bar) = &bar {
            show_progress(bar, failover);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if place.json {
        print_json(&failover)?;
    } else {
        print(&report(&failover))?;
    }
    found.outcome(&failover)
}

fn show_progress(bar: &ProgressBar, failover: &Value) {
    let step = list(failover, "steps").iter().find(|step| step["ended"].is_null());
    let Some(step) = step else { return };
    bar.set_message(text(&step["step"]));
    let bytes = |name: &str| step["progress"][name].as_u64().unwrap_or(0);
    bar.set_length(bytes("total"));
    bar.set_position(bytes("done"));
}

/// Each step with its time, and what came of it all.
fn report(failover: &Value) -> String {
    let mut lines = vec![format!(
        "failover {} of {} to {}: {}",
        text(&failover["id"]),
        text(&failover["name"]),
        text(&failover["place"]),
        text(&failover["phase"])
    )];
    for step in list(failover, "steps") {
        lines.push(format!("  {:>8}  {}: {}", took(step), text(&step["step"]), text(&step["result"])));
    }
    for disk in list(failover, "disks") {
        let size = ByteCount(disk["size"].as_u64().unwrap_or(0));
        lines.push(format!(
            "  {} -> {}: {size}, root {}",
            text(&disk["name"]),
            text(&disk["path"]),
            text(&disk["root"])
        ));
    }
    lines.extend(list(failover, "changes").iter().map(changed));
    for finding in list(failover, "findings") {
        lines.push(format!("  found: {}", text(finding)));
    }
    if let (Some(took), Some(age)) = (failover["took_ms"].as_f64(), failover["chosen"]["age_ms"].as_f64()) {
        lines.push(format!("  RTO {:.1} s, RPO {:.1} s", took / 1e3, age / 1e3));
        let (last, chosen) =
            (failover["source"]["last"]["epoch"].as_u64(), failover["chosen"]["epoch"].as_u64());
        if last.is_some() && chosen >= last {
            let point = text(&failover["chosen"]["id"]);
            lines.push(format!(
                "  nothing is lost: the machine was stopped before point {point}, and down for {:.1} s",
                took / 1e3
            ));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What was changed in a file of the machine's.
fn changed(change: &Value) -> String {
    let side = |name: &str, sign: char| {
        let text = text(&change[name]);
        text.lines().map(|line| format!("\n    {sign} {line}")).collect::<String>()
    };
    format!("  {}:{}{}", text(&change["file"]), side("was", '-'), side("now", '+'))
}

/// How long a step took.
fn took(step: &Value) -> String {
    let time = |name: &str| step[name].as_str()?.parse::<jiff::Timestamp>().ok();
    match (time("began"), time("ended")) {
        (Some(began), Some(ended)) => {
            format!("{:.1} s", (ended.as_millisecond() - began.as_millisecond()) as f64 / 1e3)
        }
        _ => "-".to_owned(),
    }
}

fn all(which: &List) -> Result<Outcome> {
    let service = which.place.connect()?;
    let query: Vec<_> = match &which.machine {
        Some(machine) => vec![("machine", find(&service, machine)?)],
        None => Vec::new(),
    };
    let answer = service.ask_for(Method::GET, &["failovers"], &query, NOTHING)?;
    let head = [
        ("FAILOVER", Align::Left),
        ("MACHINE", Align::Left),
        ("KIND", Align::Left),
        ("TO", Align::Left),
        ("ASKED", Align::Left),
        ("POINT", Align::Left),
        ("STATE", Align::Left),
    ];
    let row = |failover: &Value| {
        let column = |name: &str| text(&failover[name]);
        let point = text(&failover["chosen"]["id"]);
        [
            column("id"),
            column("name"),
            column("kind"),
            column("place"),
            column("asked"),
            point,
            column("phase"),
        ]
    };
    which.place.show(&answer, head, "failovers", row)?;
    Ok(Outcome::Done)
}
