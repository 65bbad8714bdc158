//! Heartbeats: that a machine is there, how it is, and its policy where that has changed.
//!
//! Deliberately not here: what is made of silence (`processor::watch`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    Epoch, Generation,
    control::{Heartbeat, HeartbeatAnswer},
};

use super::{
    Said,
    caller::Caller,
    said,
    session::{held, policy},
};
use crate::service::{
    database::EventKind,
    refusal::{Answer, Refusal},
    state::{Counters, Service},
};

/// When the next heartbeat is wanted, in seconds.
const NEXT_S: u64 = 10;

pub(super) async fn take(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Said(beat): Said<Heartbeat>,
) -> Answer<Json<HeartbeatAnswer>> {
    let (machine, now) = (caller.machine, Timestamp::now());
    let heard = service.database.heartbeat(machine, beat.session, beat.turn, &beat.health, now).await?;
    let Some(heard) = heard else {
        let session = service.database.state(machine).await?.and_then(|state| state.session);
        if session.is_none() && service.database.gate(machine).await?.held.is_some() {
            return Err(held());
        }
        let of_current = session == Some(beat.session);
        if of_current {
            let message = "two machines share one session: one is a copy, and the later one was refused";
            service.event(EventKind::Fenced, Some(machine), message.to_owned()).await;
        }
        return Err(Refusal::fenced());
    };
    Counters::add(&service.counters.heartbeats, 1);
    let standing = &caller.standing;
    let policy = match (beat.policy, beat.paused) == (standing.policy_version, standing.paused) {
        true => None,
        false => Some(policy(&service, standing).await?),
    };
    said(HeartbeatAnswer {
        turn: heard.turn,
        next_s: NEXT_S,
        policy,
        generation: Generation(heard.generation),
        taken_in: Epoch(heard.taken_in),
    })
}
