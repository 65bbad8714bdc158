//! Identity: how a machine gets one, keeps it fresh and gives it up.
//!
//! Deliberately not here: making certificates (`authority`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    MachineId,
    control::{EnrolRequest, Enrolled, ErrorCode, RenewRequest, Renewed},
};

use super::{
    Said,
    caller::{Caller, Renewing},
    said,
};
use crate::service::{
    authority::{Authority, Request},
    database::{Enrolment, EventKind},
    facts,
    refusal::{Answer, Refusal},
    secret,
    state::Service,
};

pub(super) async fn enrol(
    State(service): State<Arc<Service>>,
    Said(request): Said<EnrolRequest>,
) -> Answer<Json<Enrolled>> {
    let now = Timestamp::now();
    let key = checked(&request.csr)?;
    let enrolment = Enrolment {
        machine: MachineId(secret::random()?),
        token: &secret::sha256(request.token.as_bytes()),
        key_hash: &secret::sha256(format!("{} {}", key.key, request.signing_key).as_bytes()),
        signing_key: request.signing_key,
        inventory: &request.inventory,
    };
    let Some((machine, new)) = service.database.enrol(&enrolment, now).await? else {
        // One answer for all of these: whoever guesses learns nothing.
        let message = "the token is unknown, expired, used up or revoked: ask for a new one";
        return Err(Refusal::new(ErrorCode::TokenRefused, message));
    };
    if new {
        let message = format!("'{}' was enrolled", request.inventory.name);
        service.event(EventKind::Enrolled, Some(machine), message).await;
    }
    let given = service.authority.machine(&key, machine, now)?;
    said(Enrolled {
        machine,
        certificate: given.pem,
        expires: given.expires,
        authorities: service.authority.pem().to_owned(),
        addresses: service.addresses.clone(),
    })
}

pub(super) async fn renew(
    State(service): State<Arc<Service>>,
    Renewing(machine): Renewing,
    Said(request): Said<RenewRequest>,
) -> Answer<Json<Renewed>> {
    let given = service.authority.machine(&checked(&request.csr)?, machine, Timestamp::now())?;
    said(Renewed {
        certificate: given.pem,
        expires: given.expires,
        authorities: service.authority.pem().to_owned(),
        addresses: service.addresses.clone(),
    })
}

pub(super) async fn unenrol(State(service): State<Arc<Service>>, caller: Caller) -> Answer<Json<()>> {
    if service.database.revoke_machine(caller.machine, Timestamp::now()).await? {
        service.database.end_session(caller.machine).await?;
        service.forget_standing(caller.machine);
        facts::store_now(&service, caller.machine).await;
        let message = "the machine left by its own request; its points stay".to_owned();
        service.event(EventKind::Unenrolled, Some(caller.machine), message).await;
    }
    said(())
}

fn checked(csr: &str) -> Answer<Request> {
    Authority::check(csr).map_err(|err| Refusal::bad(err.to_string()))
}
