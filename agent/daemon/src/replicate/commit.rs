//! Commits an epoch: puts its manifest into cache storage, and in debug mode takes it into target storage, which is the
//! service's part.
//!
//! An answer may get lost, or the agent be killed between the two, so both can be repeated. Deliberately not here: when an
//! epoch is complete.

use std::sync::Mutex;

use jiff::Timestamp;
use mobility_engine::{CommitFault, CommitKind, Fault, FaultKind, PointFigures};
use mobility_format::{
    Digest, Epoch, Generation, Head,
    key::CacheKey,
    manifest::{Commit, Consistency, Cut, CutMethod, DiskState, Manifest, SignedManifest},
};
use mobility_recovery::{Intake, IntakeError, IntakeErrorKind, Vault};

use super::{fault, pack::lock};
use crate::{clock, identity::Identity};

/// What the engine says of a commit, as the manifest has it. `scanned` is when the last scan of a disk without a tracker
/// began: the blocks that it found unchanged were so at that instant, and nothing is known of later ones.
pub(crate) fn describe(
    kind: &CommitKind,
    dirty_rate: mobility_format::ByteCount,
    scanned: Option<Timestamp>,
) -> Commit {
    let cut = |figures: &PointFigures, method, reason: &Option<String>| Cut {
        method,
        t0: Timestamp::from_microsecond(figures.cut.t0_us)
            .ok()
            .filter(|_| figures.cut.t0_us != 0)
            .or(scanned)
            .unwrap_or_else(clock::wall),
        window_us: figures.cut.window_us,
        tries: figures.tries,
        read: figures.cut.read,
        held_us: figures.cut.held_us,
        dirty_rate,
        reason: reason.clone(),
    };
    match kind {
        CommitKind::Checkpoint => Commit::Checkpoint,
        CommitKind::Point(figures) => Commit::Point {
            consistency: figures.consistency,
            cut: cut(figures, figures.method, &figures.shortfall),
        },
        CommitKind::Fuzzy(figures, reason) => Commit::Point {
            consistency: Consistency::Fuzzy,
            cut: cut(figures, CutMethod::None, &Some(reason.clone())),
        },
    }
}

/// A manifest ready to be put, kept until its epoch is committed or given up: a second try puts the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) commit: Commit,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
}

/// Signs the manifest of an epoch.
pub(crate) fn prepare(
    identity: &Identity,
    (generation, epoch): (Generation, Epoch),
    commit: Commit,
    disks: Vec<DiskState>,
    previous: Digest,
) -> Result<Prepared, String> {
    let manifest = Manifest {
        machine: identity.machine,
        generation,
        epoch,
        session: identity.session,
        time: clock::wall(),
        commit: commit.clone(),
        disks,
        previous,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let bytes = manifest.sign(&identity.key).map_err(|err| err.to_string())?;
    // What nobody could read must not be committed.
    let digest = SignedManifest::parse(&bytes).map_err(|err| err.to_string())?.digest;
    Ok(Prepared { generation, epoch, commit, bytes, digest })
}

/// Puts the manifest and has it taken in.
pub(crate) fn commit(
    vault: &Vault,
    intake: &Mutex<Intake>,
    prepared: &Prepared,
) -> Result<Head, CommitFault> {
    present(vault).map_err(CommitFault::Retry)?;
    let mut intake = lock(intake);
    let machine = SignedManifest::parse(&prepared.bytes).map(|signed| signed.manifest.machine);
    let machine = machine.map_err(|err| CommitFault::Refused(err.to_string()))?;
    let (generation, epoch) = (prepared.generation, prepared.epoch);
    let key = CacheKey::Manifest { machine, generation, epoch };
    let admitted = |intake: &Intake| intake.head().is_some_and(|head| head.digest == prepared.digest);
    if !admitted(&intake) {
        match vault.put_new(&key, &prepared.bytes) {
            Err(err) if !err.is_already_there() => return Err(CommitFault::Retry(fault::of_storage(&err))),
            _ => {}
        }
        intake.admit(generation, epoch).map_err(|err| refusal(&err))?;
    }
    let head =
        intake.head().cloned().ok_or_else(|| CommitFault::Refused("the vault has no head".to_owned()))?;
    if head.digest == prepared.digest {
        return Ok(head);
    }
    Err(CommitFault::Superseded { head: head.epoch, generation: head.generation })
}

fn refusal(err: &IntakeError) -> CommitFault {
    match err.kind() {
        IntakeErrorKind::Retry => CommitFault::Retry(of_intake(err)),
        IntakeErrorKind::Operator => CommitFault::Retry(Fault::new(FaultKind::Storage, err.to_string())),
        IntakeErrorKind::SendAgain | IntakeErrorKind::Stop => CommitFault::Refused(err.to_string()),
    }
}

/// The engine's word for an error of the intake.
pub(crate) fn of_intake(err: &IntakeError) -> Fault {
    match err {
        IntakeError::Storage(err) => fault::of_storage(err),
        other => Fault::new(FaultKind::Storage, other.to_string()),
    }
}

/// Whether the vault is there. Without this, putting an object would make the directories of a vault that was moved away
/// anew, in the wrong place.
pub(crate) fn present(vault: &Vault) -> Result<(), Fault> {
    Vault::open(vault.root()).map(|_| ()).map_err(|err| fault::of_vault(&err))
}

/// Takes in what an earlier run of the agent had committed without seeing it taken in. Returns whether an epoch is left
/// that cannot be: its number is used up in this generation.
pub(crate) fn take_in_leftovers(intake: &mut Intake) -> Result<bool, IntakeError> {
    let generation = intake.generation()?;
    loop {
        let epoch = intake.head().map_or(Epoch(1), |head| head.epoch.next());
        match intake.admit(generation, epoch) {
            Ok(_) => {}
            Err(IntakeError::Missing { key: CacheKey::Manifest { .. } }) => return Ok(false),
            Err(err) => match err.kind() {
                IntakeErrorKind::SendAgain | IntakeErrorKind::Stop => {
                    tracing::warn!(
                        "what an earlier run had committed cannot be taken in and is sent again: {err}"
                    );
                    return Ok(true);
                }
                _ => return Err(err),
            },
        }
    }
}
