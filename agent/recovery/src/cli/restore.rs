//! `restore`: brings disks back as of a recovery point.

use std::{
    io::IsTerminal,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};
use clap::{ArgAction, Args};
use indicatif::{ProgressBar, ProgressStyle};
use mobility_format::{ByteCount, DiskId, manifest::DiskState};
use mobility_recovery::{
    Catalog, Destination, Format, ObjectImage, PageBlob, Phase, Point, Progress, Restored, images_in,
    restore_disk, select, service::store_in,
};
use serde_json::json;

use super::{
    Place,
    exit::{NotFound, Outcome},
    points::seconds,
    print, print_json,
};

#[derive(Args)]
#[group(id = "where", required = true, multiple = false, args = ["output", "to_device", "to_blob", "to_object"])]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Which recovery point: `latest`, a time such as 2026-11-22T23:57:00Z (the newest at or before it), its id, the
    /// beginning of its id, or its epoch
    #[arg(long, value_name = "latest|TIME|ID")]
    point: String,
    /// Only this disk, by its id, the beginning of its id, or its name
    #[arg(long, value_name = "ID")]
    disk: Option<String>,
    /// The directory for the images: one for each disk, sparse
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The block device to overwrite with the one disk that is restored
    #[arg(long, value_name = "PATH")]
    to_device: Option<PathBuf>,
    /// The file that holds the address of an Azure page blob, with its signature (SAS): for the one disk that is restored, as
    /// `vhd`. A blob that is there, such as that of a managed disk which waits for its upload, is filled with --force
    #[arg(long, value_name = "FILE")]
    to_blob: Option<PathBuf>,
    /// The key of the object in the store of --store that the one disk is restored to, as `raw` or `vhd`. One that is there is
    /// replaced with --force
    #[arg(long, value_name = "KEY", requires = "store")]
    to_object: Option<String>,
    /// The file that says where the store of --to-object is, as the table `[storage.target]` of a service's configuration does
    #[arg(long, value_name = "FILE", requires = "to_object")]
    store: Option<PathBuf>,
    /// The format: `raw`, which it is if nothing is said, exactly as long as the disk; `qcow2`, for QEMU; `vhd`, fixed, as
    /// Azure takes it
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Whether to read back what was written and compare it
    #[arg(long, value_name = "yes|no", default_value = "yes", default_missing_value = "yes", num_args = 0..=1,
          require_equals = true, action = ArgAction::Set, value_parser = yes_or_no)]
    verify: bool,
    /// Let `latest` or a time choose a point whose consistency could not be shown
    #[arg(long)]
    allow_fuzzy: bool,
    /// Replace images that exist
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    let (stores, machine) = arguments.place.open_one()?;
    let catalog = Catalog::load_locked(&stores, machine)?;
    let point = select(&catalog, &arguments.point, arguments.allow_fuzzy)?;
    let disks = chosen_disks(arguments, &point)?;
    let start = Instant::now();
    let restored = restore(arguments, &catalog, &point, &disks)?;
    if arguments.place.json {
        print_json(&as_json(&point, &restored))?;
        return Ok(Outcome::Done);
    }
    let (time, kind) = (seconds(point.time()), point.consistency.name());
    print(&format!(
        "restored point {} of {time} ({kind}) in {:.1} s\n",
        point.id,
        start.elapsed().as_secs_f64()
    ))?;
    for disk in restored {
        let (path, size, written) = (disk.path.display(), disk.size, disk.written);
        print(&format!("  {} -> {path}: {size}, of which {written} are not zero\n", disk.name))?;
        let how = if disk.verified { "read back and compared" } else { "not read back" };
        print(&format!("     root {}, {how}\n", disk.root))?;
    }
    Ok(Outcome::Done)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("say `yes` or `no`".to_owned()),
    }
}

