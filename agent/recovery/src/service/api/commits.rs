//! Commit notices: what became of a manifest, and a reason to look now.
//!
//! Deliberately not here: taking it in (`processor`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    MachineId,
    control::{CommitNotice, CommitSeen, CommitState},
    manifest::SignedManifest,
};

use super::{Read, caller::Caller, said};
use crate::{
    StorageError,
    service::{database::Job, heads, refusal::Answer, state::Service},
    storage::Stores,
};

pub(super) async fn take(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Read(notice): Read<CommitNotice>,
) -> Answer<Json<CommitSeen>> {
    let machine = caller.machine;
    let state = caller.must_be(&service, notice.session).await?;
    let seen = service.blocking(move |stores| Ok(look(stores, machine, &notice)?)).await?;
    let seen = match seen {
        // What was taken in may have been pruned since.
        CommitState::Absent if notice.epoch.0 <= state.taken_in => CommitState::TakenIn,
        seen => seen,
    };
    if seen == CommitState::Present {
        service.database.want(Job::Intake, machine, Timestamp::now()).await?;
        service.work.notify_one();
    }
    said(CommitSeen { state: seen })
}

fn look(stores: &Stores, machine: MachineId, notice: &CommitNotice) -> Result<CommitState, StorageError> {
    let is_it =
        |bytes: &[u8]| SignedManifest::parse(bytes).is_ok_and(|signed| signed.digest == notice.digest);
    // In this order, since it is put into target storage before it is removed from cache storage.
    if let Some(bytes) = heads::in_cache(stores, machine, notice.generation, notice.epoch)? {
        return Ok(if is_it(&bytes) { CommitState::Present } else { CommitState::Other });
    }
    Ok(match heads::in_target(stores, machine, notice.epoch)? {
        Some(bytes) if is_it(&bytes) => CommitState::TakenIn,
        Some(_) => CommitState::Other,
        None => CommitState::Absent,
    })
}
