//! Chooses the point of a failover, and says which other one to take where it turns out to be damaged.
//!
//! Deliberately not here: what the words for points mean (`crate::select`).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use mobility_format::{Epoch, MachineId};

use super::{provider::Failure, record::Chosen};
use crate::{
    Catalog, ContentError, ObjectKey, StorageError, select,
    service::{
        database::Job,
        heads,
        refusal::{Answer, Refusal},
        state::Service,
    },
    storage::Stores,
};

/// The newest point, after everything that waits in cache storage was taken in.
pub(super) const LATEST: &str = "latest";
/// The newest point of those that were taken in.
const LATEST_PROCESSED: &str = "latest-processed";
/// For how long taking in may stand still before it is not waited for any more.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How often is looked how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until what is in cache storage was taken in, or until that makes no progress. What was left, for people.
pub(super) async fn process_cache(
    service: &Service,
    machine: MachineId,
    stop: &super::run::Stop,
) -> Answer<String> {
    let (mut newest, mut progress) = (0, Instant::now());
    loop {
        let gone = || Refusal::not_found("machine");
        let state = service.database.state(machine).await?.ok_or_else(gone)?;
        let key = service.standing(machine).await?.ok_or_else(gone)?.signing_key;
        let (generation, head) = (state.generation, state.head.clone());
        let after = service
            .blocking(move |stores| Ok(heads::follow(stores, machine, key, generation, head)?))
            .await?;
        let waiting = after.map_or(0, |head| head.epoch.0).saturating_sub(state.taken_in);
        if waiting == 0 || state.refused >= state.generation {
            return Ok(format!("everything up to epoch {} was taken in", state.taken_in));
        }
        if state.taken_in != newest {
            (newest, progress) = (state.taken_in, Instant::now());
        }
        if progress.elapsed() > STANDSTILL || stop.is_set() {
            return Ok(format!(
                "{waiting} epochs after {} could not be taken in: the log says why",
                state.taken_in
            ));
        }
        service.database.want(Job::Intake, machine, Timestamp::now()).await?;
        service.work.notify_one();
        tokio::time::sleep(LOOK).await;
    }
}

/// The point that is meant.
pub(super) fn choose(
    stores: &Stores,
    machine: MachineId,
    wanted: &str,
    asked: Timestamp,
) -> Result<Chosen, Failure> {
    let catalog = load(stores, machine).map_err(|err| Failure::new(err.to_string(), err.kind().remedy()))?;
    let wanted = if wanted == LATEST_PROCESSED { LATEST } else { wanted };
    let hint = "`point list` shows the points there are: take another one with `failover change-point`";
    let point = select(&catalog, wanted, false).map_err(|err| Failure::new(err.to_string(), hint))?;
    if let Some(problem) = &point.problem {
        let problem = format!("point {} cannot be restored: {problem}", point.id);
        return Err(Failure::new(problem, instead(&catalog, point.epoch(), None)));
    }
    Ok(Chosen {
        id: point.id.to_string(),
        epoch: point.epoch(),
        time: point.time(),
        consistency: point.consistency,
        age_ms: asked.as_millisecond() - point.time().as_millisecond(),
    })
}

/// What to do where a point that was chosen is not there.
pub(super) const GONE: &str =
    "see that target storage is all there, and resume; or take another point with `failover change-point`";

/// A point that was chosen is not there: it was removed, or target storage is not what it was.
pub(super) fn gone(chosen: Option<&Chosen>) -> Failure {
    let id = chosen.map_or("that was chosen", |chosen| &chosen.id);
    Failure::new(format!("point {id} is not in target storage"), GONE)
}

/// Which point to take instead of one whose content cannot be had, for people.
pub(super) fn instead_of(stores: &Stores, machine: MachineId, epoch: Epoch, err: &ContentError) -> String {
    let damaged = match err {
        ContentError::Missing { key } | ContentError::Damaged { key, .. } => Some(*key),
        ContentError::Unusable { .. } | ContentError::Storage(_) => None,
    };
    match load(stores, machine) {
        Ok(catalog) if catalog.manifest(epoch).is_none() => GONE.to_owned(),
        Ok(catalog) => instead(&catalog, epoch, damaged),
        Err(_) => GONE.to_owned(),
    }
}

fn instead(catalog: &Catalog, epoch: Epoch, damaged: Option<ObjectKey>) -> String {
    let whole = |point: &crate::Point<'_>| {
        point.epoch() < epoch
            && point.problem.is_none()
            && !point.is_fuzzy()
            && !needs(catalog, point.epoch(), damaged)
    };
    match catalog.points().rev().find(whole) {
        Some(point) => format!(
            "the next older point that does not need it is {} of {}: `failover change-point` takes it",
            point.id,
            point.time()
        ),
        None => "no older point does without it: put the object back from a copy of the storage, and resume"
            .to_owned(),
    }
}

/// Whether the point needs the object.
fn needs(catalog: &Catalog, epoch: Epoch, object: Option<ObjectKey>) -> bool {
    let Some(object) = object else { return false };
    let disks = catalog.manifest(epoch).map_or(&[][..], |signed| &signed.manifest.disks);
    disks.iter().any(|disk| catalog.needs(disk.id, epoch, object))
}

fn load(stores: &Stores, machine: MachineId) -> Result<Catalog, StorageError> {
    let catalog = Catalog::load(stores, machine)?;
    // What is merged while it is read seems to be missing. It is not, the next time.
    let doubtful = catalog.points().any(|point| point.problem.is_some());
    if doubtful { Catalog::load(stores, machine) } else { Ok(catalog) }
}
