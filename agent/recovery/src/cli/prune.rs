//! `prune`: thins out recovery points.

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use mobility_format::{ByteCount, MachineId};
use mobility_recovery::{
    PointId, PruneReport,
    ladder::{DEFAULT_LADDER, Ladder},
    prune,
};
use serde_json::{Value, json};

use super::{Place, exit::Outcome, print, print_json};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Which points to keep: AGE:DISTANCE steps with rising ages. The default reads: up to 1 hour old keep all, up to a
    /// day one in 5 minutes, up to a week one an hour, up to 30 days one a day, and nothing older. Units: s, min, h, d, w.
    /// Ages count from when the point was taken in. The newest point always stays, and the newest that is not fuzzy
    #[arg(long, value_name = "LADDER", default_value = DEFAULT_LADDER)]
    keep: Ladder,
    /// Change nothing, only tell what would go
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let (stores, machines) = arguments.place.open()?;
    if !arguments.dry_run && stores.target().as_directory().is_none() {
        // Nothing would keep the two apart.
        anyhow::bail!(
            "an object store is pruned by the running service, by its policies: see `policy set --keep`, or use --dry-run"
        );
    }
    let (mut values, mut outcome) = (Vec::new(), Outcome::Done);
    for machine in machines {
        let report = prune(&stores, machine, &arguments.keep, Timestamp::now(), arguments.dry_run)?;
        if !report.untouched.is_empty() {
            outcome = Outcome::Damage;
        }
        match arguments.place.json {
            true => values.push(as_json(machine, &report)),
            false => print_report(machine, &report, arguments.dry_run)?,
        }
    }
    if arguments.place.json {
        let keep = arguments.keep.to_string();
        print_json(&json!({ "keep": keep, "dry_run": arguments.dry_run, "machines": values }))?;
    }
    Ok(outcome)
}

fn print_report(machine: MachineId, report: &PruneReport, dry_run: bool) -> Result<()> {
    for id in report.removed.iter().filter(|_| dry_run) {
        print(&format!("would remove {id}\n"))?;
    }
    for left in &report.untouched {
        print(&format!("left alone: epochs {} to {}: {}\n", left.first, left.last, left.reason))?;
    }
    let (removed, kept) = (report.removed.len(), report.kept.len());
    let (freed, verb) = (space(report.freed), if dry_run { "would remove" } else { "removed" });
    let about = if dry_run { "about " } else { "" };
    print(&format!("machine {machine}: {verb} {removed} points, {kept} stay; {about}{freed}\n"))
}

fn space(freed: i128) -> String {
    let bytes = ByteCount(u64::try_from(freed.unsigned_abs()).unwrap_or(u64::MAX));
    if freed < 0 { format!("{bytes} more are used for now") } else { format!("{bytes} freed") }
}

fn as_json(machine: MachineId, report: &PruneReport) -> Value {
    let ids = |ids: &[PointId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let left = |left: &mobility_recovery::Untouched| json!({ "first_epoch": left.first, "last_epoch": left.last, "reason": left.reason });
    json!({
        "machine": machine,
        "kept": ids(&report.kept),
        "removed": ids(&report.removed),
        "merged_ranges": report.merged,
        "freed_bytes": i64::try_from(report.freed).unwrap_or(i64::MAX),
        "left_alone": report.untouched.iter().map(left).collect::<Vec<_>>(),
    })
}
