//! Brings a replication to life: storage, identity, head, disks, trackers, engine.
//!
//! Deliberately not here: flags and configuration files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use anyhow::Context;
use indicatif::ProgressBar;
use mobility_capture::disk::Disk;
use mobility_engine::{DiskStart, Engine, Start};
use mobility_format::{Digest, DiskId, Epoch, Generation, Head, MachineId, SessionId, control::Claim};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{
    Message, Replication,
    applications::Applications,
    disk::{Opening, Protected},
    freeze::{self, Freezing},
    halt::Halt,
    open::{self, Opened},
    orders,
    pack::{Chain, Window},
    report::Report,
    store::Newest,
    worker::Worker,
};
use crate::{
    clock,
    config::Settings,
    exit::Failure,
    identity::{self, Identity},
    request,
    scripts::Scripts,
    state_file,
    systemd::Systemd,
};

/// Where trackers are pinned, one directory for each machine id: two vaults never share a tracker.
const PIN_ROOT: &str = mobility_capture::ebpf::DEFAULT_PIN_ROOT;

/// Opens the disks and their tracking.
fn open_disks(
    inspected: Vec<Disk>,
    opening: &Opening,
    head: Option<&Head>,
    trusted: bool,
) -> Result<(BTreeMap<DiskId, Protected>, Vec<DiskStart>), Failure> {
    let (mut disks, mut starts) = (BTreeMap::new(), Vec::new());
    for disk in inspected {
        let in_head = head.and_then(|head| head.disk(disk.id)).is_some_and(|known| known.present);
        let (protected, start) = Protected::open(disk, opening, in_head, trusted)?;
        let (path, size) = (protected.disk.given.display(), protected.disk.size);
        tracing::info!("protecting {path} ({size}), changes found by {}", protected.capture());
        disks.insert(protected.disk.id, protected);
        starts.push(start);
    }
    Ok((disks, starts))
}

/// Starts replicating. Everything that can be found wrong beforehand is.
pub(crate) fn start(
    settings: &Settings,
    runtime_dir: &Path,
    bar: ProgressBar,
    (mailbox, messages): (UnboundedSender<Message>, UnboundedReceiver<Message>),
) -> anyhow::Result<Replication> {
    // What cannot be thawed was said; an agent that does not start would not help.
    let _ = freeze::thaw_what_was_left(runtime_dir);
    let opened = open::open(settings, runtime_dir, &mailbox)?;
    let Opened { store, identity, newest, inspected, private, link, lock } = opened;
    let Newest { head, generation } = newest;
    let machine = identity.machine;
    fs::create_dir_all(runtime_dir).with_context(|| {
        format!("cannot make the runtime directory {}; choose one with --runtime-dir", runtime_dir.display())
    })?;
    let cancel = Arc::new(AtomicBool::new(false));
    let applications = applications(settings, runtime_dir, machine, cancel.clone());
    let head_file = head_file(runtime_dir, machine);
    let pin_root = Path::new(PIN_ROOT).join(machine.to_string());
    let opening = Opening { capture: settings.capture, pin_root, tables: private };
    let trusted = trusted(remembered_head(&head_file), head.as_ref());
    let (disks, starts) = open_disks(inspected, &opening, head.as_ref(), trusted)?;
    let seed = u64::from_le_bytes(identity::random()?);
    let epoch = head.as_ref().map_or(Epoch(0), |head| head.epoch);
    let halt = Halt::load(Halt::file(runtime_dir, machine));
    let limits =
        link.as_ref().map_or(settings.limits, |link| orders::with_policy(settings.limits, link.policy()));
    // Nothing was committed yet where there is no head, whatever generation the service has reached.
    let begun = (head.is_some() || generation > Generation(0)).then_some((generation, epoch));
    let start = Start { limits: halt.over(limits), seed, head: begun, disks: starts };
    let mut replication = Replication {
        engine: Engine::new(clock::now(), start),
        store,
        link,
        chains: disks.keys().map(|&id| (id, Arc::new(Mutex::new(empty_chain(&identity, id))))).collect(),
        report: Report::new(machine, settings.clone(), state_file::path(runtime_dir, machine), bar),
        identity,
        head,
        disks,
        busy: BTreeSet::new(),
        grown: BTreeSet::new(),
        scanned: BTreeMap::new(),
        segments: BTreeMap::new(),
        references: BTreeMap::new(),
        prepared: None,
        window: Arc::new(Window::new(settings.limits.segments)),
        worker: Worker::start().context("cannot start a thread")?,
        mailbox,
        messages,
        cancel,
        applications,
        halt,
        opening,
        head_file,
        systemd: Systemd::new(),
        next_housekeeping: clock::now(),
        stopped: false,
        failure: None,
        _lock: lock,
    };
    replication.reset_chains(generation);
    replication.pace();
    Ok(replication)
}

/// Applications that an earlier agent left held are let go.
fn applications(
    settings: &Settings,
    runtime_dir: &Path,
    machine: MachineId,
    cancel: Arc<AtomicBool>,
) -> Applications {
    let freezing = Freezing::new(runtime_dir, machine);
    let record = runtime_dir.join(format!("{machine}.quiesced"));
    let scripts = Scripts::new(settings.scripts.dir.clone(), settings.scripts.timeout, record, cancel);
    if let Err(failed) = scripts.recover() {
        tracing::error!("an earlier agent left applications held: {failed}");
    }
    Applications::new(scripts, freezing, &request::dir(runtime_dir, machine))
}

fn empty_chain(identity: &Identity, disk: DiskId) -> Chain {
    Chain {
        machine: identity.machine,
        disk,
        generation: Generation(0),
        epoch: Epoch(0),
        session: SessionId([0; 8]),
        part: 0,
        previous: Digest::NONE,
    }
}

/// Where the newest commit is noted: in the runtime directory, which like tracking does not outlive a reboot.
pub(super) fn head_file(runtime_dir: &Path, machine: MachineId) -> PathBuf {
    runtime_dir.join(format!("{machine}.head"))
}

/// Notes the newest commit, before what it made durable is forgotten by the trackers.
pub(super) fn remember_head(file: &Path, head: &Claim) -> std::io::Result<()> {
    let unfinished = file.with_extension("head.new");
    fs::write(&unfinished, serde_json::to_vec(head)?)?;
    fs::rename(unfinished, file)
}

/// The newest commit that this machine remembers from this boot.
pub(super) fn remembered_head(file: &Path) -> Option<Claim> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Whether what the trackers have marked is all that differs from the head: the head is the one that this machine
/// remembers from this boot, or the one right after it, whose answer it did not live to see. A storage that was put back to
/// an earlier state is found out here.
fn trusted(remembered: Option<Claim>, head: Option<&Head>) -> bool {
    let (Some(remembered), Some(head)) = (remembered, head) else { return false };
    [head.digest, head.previous].contains(&remembered.digest)
}
