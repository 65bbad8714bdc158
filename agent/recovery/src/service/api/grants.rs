//! Grants: rights to create objects, ahead of need.
//!
//! Deliberately not here: what arrives (`cache`), and stores other than the service's own.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    ByteCount, Epoch,
    control::{ErrorCode, Grant, GrantRequest, Grants, ManifestGrant, SegmentGrant},
    key::CacheKey,
};

use super::{Said, cache, caller::Caller, said};
use crate::service::{
    refusal::{Answer, Refusal},
    state::{Counters, Service},
};

/// How long a grant is good: for as long an agent goes on without the service.
const LIFE: SignedDuration = SignedDuration::from_hours(24);
/// The longest object that may be put, in bytes.
pub(super) const LONGEST: u64 = 256 << 20;

pub(super) async fn give(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Said(request): Said<GrantRequest>,
) -> Answer<Json<Grants>> {
    let (machine, generation) = (caller.machine, request.generation);
    let state = caller.must_be(&service, request.session).await?;
    if state.generation != generation || generation.0 == 0 {
        let message = format!("the newest generation is {}, not {generation}", state.generation);
        return Err(Refusal::new(ErrorCode::Conflict, message));
    }
    let taken = service.database.take_slots(machine, request.session, generation, request.segments).await?;
    let last = taken.ok_or_else(Refusal::fenced)?;
    let expires = Timestamp::now() + LIFE;
    let grant = |key: CacheKey| Grant {
        url: cache::address(&service, key, expires, LONGEST),
        headers: BTreeMap::new(),
    };
    let slots = last - u64::from(request.segments)..last;
    let segments =
        slots.map(|slot| SegmentGrant { slot, grant: grant(CacheKey::Slot { machine, generation, slot }) });
    let first = request.first_epoch.0.max(1);
    let epochs = (first..first.saturating_add(u64::from(request.manifests))).map(Epoch);
    let manifests = epochs.map(|epoch| ManifestGrant {
        epoch,
        grant: grant(CacheKey::Manifest { machine, generation, epoch }),
    });
    let grants = Grants {
        generation,
        expires,
        longest: ByteCount(LONGEST),
        segments: segments.collect(),
        manifests: manifests.collect(),
    };
    Counters::add(&service.counters.grants, (grants.segments.len() + grants.manifests.len()) as u64);
    said(grants)
}
