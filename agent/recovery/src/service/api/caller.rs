//! Recognises the machine that a request comes from: by its certificate, and by what the database says of it now.
//!
//! Deliberately not here: which of a machine's sessions asks; requests say so themselves.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use jiff::{SignedDuration, Timestamp};
use mobility_format::{MachineId, SessionId, control::ErrorCode};

use crate::service::{
    database::{Standing, State as MachineState},
    refusal::{Answer, Refusal},
    state::Service,
    tls::Holder,
};

/// How long after its end a certificate may still be renewed: a machine may have been switched off for so long.
const RENEWABLE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// When to ask again while no session is known, in seconds.
const SOON: u64 = 2;

/// The machine that asks.
pub(super) struct Caller {
    pub(super) machine: MachineId,
    pub(super) standing: Standing,
}

/// The machine that asks, whose certificate may have expired: good for renewing it and for nothing else.
pub(super) struct Renewing(pub(super) MachineId);

impl FromRequestParts<Arc<Service>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Answer<Self> {
        let (machine, standing) = recognise(parts, service, SignedDuration::ZERO).await?;
        Ok(Caller { machine, standing })
    }
}

impl FromRequestParts<Arc<Service>> for Renewing {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Answer<Self> {
        Ok(Renewing(recognise(parts, service, RENEWABLE).await?.0))
    }
}

async fn recognise(
    parts: &Parts,
    service: &Service,
    lenience: SignedDuration,
) -> Answer<(MachineId, Standing)> {
    let nobody = |message| Err(Refusal::new(ErrorCode::Unauthenticated, message));
    let Some(holder) = parts.extensions.get::<Holder>() else {
        return nobody("a client certificate of this service is needed: enrol first");
    };
    if holder.expires + lenience <= Timestamp::now() {
        return nobody("the client certificate has expired: renew it, or enrol again");
    }
    match service.standing(holder.machine).await? {
        None => nobody("this service does not know the machine: enrol again"),
        Some(standing) if standing.revoked => {
            let message = "this machine was taken out of protection: enrol it again with a new token";
            Err(Refusal::new(ErrorCode::Revoked, message))
        }
        Some(standing) => Ok((holder.machine, standing)),
    }
}

impl Caller {
    /// Refuses what does not come from the machine's current session.
    pub(super) async fn must_be(&self, service: &Service, session: SessionId) -> Answer<MachineState> {
        match service.database.state(self.machine).await? {
            Some(state) if state.session == Some(session) => Ok(state),
            // The database was rebuilt. The next heartbeat says which session goes on.
            Some(MachineState { session: None, .. }) => {
                Err(Refusal::not_yet("no session is known yet", SOON))
            }
            _ => Err(Refusal::fenced()),
        }
    }
}
