//! Takes in what a machine has committed, epoch after epoch.
//!
//! What comes of each epoch is noted in the database after storage has it; a kill in between is mended by the next look, for
//! the intake knows from storage what it has taken in. Deliberately not here: what an epoch has to be like (`Intake`), and the
//! answer to one that is not (`doubt`).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mobility_format::{Digest, Epoch, Generation, MachineId, PublicKey, manifest::SignedManifest};

use super::{
    Next, doubt, gap,
    room::{self, Room, TooMuch},
};
use crate::{
    Intake, IntakeError, IntakeErrorKind, StorageError,
    service::{
        claims::Lease,
        database::{EventKind, Taken},
        heads,
        refusal::{Answer, Refusal},
        state::{Counters, Service},
    },
    storage::Stores,
};

/// How long one machine's epochs are taken in before others have their turn.
const TURN: Duration = Duration::from_secs(5);
/// How many epochs at most are taken in before it is noted how far it got.
const BATCH: usize = 16;
/// Machines whose head is remembered by this instance.
const INTAKES: usize = 4096;

/// How taking in ended.
#[derive(Debug)]
pub(in crate::service) enum End {
    /// There is no further epoch.
    Nothing,
    /// This epoch is not there, and a later one is.
    Gap { generation: Generation, missing: Epoch, later: Epoch },
    /// There is one, and the machine's quota leaves no room for it.
    Full(TooMuch),
    /// There may be more; it was others' turn.
    More,
    /// An epoch cannot be taken in, and never will.
    Refused { generation: Generation, epoch: Epoch, reason: String },
    /// Storage fails or is busy.
    Retry(String),
    /// Target storage is damaged.
    Operator(String),
}

/// Intakes that are kept open, since opening one reads the machine's whole catalog.
#[derive(Default)]
pub(in crate::service) struct Intakes(Mutex<HashMap<MachineId, Intake>>);

impl Intakes {
    fn take(&self, machine: MachineId) -> Option<Intake> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&machine)
    }

    fn put(&self, machine: MachineId, intake: Intake) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= INTAKES {
            let any = kept.keys().next().copied();
            any.map(|any| kept.remove(&any));
        }
        kept.insert(machine, intake);
    }
}

/// Does the work of [`super::Job::Intake`] for one machine.
pub(super) async fn work(service: &Service, machine: MachineId, lease: &Lease) -> Next {
    let key = match service.standing(machine).await {
        Ok(Some(standing)) => standing.signing_key,
        Ok(None) => return Next::InTime,
        Err(err) => {
            tracing::error!(%machine, "nothing can be taken in: {err}");
            return Next::Again;
        }
    };
    let end = match take_in(service, machine, key, lease).await {
        Ok(end) => end,
        Err(_) => return Next::Again,
    };
    if !matches!(end, End::Gap { .. }) {
        service.gaps.forget(machine);
    }
    match end {
        End::Nothing | End::Full(_) => Next::InTime,
        End::More => Next::Now,
        // Whoever went on with it has removed what is not found here.
        End::Gap { .. } | End::Refused { .. } if !lease.holds() => Next::Again,
        End::Gap { generation, missing, later } => {
            if !service.gaps.lasts(machine, (generation, missing), service.patience, Instant::now()) {
                return Next::Again;
            }
            let reason = format!("it is not in cache storage, and epoch {later} is: the store has lost it");
            refuse(service, (machine, key), generation, missing, reason, lease).await
        }
        End::Refused { generation, epoch, reason } => {
            refuse(service, (machine, key), generation, epoch, reason, lease).await
        }
        End::Retry(problem) => {
            tracing::warn!(%machine, "an epoch is not taken in yet: {problem}");
            Next::Again
        }
        End::Operator(problem) => {
            service.event(EventKind::StorageDamaged, Some(machine), problem).await;
            Next::InTime
        }
    }
}

/// Nothing of the generation from this epoch on will be taken in: the machine is told to send again what it covers.
async fn refuse(
    service: &Service,
    of: (MachineId, PublicKey),
    generation: Generation,
    epoch: Epoch,
    reason: String,
    lease: &Lease,
) -> Next {
    Counters::add(&service.counters.refused, 1);
    match doubt::order_resync(service, of, generation, epoch, reason, lease).await {
        Ok(()) => Next::InTime,
        Err(_) => Next::Again,
    }
}

