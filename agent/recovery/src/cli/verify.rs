//! `verify`: tells what is damaged, and which points that costs.

use std::io::IsTerminal;

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use mobility_recovery::{Catalog, DamagedObject, PointId, VerifyReport, select, verify};
use serde_json::{Value, json};

use super::{Place, exit::Outcome, print, print_json};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Only what this point needs, but decode all of it: `latest`, a time, an id, the beginning of an id, or an epoch
    #[arg(long, value_name = "ID")]
    point: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let catalogs = match arguments.point {
        None => arguments.place.catalogs()?,
        Some(_) => {
            let (stores, machine) = arguments.place.open_one()?;
            vec![Catalog::load_locked(&stores, machine)?]
        }
    };
    let (mut values, mut outcome) = (Vec::new(), Outcome::Done);
    for catalog in &catalogs {
        let point = arguments.point.as_deref().map(|text| select(catalog, text, true)).transpose()?;
        let report = check(catalog, point.as_ref().map(|point| point.epoch()))?;
        if !report.damaged.is_empty() {
            outcome = Outcome::Damage;
        }
        match arguments.place.json {
            true => values.push(as_json(catalog, &report)),
            false => print_report(catalog, point.map(|point| point.id), &report)?,
        }
    }
    if arguments.place.json {
        print_json(&json!({ "intact": outcome == Outcome::Done, "machines": values }))?;
    }
    Ok(outcome)
}

fn check(catalog: &Catalog, only: Option<mobility_format::Epoch>) -> Result<VerifyReport> {
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let report = verify(catalog, only, |report| {
        if let Some(bar) = &bar {
            bar.set_message(format!("{} objects, {}", report.objects, report.bytes));
            bar.tick();
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(report)
}

fn print_report(catalog: &Catalog, point: Option<PointId>, report: &VerifyReport) -> Result<()> {
    for object in &report.damaged {
        print(&format!("DAMAGED {}\n    {}\n    {}\n", object.key, object.problem, affected(object)))?;
    }
    for note in &report.notes {
        print(&format!("note: {}: {}\n", note.path.display(), note.remark))?;
    }
    let what = point.map_or(format!("machine {}", catalog.machine()), |id| format!("point {id}"));
    let (objects, bytes) = (report.objects, report.bytes);
    let result = match report.damaged.len() {
        0 => "intact".to_owned(),
        1 => "1 of them is damaged".to_owned(),
        damaged => format!("{damaged} of them are damaged"),
    };
    print(&format!("{what}: {objects} objects with {bytes} of segments checked, {result}\n"))
}

fn affected(object: &DamagedObject) -> String {
    const SHOWN: usize = 10;
    let ids: Vec<_> = object.points.iter().take(SHOWN).map(ToString::to_string).collect();
    match object.points.len() {
        0 => "no listed point needs it".to_owned(),
        count @ 1..=SHOWN => format!("affects {count} points: {}", ids.join(", ")),
        count => format!("affects {count} points: {} and {} more", ids.join(", "), count - SHOWN),
    }
}

fn as_json(catalog: &Catalog, report: &VerifyReport) -> Value {
    let damaged = |object: &DamagedObject| {
        json!({
            "key": object.key.to_string(),
            "problem": object.problem,
            "missing": object.missing,
            "points": object.points,
        })
    };
    let note = |note: &mobility_recovery::Note| json!({ "path": note.path, "remark": note.remark });
    json!({
        "machine": catalog.machine(),
        "objects": report.objects,
        "segment_bytes": report.bytes,
        "damaged": report.damaged.iter().map(damaged).collect::<Vec<_>>(),
        "notes": report.notes.iter().map(note).collect::<Vec<_>>(),
    })
}