fn chosen_disks(arguments: &Arguments, point: &Point<'_>) -> Result<Vec<DiskId>> {
    let disks = &point.manifest().disks;
    let names =
        || disks.iter().map(|disk| format!("{} ({})", disk.name, disk.id)).collect::<Vec<_>>().join(", ");
    let chosen: Vec<DiskId> = match &arguments.disk {
        None => disks.iter().map(|disk| disk.id).collect(),
        Some(text) => match Catalog::find_disk(disks, text) {
            Ok(disk) => vec![disk.id],
            Err(found) => {
                let problem =
                    format!("'{text}' names {found} disks of point {}, which has {}", point.id, names());
                return Err(NotFound(problem).into());
            }
        },
    };
    if arguments.output.is_none() && chosen.len() != 1 {
        return Err(NotFound(format!("name the one disk to write there with --disk: {}", names())).into());
    }
    Ok(chosen)
}

fn restore(
    arguments: &Arguments,
    catalog: &Catalog,
    point: &Point<'_>,
    disks: &[DiskId],
) -> Result<Vec<Restored>> {
    let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
    if let Some(bar) = &bar {
        let style = "{msg:20} [{bar:30}] {binary_bytes_per_sec:>12} {eta:>5}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    }
    let stop = stop_flag()?;
    let progress = |disk: &DiskState, at: Progress| {
        if let Some(bar) = &bar {
            let doing = if at.phase == Phase::Checking { "checking " } else { "" };
            bar.set_length(at.total.0);
            bar.set_message(format!("{doing}{}", disk.name));
            bar.set_position(at.done.0);
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut restored = Vec::new();
    for (disk, to) in destinations(arguments, catalog, point, disks)? {
        let verify = arguments.verify;
        restored.push(restore_disk(catalog, point.epoch(), disk.id, &to, verify, |at| progress(disk, at))?);
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(restored)
}

fn destinations<'a>(
    arguments: &Arguments,
    catalog: &'a Catalog,
    point: &Point<'a>,
    disks: &[DiskId],
) -> Result<Vec<(&'a DiskState, Destination)>> {
    let (format, epoch) = (arguments.format, point.epoch());
    if let Some(dir) = &arguments.output {
        return Ok(images_in(catalog, epoch, disks, dir, format.unwrap_or_default(), arguments.force)?);
    }
    let disk = point.manifest().disks.iter().find(|disk| disks.contains(&disk.id));
    let disk = disk.context("the point has no such disk")?;
    let replace = arguments.force;
    let to = if let Some(path) = &arguments.to_device {
        Destination::Device { path: path.clone(), format: format.unwrap_or_default() }
    } else if let Some(file) = &arguments.to_blob {
        if format.is_some_and(|format| format != Format::Vhd) {
            anyhow::bail!("a page blob is a VHD: leave --format out");
        }
        Destination::PageBlob { blob: blob_in(file)?, replace }
    } else if let (Some(key), Some(file)) = (&arguments.to_object, &arguments.store) {
        let object = ObjectImage::new(&store_in(file)?, key).map_err(NotFound)?;
        Destination::Object { object, format: format.unwrap_or_default(), replace }
    } else {
        anyhow::bail!("name --output, --to-device, --to-blob or --to-object")
    };
    Ok(vec![(disk, to)])
}

/// The page blob whose address is in a file.
fn blob_in(file: &Path) -> Result<PageBlob> {
    let address = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the blob's address from {}", file.display()))?;
    Ok(PageBlob::at(&address).map_err(|problem| NotFound(format!("{}: {problem}", file.display())))?)
}

/// What is set by the signals that ask for an end. A second one ends the process at once.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("cannot wait for signals")?;
    }
    Ok(stop)
}

fn as_json(point: &Point<'_>, restored: &[Restored]) -> serde_json::Value {
    let disk = |disk: &Restored| {
        json!({
            "id": disk.disk,
            "name": disk.name,
            "path": disk.path,
            "size": disk.size,
            "written_bytes": disk.written,
            "read_bytes": disk.read,
            "format": disk.format.name(),
            "root": disk.root,
            "verified": disk.verified,
        })
    };
    let bytes = |of: fn(&Restored) -> u64| ByteCount(restored.iter().map(of).sum());
    json!({
        "point": point.id,
        "time": point.time(),
        "consistency": point.consistency,
        "disks": restored.iter().map(disk).collect::<Vec<_>>(),
        "size": bytes(|disk| disk.size.0),
    })
}