/// Takes in what there is, for one turn. The caller has claimed the machine's intake.
pub(in crate::service) async fn take_in(
    service: &Service,
    machine: MachineId,
    key: PublicKey,
    lease: &Lease,
) -> Answer<End> {
    let (began, quota) = (Instant::now(), room::quota(service, machine).await?);
    loop {
        let state = service.database.state(machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
        if state.refused >= state.generation {
            return Ok(End::Nothing);
        }
        let known = state.head.as_ref().map(|head| head.digest);
        let room = Room::within(quota, service, machine, &state, lease).await?;
        let intake = service.intakes.take(machine).filter(|kept| kept.head().map(|h| h.digest) == known);
        let batch = service
            .blocking_claimed(lease, move |stores| {
                let intake = intake.map(|kept| kept.on(stores));
                Ok(match intake.map_or_else(|| Intake::open(stores, machine, key), Ok) {
                    Ok(mut intake) => {
                        let work = Batch { stores, machine, known, overdue: state.overdue };
                        let (taken, end) = work.take_in(&mut intake, room);
                        (Some(intake), taken, end)
                    }
                    Err(err) => (None, Vec::new(), Some(ending(Generation(0), Epoch(0), &err))),
                })
            })
            .await?;
        let (intake, taken, end) = batch;
        for taken in taken {
            service.database.note_head(machine, &taken, Timestamp::now()).await?;
            Counters::add(&service.counters.taken_in, 1);
        }
        let too_much = if let Some(End::Full(too_much)) = &end { Some(too_much) } else { None };
        room::note(service, machine, state.over_quota, too_much).await?;
        match (end, intake) {
            (None, Some(intake)) => service.intakes.put(machine, intake),
            (Some(end @ (End::Nothing | End::Full(_))), Some(intake)) => {
                service.intakes.put(machine, intake);
                return Ok(end);
            }
            (Some(end), _) => return Ok(end),
            (None, None) => {}
        }
        if began.elapsed() >= TURN {
            return Ok(End::More);
        }
    }
}

/// What is taken in at once of one machine.
struct Batch<'a> {
    stores: &'a Stores,
    machine: MachineId,
    /// What the database takes for the head.
    known: Option<Digest>,
    /// Whether an interval was missed.
    overdue: bool,
}

impl Batch<'_> {
    /// Takes in up to [`BATCH`] epochs; why that was all, unless there was no more room in the batch.
    fn take_in(&self, intake: &mut Intake, mut room: Room) -> (Vec<Taken>, Option<End>) {
        let mut taken = Vec::new();
        let end = self.all(intake, &mut room, &mut taken).err();
        (taken, end)
    }

    fn all(&self, intake: &mut Intake, room: &mut Room, taken: &mut Vec<Taken>) -> Result<(), End> {
        let generation = intake.generation().map_err(|err| ending(Generation(0), Epoch(0), &err))?;
        // An instance that was killed had taken in more than it could note.
        if intake.head().map(|head| head.digest) != self.known {
            self.note(intake, taken)?;
        }
        while taken.len() < BATCH {
            let epoch = intake.head().map_or(Epoch(1), |head| head.epoch.next());
            let Some(bytes) =
                heads::in_cache(self.stores, self.machine, generation, epoch).map_err(|err| later(&err))?
            else {
                return Err(self.without(generation, epoch));
            };
            room.take_for(&bytes).map_err(End::Full)?;
            intake.admit(generation, epoch).map_err(|err| ending(generation, epoch, &err))?;
            self.note(intake, taken)?;
        }
        Ok(())
    }

    /// What it means that an epoch is not there.
    fn without(&self, generation: Generation, missing: Epoch) -> End {
        match gap::after(self.stores, self.machine, generation, missing, self.overdue) {
            Ok(None) => End::Nothing,
            Ok(Some(later)) => End::Gap { generation, missing, later },
            Err(err) => later(&err),
        }
    }

    /// Adds the intake's head to what was taken in.
    fn note(&self, intake: &Intake, taken: &mut Vec<Taken>) -> Result<(), End> {
        let Some(head) = intake.head() else { return Ok(()) };
        let bytes = heads::in_target(self.stores, self.machine, head.epoch).map_err(|err| later(&err))?;
        let signed = bytes.and_then(|bytes| SignedManifest::parse(&bytes).ok()).ok_or_else(|| {
            End::Operator(format!("the manifest of epoch {} cannot be read in target storage", head.epoch))
        })?;
        let point = signed.manifest.consistency().is_some();
        taken.push(Taken { head: head.clone(), point, bytes: room::size(&signed) });
        Ok(())
    }
}

fn later(err: &StorageError) -> End {
    End::Retry(err.to_string())
}

fn ending(generation: Generation, epoch: Epoch, err: &IntakeError) -> End {
    match err.kind() {
        IntakeErrorKind::Retry => End::Retry(err.to_string()),
        IntakeErrorKind::SendAgain | IntakeErrorKind::Stop if epoch.0 > 0 => {
            End::Refused { generation, epoch, reason: err.to_string() }
        }
        _ => End::Operator(err.to_string()),
    }
}
