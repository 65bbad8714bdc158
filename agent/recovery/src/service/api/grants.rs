//! Grants: rights to create objects, ahead of need.
//!
//! Deliberately not here: how a right is made (`granting`), and what arrives (`cache`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    ByteCount, Epoch, Generation,
    control::{ErrorCode, GrantRequest, Grants, MAX_BODY, ManifestGrant, SegmentGrant},
    key::CacheKey,
};

use super::{Said, caller::Caller, said};
use crate::service::{
    granting::{self, grant},
    refusal::{Answer, Refusal},
    state::{Counters, Service},
};

/// How long a grant is good: for as long an agent goes on without the service.
const LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How much the addresses in one answer may take: they get longer with a store's temporary credentials.
const MOST_BYTES: usize = MAX_BODY / 2;

fn outdated(asked: Generation, newest: Generation) -> Refusal {
    Refusal::new(ErrorCode::Conflict, format!("the newest generation is {newest}, not {asked}"))
}

pub(super) async fn give(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Said(request): Said<GrantRequest>,
) -> Answer<Json<Grants>> {
    let (machine, generation) = (caller.machine, request.generation);
    let state = caller.must_be(&service, request.session).await?;
    if state.generation != generation || generation.0 == 0 {
        return Err(outdated(generation, state.generation));
    }
    if state.over_quota {
        return Err(Refusal::over_quota());
    }
    let taken = service.database.take_slots(machine, request.session, generation, request.segments).await?;
    let Some(last) = taken else {
        // The agent itself may have begun a generation meanwhile: it asks for grants beside all that it does.
        let state = caller.must_be(&service, request.session).await?;
        return Err(outdated(generation, state.generation));
    };
    let now = Timestamp::now();
    let mut grants = Grants {
        generation,
        expires: now + LIFE,
        longest: ByteCount(granting::longest(&service.stores)),
        segments: Vec::new(),
        manifests: Vec::new(),
    };
    let mut bytes = 0;
    // Manifests go first: there are fewer of them, and without one nothing is committed.
    let first = request.first_epoch.0.max(1);
    for epoch in (first..first.saturating_add(u64::from(request.manifests))).map(Epoch) {
        if bytes >= MOST_BYTES / 2 {
            break;
        }
        let grant = grant(&service, CacheKey::Manifest { machine, generation, epoch }, now, LIFE).await?;
        bytes += grant.url.len();
        grants.manifests.push(ManifestGrant { epoch, grant });
    }
    for slot in last - u64::from(request.segments)..last {
        if bytes >= MOST_BYTES {
            break;
        }
        let grant = grant(&service, CacheKey::Slot { machine, generation, slot }, now, LIFE).await?;
        bytes += grant.url.len();
        grants.segments.push(SegmentGrant { slot, grant });
    }
    Counters::add(&service.counters.grants, (grants.segments.len() + grants.manifests.len()) as u64);
    said(grants)
}
