//! `mobility-agent demo`: all of it in a minute, on a disk that is made for it and thrown away.
//!
//! A real agent protects a real disk, files are written, the disk is damaged, an earlier point is restored, and every
//! claim is checked before it is printed. Nothing outside of its own directory is touched. Deliberately not here: the
//! scratch disk (`scratch`) and the agent's process (`agent`).

mod agent;
mod scratch;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mobility_capture::{
    direct::{AlignedBuf, DirectReader, read_plan},
    disk::Disk,
};
use mobility_format::{
    BlockRange, BlockSet, ByteCount, Epoch, MachineId, WINDOW_SIZE,
    manifest::{Consistency, Cut, CutMethod},
};
use mobility_recovery::{Catalog, Point, Vault, restore_to_directory};

use self::{agent::Agent, scratch::Scratch};
use crate::cli::DemoArgs;

/// How long to wait for a point before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of a point that was made.
#[derive(Clone, Debug)]
struct Made {
    epoch: Epoch,
    id: String,
    time: jiff::Timestamp,
    consistency: Consistency,
    cut: Option<Cut>,
    changed: ByteCount,
    sent: ByteCount,
}

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let home = Home::make(args)?;
    let started = Instant::now();
    let mut scratch = Scratch::make(&home.path, ByteCount(args.size << 20))?;
    println!("disk       {}", scratch.describe());
    let vault = home.path.join("vault");
    let agent = Agent::start(&vault, scratch.disk(), &home.path.join("run"))?;
    let first = wait_for_point(&vault, |_| true)?;
    println!(
        "protected  initial replication: {} sent for a disk of {}, first recovery point {} after {:.1} s",
        all_sent(&vault)?,
        scratch.size(),
        first.id,
        started.elapsed().as_secs_f64()
    );
    let good = write_and_wait(&mut scratch, &vault)?;
    scratch.damage().context("the scratch disk could not be damaged")?;
    let damaged_at = jiff::Timestamp::now();
    println!("damage     every document overwritten: {}", scratch.damage_shown()?);
    let bad =
        wait_for_point(&vault, |point| point.time > damaged_at && point.consistency != Consistency::Fuzzy)?;
    println!("           and the agent replicated that too, as it must: recovery point {}", bad.id);
    scratch.come_to_rest()?;
    let rested = jiff::Timestamp::now();
    wait_for_point(&vault, |point| point.time > rested && point.consistency != Consistency::Fuzzy)?;
    agent.stop()?;
    bring_back(&home, &scratch, &vault, &good, &bad.id)?;
    println!(
        "summary    {} points in {:.0} s; {}",
        count(&vault)?,
        started.elapsed().as_secs_f64(),
        home.farewell(&vault)
    );
    Ok(())
}

/// Writes documents and waits for a point that must have them.
fn write_and_wait(scratch: &mut Scratch, vault: &Path) -> anyhow::Result<Made> {
    let written = scratch.write_documents().context("the scratch disk could not be written")?;
    let durable = jiff::Timestamp::now();
    println!("work       {} documents of {written} in all written and synced", scratch.documents());
    let point =
        wait_for_point(vault, |point| point.time > durable && point.consistency != Consistency::Fuzzy)?;
    let cut = point.cut.as_ref().context("a point without a cut")?;
    let how = match cut.method {
        CutMethod::Scan => "two scans in a row agree".to_owned(),
        CutMethod::Freeze => format!("writes held for {:.2} ms", cut.held_us as f64 / 1000.0),
        _ => format!("cut window {:.2} ms, nobody stopped", cut.window_us as f64 / 1000.0),
    };
    println!(
        "point      {}: {}-consistent; {} changed, {} sent (1 : {:.1}); {how}",
        point.id,
        point.consistency.name(),
        point.changed,
        point.sent,
        point.changed.0 as f64 / point.sent.0.max(1) as f64,
    );
    Ok(point)
}

fn bring_back(home: &Home, scratch: &Scratch, vault: &Path, good: &Made, bad: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let image = restore(vault, good.epoch, &home.path.join("restored"))?;
    let took = start.elapsed();
    println!(
        "restore    {} in {:.2} s ({}/s), every digest verified",
        good.id,
        took.as_secs_f64(),
        ByteCount((scratch.size().0 as f64 / took.as_secs_f64()) as u64)
    );
    let found = scratch.check_documents(&image)?;
    println!(
        "proof      {found} of {} documents are back, each with the content it was written with",
        scratch.documents()
    );
    ensure!(found == scratch.documents(), "documents are missing from the restored disk");
    let last = restore(vault, newest(vault)?, &home.path.join("latest"))?;
    let equal = same_content(&last, scratch.disk())?;
    ensure!(equal, "the newest point differs from the disk");
    println!(
        "proof      the newest point equals the damaged disk ({bad} was the first with it), byte for byte"
    );
    Ok(())
}

