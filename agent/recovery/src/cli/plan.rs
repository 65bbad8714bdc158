//! `plan`: several machines in ordered groups, failed over by one command; and what becomes of that.
//!
//! Deliberately not here: how a report looks (`plan_report`), and single machines (`failover`).

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    exit::Outcome,
    failover::Kind,
    machine, plan_report, print, print_json,
    service::{NOTHING, Place, text},
    stepwise::{Found, Steps},
    table::Align,
};

static RUNS: Steps = Steps { what: "plan run", path: "plan-runs", items: "runs" };

#[derive(Subcommand)]
pub(super) enum Command {
    /// Change a plan, or make a new one
    Set(Set),
    /// List the plans
    List(Place),
    /// Show a plan, as JSON that `set` takes
    Show(Named),
    /// Remove a plan. Its runs stay
    Remove(Named),
    /// Fail the machines of a plan over, group by group
    Run(Run),
    /// List plan runs, newest first
    Runs(Runs),
    /// Wait until a plan run's steps are done, and show what came of it
    Watch(One),
    /// Show each step of a plan run with its time, each machine with its point, and the measured RTO and RPO
    Report(One),
    /// Say that what a person was to do is done, and go on
    Confirm(Act),
    /// Do again what went wrong, and go on
    Resume(Act),
    /// Go on without what went wrong: a script, or machines that are not up
    Skip(Act),
    /// Undo a plan run, or end a test: the failovers of its machines are cancelled, the last group first
    #[command(visible_alias = "cleanup")]
    Cancel(Act),
    /// Keep all machines of a plan run as the real ones
    Commit(Act),
}

#[derive(Args)]
pub(super) struct Named {
    #[command(flatten)]
    place: Place,
    /// The plan's name
    name: String,
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    named: Named,
    /// All of it, as JSON in a file, or on standard input where this is `-`. Machines may be named by their names, their ids, or
    /// the beginnings of their ids
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    named: Named,
    /// Why
    #[arg(long, value_enum)]
    kind: Kind,
    /// Which point of each machine: `latest`, `latest-processed`, `latest-app-consistent`, or a time such as
    /// 2026-11-22T23:57:00Z (the newest of each at or before it)
    #[arg(long, value_name = "POINT", default_value = "latest")]
    point: String,
    /// Where to: the NAME of a table [failover.NAME] of the service's configuration. May be left out where the machines' target
    /// settings name one, or there is only one
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Do not wait for people: for tests
    #[arg(long)]
    skip_manual: bool,
    /// Wait until all machines are up
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
pub(super) struct Runs {
    #[command(flatten)]
    place: Place,
    /// Only of this plan
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
}

#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    place: Place,
    /// Which plan run, by its id or the beginning of its id
    run: String,
}

#[derive(Args)]
pub(super) struct Act {
    #[command(flatten)]
    one: One,
    /// Wait until that is done
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Set(set) => {
            let plan = set.send()?;
            set.named.place.say(&plan, &format!("plan '{}' is set", set.named.name))?;
        }
        Command::List(place) => plans(place)?,
        Command::Show(named) => print_json(&named.ask(Method::GET)?)?,
        Command::Remove(named) => {
            let answer = named.ask(Method::DELETE)?;
            named.place.say(&answer, &format!("plan '{}' is removed", named.name))?;
        }
        Command::Run(run) => return begin(run),
        Command::Runs(which) => runs(which)?,
        Command::Watch(one) => return watch(&one.place, &one.find()?),
        Command::Report(one) => show(&one.place, &report(&one.find()?)?)?,
        Command::Confirm(it) => return act(it, "confirm"),
        Command::Resume(it) => return act(it, "resume"),
        Command::Skip(it) => return act(it, "skip"),
        Command::Cancel(it) => return act(it, "cancel"),
        Command::Commit(it) => return act(it, "commit"),
    }
    Ok(Outcome::Done)
}

impl Named {
    fn ask(&self, method: Method) -> Result<Value> {
        self.place.connect()?.ask(method, &["plans", &self.name], NOTHING)
    }
}

