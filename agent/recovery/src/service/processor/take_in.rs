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
use mobility_format::{Digest, Epoch, Generation, Head, MachineId, PublicKey, manifest::SignedManifest};

use super::{Next, doubt};
use crate::{
    Intake, IntakeError, IntakeErrorKind,
    service::{
        claims::Lease,
        database::EventKind,
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

/// An epoch that was taken in.
struct Taken {
    head: Head,
    /// Whether it is a recovery point.
    point: bool,
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
    match end {
        End::Nothing => Next::InTime,
        End::More => Next::Now,
        // Whoever went on with it has removed what is not found here.
        End::Refused { .. } if !lease.holds() => Next::Again,
        End::Refused { generation, epoch, reason } => {
            Counters::add(&service.counters.refused, 1);
            match doubt::order_resync(service, (machine, key), generation, epoch, reason, lease).await {
                Ok(()) => Next::InTime,
                Err(_) => Next::Again,
            }
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

/// Takes in what there is, for one turn. The caller has claimed the machine's intake.
pub(in crate::service) async fn take_in(
    service: &Service,
    machine: MachineId,
    key: PublicKey,
    lease: &Lease,
) -> Answer<End> {
    let began = Instant::now();
    loop {
        let state = service.database.state(machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
        if state.refused >= state.generation {
            return Ok(End::Nothing);
        }
        let known = state.head.as_ref().map(|head| head.digest);
        let intake = service.intakes.take(machine).filter(|kept| kept.head().map(|h| h.digest) == known);
        let batch = service
            .blocking_claimed(lease, move |stores| {
                let intake = intake.map(|kept| kept.on(stores));
                Ok(match intake.map_or_else(|| Intake::open(stores, machine, key), Ok) {
                    Ok(mut intake) => {
                        let (taken, end) = batch(stores, &mut intake, machine, known);
                        (Some(intake), taken, end)
                    }
                    Err(err) => (None, Vec::new(), Some(ending(Generation(0), Epoch(0), &err))),
                })
            })
            .await?;
        let (intake, taken, end) = batch;
        for taken in taken {
            service.database.note_head(machine, &taken.head, taken.point, Timestamp::now()).await?;
            Counters::add(&service.counters.taken_in, 1);
        }
        match (end, intake) {
            (None, Some(intake)) => service.intakes.put(machine, intake),
            (Some(End::Nothing), Some(intake)) => {
                service.intakes.put(machine, intake);
                return Ok(End::Nothing);
            }
            (Some(end), _) => return Ok(end),
            (None, None) => {}
        }
        if began.elapsed() >= TURN {
            return Ok(End::More);
        }
    }
}

/// Takes in up to a batch of epochs; why that was all, unless there was no more room in the batch.
fn batch(
    stores: &Stores,
    intake: &mut Intake,
    machine: MachineId,
    known: Option<Digest>,
) -> (Vec<Taken>, Option<End>) {
    let mut taken = Vec::new();
    let generation = match intake.generation() {
        Ok(generation) => generation,
        Err(err) => return (taken, Some(ending(Generation(0), Epoch(0), &err))),
    };
    // An instance that was killed had taken in more than it could note.
    if intake.head().map(|head| head.digest) != known
        && let Err(end) = note(stores, intake, machine, &mut taken)
    {
        return (taken, Some(end));
    }
    while taken.len() < BATCH {
        let epoch = intake.head().map_or(Epoch(1), |head| head.epoch.next());
        match heads::in_cache(stores, machine, generation, epoch) {
            Ok(Some(_)) => {}
            Ok(None) => return (taken, Some(End::Nothing)),
            Err(err) => return (taken, Some(End::Retry(err.to_string()))),
        }
        if let Err(err) = intake.admit(generation, epoch) {
            return (taken, Some(ending(generation, epoch, &err)));
        }
        if let Err(end) = note(stores, intake, machine, &mut taken) {
            return (taken, Some(end));
        }
    }
    (taken, None)
}

/// Adds the intake's head to what was taken in.
fn note(stores: &Stores, intake: &Intake, machine: MachineId, taken: &mut Vec<Taken>) -> Result<(), End> {
    let Some(head) = intake.head() else { return Ok(()) };
    let bytes = heads::in_target(stores, machine, head.epoch).map_err(|err| End::Retry(err.to_string()))?;
    let signed = bytes.and_then(|bytes| SignedManifest::parse(&bytes).ok());
    let gone =
        || End::Operator(format!("the manifest of epoch {} cannot be read in target storage", head.epoch));
    let point = signed.ok_or_else(gone)?.manifest.consistency().is_some();
    taken.push(Taken { head: head.clone(), point });
    Ok(())
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
