//! `points`: lists recovery points.

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use mobility_format::manifest::{Cut, DiskState};
use mobility_recovery::{Catalog, Point};
use serde_json::{Value, json};

use super::{
    Place,
    exit::Outcome,
    print, print_json,
    table::{Align, render},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let catalogs = arguments.place.catalogs()?;
    let mut points: Vec<(&Catalog, Point<'_>)> = Vec::new();
    for catalog in &catalogs {
        points.extend(catalog.points().map(|point| (catalog, point)));
    }
    if arguments.place.json {
        points.sort_by_key(|(_, point)| point.time());
        let points: Vec<_> = points.iter().map(|(catalog, point)| as_json(catalog, point)).collect();
        print_json(&json!({ "points": points }))?;
        return Ok(Outcome::Done);
    }
    for catalog in &catalogs {
        if catalogs.len() > 1 || points.is_empty() {
            print(&format!("machine {}\n", catalog.machine()))?;
        }
        let of_machine = points.iter().filter(|(of, _)| of.machine() == catalog.machine());
        print_table(&of_machine.map(|(_, point)| point).collect::<Vec<_>>())?;
    }
    if catalogs.is_empty() {
        print("no machine has sent anything to this vault yet\n")?;
    }
    Ok(Outcome::Done)
}

fn print_table(points: &[&Point<'_>]) -> Result<()> {
    if points.is_empty() {
        return print("no recovery points yet\n");
    }
    let head = [
        ("POINT", Align::Left),
        ("TIME", Align::Left),
        ("CONSISTENCY", Align::Left),
        ("DISKS", Align::Right),
        ("CHANGED", Align::Right),
        ("STORED", Align::Right),
        ("METHOD", Align::Left),
        ("WINDOW", Align::Right),
        ("TRIES", Align::Right),
        ("HELD", Align::Right),
        ("MISSED BLOCKS", Align::Right),
        ("", Align::Left),
    ];
    print(&render(head, &points.iter().map(|point| row(point)).collect::<Vec<_>>()))
}

fn row(point: &Point<'_>) -> [String; 12] {
    let disks = &point.manifest().disks;
    let changed = mobility_format::ByteCount(point.changed_blocks() * mobility_format::BLOCK_SIZE as u64);
    let of_cut = |show: fn(&Cut) -> String| point.cut().map_or(String::new(), show);
    let sum = |of: fn(&DiskState) -> u64| disks.iter().map(of).sum::<u64>();
    let missed = format!("{} of {}", sum(|disk| disk.missed_blocks), sum(|disk| disk.audited_blocks));
    let problem = point.problem.as_ref().map_or(String::new(), |problem| format!("DAMAGED: {problem}"));
    [
        point.id.to_string(),
        seconds(point.time()),
        point.consistency.name().to_owned(),
        disks.len().to_string(),
        changed.to_string(),
        point.stored_bytes().to_string(),
        of_cut(|cut| cut.method.name().to_owned()),
        of_cut(|cut| duration(cut.window_us)),
        of_cut(|cut| cut.tries.to_string()),
        of_cut(|cut| if cut.held_us == 0 { "-".to_owned() } else { duration(cut.held_us) }),
        missed,
        problem,
    ]
}

/// A time in whole seconds, in UTC.
pub(super) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn duration(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds} us"),
        1_000..1_000_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        _ => format!("{:.1} s", microseconds as f64 / 1e6),
    }
}

fn as_json(catalog: &Catalog, point: &Point<'_>) -> Value {
    let disk = |disk: &DiskState| {
        json!({
            "id": disk.id,
            "name": disk.name,
            "size": disk.size,
            "missing": disk.missing,
            "changed_blocks": disk.segments.iter().map(|segment| segment.blocks).sum::<u64>(),
            "stored_bytes": disk.segments.iter().map(|segment| segment.length.0).sum::<u64>(),
            "audited_blocks": disk.audited_blocks,
            "missed_blocks": disk.missed_blocks,
        })
    };
    let manifest = point.manifest();
    json!({
        "id": point.id,
        "time": point.time(),
        "received": point.received,
        "machine": catalog.machine(),
        "generation": manifest.generation,
        "epoch": manifest.epoch,
        "consistency": point.consistency,
        "cut": point.cut(),
        "disks": manifest.disks.iter().map(disk).collect::<Vec<_>>(),
        "changed_blocks": point.changed_blocks(),
        "stored_bytes": point.stored_bytes(),
        "agent": manifest.agent,
        "damage": point.problem,
    })
}