impl Set {
    fn send(&self) -> Result<Value> {
        let text = match self.file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(&self.file),
        };
        let shown = self.file.display();
        let text = text.with_context(|| format!("read {shown}"))?;
        let mut plan: Value = serde_json::from_str(&text).with_context(|| format!("understand {shown}"))?;
        let service = self.named.place.connect()?;
        let known = machine::all(&service)?;
        for group in plan["groups"].as_array_mut().into_iter().flatten() {
            for wanted in group["machines"].as_array_mut().into_iter().flatten() {
                if let Some(name) = wanted.as_str() {
                    *wanted = named(&known, name)?;
                }
            }
        }
        service.ask(Method::PUT, &["plans", &self.named.name], Some(&plan))
    }
}

/// The id of the machine that is meant. What looks like an id and is not known is the service's to refuse.
fn named(known: &[Value], name: &str) -> Result<Value> {
    let is_id = name.len() == 32 && name.chars().all(|c| c.is_ascii_hexdigit());
    if is_id { Ok(name.into()) } else { Ok(machine::find_in(known, name)?.into()) }
}

fn plans(place: &Place) -> Result<()> {
    let answer = place.connect()?.ask(Method::GET, &["plans"], NOTHING)?;
    let head = [
        ("PLAN", Align::Left),
        ("GROUPS", Align::Right),
        ("MACHINES", Align::Right),
        ("DESCRIPTION", Align::Left),
    ];
    let row = |plan: &Value| ["name", "groups", "machines", "description"].map(|name| text(&plan[name]));
    place.show(&answer, head, "plans", row)
}

fn runs(which: &Runs) -> Result<()> {
    let query: Vec<_> = which.plan.iter().map(|plan| ("plan", plan.clone())).collect();
    let answer = which.place.connect()?.ask_for(Method::GET, &["plan-runs"], &query, NOTHING)?;
    let head = [
        ("RUN", Align::Left),
        ("PLAN", Align::Left),
        ("KIND", Align::Left),
        ("ASKED", Align::Left),
        ("POINT", Align::Left),
        ("MACHINES", Align::Right),
        ("STATE", Align::Left),
    ];
    let columns = ["id", "plan", "kind", "asked", "wanted", "machines", "phase"];
    which.place.show(&answer, head, "runs", |run: &Value| columns.map(|name| text(&run[name])))
}

fn begin(run: &Run) -> Result<Outcome> {
    let (place, name) = (&run.named.place, &run.named.name);
    let service = place.connect()?;
    let wanted = json!({
        "kind": run.kind.to_possible_value().map(|kind| kind.get_name().to_owned()),
        "place": run.to,
        "point": run.point,
        "skip_manual": run.skip_manual,
    });
    let answer = service.ask(Method::POST, &["plans", name, "runs"], Some(&wanted))?;
    let id = text(&answer["id"]);
    if run.wait {
        return watch(place, &RUNS.known(service, id));
    }
    place.say(
        &answer,
        &format!("run {id} of plan '{name}' was begun: `plan watch {id}` shows how far it is"),
    )?;
    Ok(Outcome::Done)
}

fn act(act: &Act, action: &str) -> Result<Outcome> {
    let found = act.one.find()?;
    found.act(&act.one.place, &json!({ "action": action }), act.wait)?;
    if act.wait { watch(&act.one.place, &found) } else { Ok(Outcome::Done) }
}

impl One {
    fn find(&self) -> Result<Found> {
        RUNS.find(&self.place, &self.run)
    }
}

fn report(found: &Found) -> Result<Value> {
    found.service.ask(Method::GET, &[RUNS.path, &found.id, "report"], NOTHING)
}

fn show(place: &Place, report: &Value) -> Result<()> {
    if place.json { print_json(report) } else { print(&plan_report::render(report)) }
}

/// Waits until nothing more is done, says on the way what is done and what a person has to do, and shows what came of it.
fn watch(place: &Place, found: &Found) -> Result<Outcome> {
    let mut said = String::new();
    found.rests(&["running", "waiting"], |run| {
        let waits = run["phase"] == "waiting";
        let now = if waits { text(&run["hint"]) } else { plan_report::current(run) };
        if now != said {
            eprintln!("{now}");
            said = now;
        }
    })?;
    let report = report(found)?;
    show(place, &report)?;
    found.outcome(&report)
}
