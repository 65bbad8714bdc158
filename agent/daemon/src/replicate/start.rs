//! Brings a replication to life: vault, identity, head, disks, trackers, engine.
//!
//! Deliberately not here: flags and configuration files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use anyhow::Context;
use indicatif::ProgressBar;
use mobility_capture::disk::Disk;
use mobility_engine::{DiskStart, Engine, Start};
use mobility_format::{Digest, DiskId, Epoch, Generation, MachineId, SessionId};
use mobility_recovery::{Catalog, Head, Intake, Vault};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{
    Message, Replication,
    applications::Applications,
    commit,
    disk::{Opening, Protected, inspect_all},
    freeze::{self, Freezing},
    pack::{Chain, Window},
    report::Report,
    scan::Stored,
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

/// Keeps a second agent away from the same vault for as long as it lives.
#[derive(Debug)]
pub(crate) struct VaultLock(#[allow(dead_code, reason = "it is held, not read")] File);

/// The vault with the service's part, and who we are in it.
struct Opened {
    vault: Vault,
    identity: Identity,
    intake: Intake,
    generation: Generation,
    lock: VaultLock,
}

fn open_vault(path: &Path) -> anyhow::Result<Opened> {
    let refused = |err: mobility_recovery::IntakeError| Failure::Vault(err.to_string());
    let vault = Vault::create(path).map_err(|err| Failure::Vault(err.to_string()))?;
    let private = private_dir(&vault);
    fs::create_dir_all(&private).map_err(|err| Failure::Vault(format!("{}: {err}", private.display())))?;
    let lock = lock_vault(&private)?;
    let identity = Identity::load_or_create(&private.join("identity"))?;
    let mut intake = Intake::open(&vault, identity.machine, identity.public_key()).map_err(refused)?;
    if commit::take_in_leftovers(&mut intake).map_err(refused)? {
        intake.new_generation().map_err(refused)?;
    }
    let generation = intake.generation().map_err(refused)?;
    Ok(Opened { vault, identity, intake, generation, lock })
}

/// Where the agent keeps what is its own.
fn private_dir(vault: &Vault) -> PathBuf {
    vault.root().join("agent")
}

/// Opens the disks and their tracking.
fn open_disks(
    inspected: Vec<Disk>,
    opening: &Opening,
    head: Option<&Head>,
    trusted: bool,
) -> Result<(BTreeMap<DiskId, Protected>, Vec<DiskStart>), Failure> {
    let (mut disks, mut starts) = (BTreeMap::new(), Vec::new());
    for disk in inspected {
        let in_head =
            head.into_iter().flat_map(|head| &head.disks).any(|known| known.id == disk.id && known.present);
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
) -> anyhow::Result<(Replication, VaultLock)> {
    freeze::thaw_what_was_left(runtime_dir);
    let inspected = inspect_all(&settings.disks, &settings.vault)?;
    let Opened { vault, identity, intake, generation, lock } = open_vault(&settings.vault)?;
    let machine = identity.machine;
    fs::create_dir_all(runtime_dir).with_context(|| {
        format!("cannot make the runtime directory {}; choose one with --runtime-dir", runtime_dir.display())
    })?;
    let cancel = Arc::new(AtomicBool::new(false));
    let applications = applications(settings, runtime_dir, machine, cancel.clone());
    let head = intake.head().cloned();
    let head_file = runtime_dir.join(format!("{machine}.head"));
    let pin_root = Path::new(PIN_ROOT).join(machine.to_string());
    let opening = Opening { capture: settings.capture, pin_root, tables: private_dir(&vault) };
    let trusted = trusted(&head_file, &vault, head.as_ref());
    let (disks, starts) = open_disks(inspected, &opening, head.as_ref(), trusted)?;
    let seed = u64::from_le_bytes(identity::random()?);
    let epoch = head.as_ref().map_or(Epoch(0), |head| head.epoch);
    let start = Start { limits: settings.limits, seed, head: Some((generation, epoch)), disks: starts };
    let mut replication = Replication {
        engine: Engine::new(clock::now(), start),
        stored: Arc::new(Mutex::new(Stored::new(vault.clone(), machine))),
        intake: Arc::new(Mutex::new(intake)),
        chains: disks.keys().map(|&id| (id, Arc::new(Mutex::new(empty_chain(&identity, id))))).collect(),
        report: Report::new(machine, settings.clone(), state_file::path(runtime_dir, machine), bar),
        vault,
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
        opening,
        head_file,
        systemd: Systemd::new(),
        next_housekeeping: clock::now(),
        stopped: false,
    };
    replication.reset_chains(generation);
    Ok((replication, lock))
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

fn lock_vault(private: &Path) -> Result<VaultLock, Failure> {
    let path: PathBuf = private.join("lock");
    let fail = |what: String| Failure::Vault(format!("{}: {what}", path.display()));
    // Held without the right to write, which would keep an operator from mounting the file system read-only.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .and_then(|_| File::open(&path))
        .map_err(|err| fail(err.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(VaultLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(fail(
            "another agent is using this vault; stop it, or give this one a vault of its own".to_owned(),
        )),
        Err(err) => Err(fail(err.to_string())),
    }
}

/// Notes the newest commit, before what it made durable is forgotten by the trackers.
pub(super) fn remember_head(file: &Path, head: Digest) -> std::io::Result<()> {
    let unfinished = file.with_extension("head.new");
    fs::write(&unfinished, head.to_string())?;
    fs::rename(unfinished, file)
}

/// Whether what the trackers have marked is all that differs from the vault's head: the head is the one that this machine
/// remembers from this boot, or the one right after it, whose answer it did not live to see. A vault that was put back to
/// an earlier state is found out here.
fn trusted(file: &Path, vault: &Vault, head: Option<&Head>) -> bool {
    let (Some(head), Ok(remembered)) = (head, fs::read_to_string(file)) else { return false };
    if remembered == head.digest.to_string() {
        return true;
    }
    let machine = file.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
    let catalog = machine.and_then(|machine| Catalog::load(vault, machine).ok());
    let newest = catalog.as_ref().and_then(|catalog| catalog.manifest(head.epoch));
    newest.is_some_and(|newest| newest.manifest.previous.to_string() == remembered)
}
