//! A resync begins: a new generation, after what can be taken in of the one before.
//!
//! Deliberately not here: taking in (`processor`).

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    Generation, MachineId, PublicKey,
    control::{ErrorCode, GenerationRequest, NewGeneration},
};

use super::{Said, caller::Caller, said};
use crate::{
    Intake,
    service::{
        claims::{self, Lease},
        database::{Claim, EventKind, Job},
        processor::{self, End},
        refusal::{Answer, Refusal},
        state::Service,
    },
    storage::Stores,
};

/// How often the claim is tried for, and how long between.
const TRIES: usize = 20;
const BETWEEN: Duration = Duration::from_millis(100);
/// When the machine is looked at again by itself.
const NEXT: SignedDuration = SignedDuration::from_secs(1);

pub(super) async fn begin(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Said(request): Said<GenerationRequest>,
) -> Answer<Json<NewGeneration>> {
    let machine = caller.machine;
    caller.must_be(&service, request.session).await?;
    let claim = claim(&service, machine).await?;
    let begun = claims::hold(&service, &claim, async |lease| {
        begin_claimed(&service, machine, caller.standing.signing_key, request.after, &lease).await
    });
    let begun = begun.await;
    let released = service.database.release(Job::Intake, &claim, Timestamp::now()).await;
    let (generation, new) = begun?;
    released?;
    if new {
        let message = format!("generation {generation} began: {}", request.reason);
        service.event(EventKind::GenerationStarted, Some(machine), message).await;
    }
    let head = service.database.state(machine).await?.and_then(|state| state.head);
    said(NewGeneration { generation, head })
}

/// Nobody else works on this machine meanwhile.
async fn claim(service: &Service, machine: MachineId) -> Answer<Claim> {
    for _ in 0..TRIES {
        let now = Timestamp::now();
        if let Some(claim) =
            service.database.claim(Job::Intake, machine, service.claim_name(), NEXT, now).await?
        {
            return Ok(claim);
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Err(Refusal::not_yet("the machine's commits are being taken in, or its points thinned out", 1))
}

async fn begin_claimed(
    service: &Service,
    machine: MachineId,
    key: PublicKey,
    after: Generation,
    lease: &Lease,
) -> Answer<(Generation, bool)> {
    let state = service.database.state(machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    if state.generation == after && state.refused < after {
        match processor::take_in(service, machine, key, lease).await? {
            // What cannot be taken in is what the resync is for.
            End::Nothing | End::Gap { .. } | End::Refused { .. } => {}
            End::More => return Err(Refusal::not_yet("commits of the machine are being taken in", 1)),
            End::Full(_) => return Err(Refusal::over_quota()),
            End::Retry(problem) | End::Operator(problem) => return Err(Refusal::failing(&problem)),
        }
    }
    let (generation, new) =
        service.blocking_claimed(lease, move |stores| next(stores, machine, key, after)).await?;
    service.database.note_generation(machine, generation).await?;
    Ok((generation, new))
}

/// The generation after `after`: a new one, or the one that an earlier request of this kind has made.
fn next(
    stores: &Stores,
    machine: MachineId,
    key: PublicKey,
    after: Generation,
) -> Answer<(Generation, bool)> {
    let mut intake = Intake::open(stores, machine, key)?;
    let newest = intake.generation()?;
    if newest == after {
        return Ok((intake.new_generation()?, true));
    }
    let used = intake.head().is_some_and(|head| head.generation >= newest);
    if newest.0 == after.0 + 1 && !used {
        return Ok((newest, false));
    }
    let message = format!("the newest generation is {newest}, not {after}: begin a new session");
    Err(Refusal::new(ErrorCode::Conflict, message))
}