fn restore(vault: &Path, epoch: Epoch, dir: &Path) -> anyhow::Result<PathBuf> {
    let catalog = catalog(vault)?.context("the vault is gone")?;
    let mut restored = restore_to_directory(&catalog, epoch, &[], dir, false, |_, _| {})?;
    Ok(restored.pop().context("nothing was restored")?.path)
}

fn same_content(image: &Path, disk: &Path) -> anyhow::Result<bool> {
    let disk = Disk::inspect(disk)?;
    let (mut image, reader) = (File::open(image)?, DirectReader::open(&disk)?);
    let (mut restored, mut original) = (vec![0; WINDOW_SIZE], AlignedBuf::for_window());
    for range in read_plan(&BlockSet::of(BlockRange::whole_disk(disk.size))) {
        reader.read(range, &mut original)?;
        let length = (disk.size.0 - range.start.byte_offset()).min(range.bytes().0) as usize;
        if image.read_exact(&mut restored[..length]).is_err() || restored[..length] != original[..length] {
            return Ok(false);
        }
    }
    Ok(image.read(&mut restored[..1])? == 0)
}

fn wait_for_point(vault: &Path, wanted: impl Fn(&Made) -> bool) -> anyhow::Result<Made> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(made) = points(vault)?.into_iter().find(&wanted) {
            return Ok(made);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("no such recovery point was made within {} s", PATIENCE.as_secs())
}

/// The vault's catalog, once there is one.
fn catalog(vault: &Path) -> anyhow::Result<Option<Catalog>> {
    let Ok(vault) = Vault::open(vault) else { return Ok(None) };
    let Some(machine) = vault.machines()?.into_iter().next() else { return Ok(None) };
    let machine: MachineId = machine;
    Ok(Some(Catalog::load(&vault, machine)?))
}

fn points(vault: &Path) -> anyhow::Result<Vec<Made>> {
    let Some(catalog) = catalog(vault)? else { return Ok(Vec::new()) };
    let made = |point: Point<'_>| Made {
        epoch: point.epoch(),
        id: point.id.to_string(),
        time: point.time(),
        consistency: point.consistency,
        cut: point.cut().cloned(),
        changed: ByteCount(point.changed_blocks() * mobility_format::BLOCK_SIZE as u64),
        sent: point.stored_bytes(),
    };
    Ok(catalog.points().map(made).collect())
}

fn newest(vault: &Path) -> anyhow::Result<Epoch> {
    Ok(points(vault)?.last().context("there are no points")?.epoch)
}

fn count(vault: &Path) -> anyhow::Result<usize> {
    Ok(points(vault)?.len())
}

/// What was sent so far, checkpoints included.
fn all_sent(vault: &Path) -> anyhow::Result<ByteCount> {
    let Some(catalog) = catalog(vault)? else { return Ok(ByteCount(0)) };
    let newest = catalog.head().map_or(0, |head| head.epoch.0);
    let manifests = (1..=newest).filter_map(|epoch| catalog.manifest(Epoch(epoch)));
    let segments = manifests.flat_map(|signed| &signed.manifest.disks).flat_map(|disk| &disk.segments);
    Ok(ByteCount(segments.map(|segment| segment.length.0).sum()))
}

/// The directory that the demo lives in.
struct Home {
    path: PathBuf,
    keep: bool,
}

impl Home {
    fn make(args: &DemoArgs) -> anyhow::Result<Home> {
        let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("mobility-demo-{}", std::process::id()));
        std::fs::create_dir_all(&parent)
            .and_then(|()| std::fs::create_dir(&path))
            .with_context(|| format!("cannot make {}; choose another place with --dir", path.display()))?;
        Ok(Home { path, keep: args.keep })
    }

    fn farewell(&self, vault: &Path) -> String {
        match self.keep {
            true => format!("look around: recovery-service points --vault {}", vault.display()),
            false => "all of it is thrown away again (--keep leaves it)".to_owned(),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed is only waste in a temporary directory.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
