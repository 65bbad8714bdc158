//! Failovers: begun, shown, and told what becomes of them.
//!
//! Deliberately not here: doing them (`failover`).

use std::sync::Arc;

use axum::{Json, extract::State};
use mobility_format::{MachineId, control::ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Administrator, stepwise};
use crate::service::{
    api::{InPath, InQuery, Read},
    database::{DatabaseError, EventKind, Kept},
    facts,
    failover::{Action, Failover, Kind},
    refusal::{Answer, Refusal},
    secret,
    state::Service,
};

/// Failovers in one answer.
const MOST: u32 = 1000;
/// The longest name of a point.
const MOST_POINT: usize = 128;

/// A failover as it is shown.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    failover: Failover,
    /// What was asked of it and not taken up yet.
    waiting: Option<Action>,
    /// How long it took from being asked for until the machine was up, in milliseconds.
    took_ms: Option<i64>,
}

impl From<Kept<Failover>> for Shown {
    fn from(kept: Kept<Failover>) -> Shown {
        Shown { took_ms: kept.record.took_ms(), failover: kept.record, waiting: kept.asked }
    }
}

/// Which failovers.
#[derive(Deserialize)]
pub(super) struct Which {
    machine: Option<MachineId>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InQuery(which): InQuery<Which>,
) -> Answer<Json<Value>> {
    let of = which.machine.map(|machine| machine.to_string());
    let kept = service.database.records::<Failover>(of, MOST).await?;
    Ok(Json(json!({ "failovers": kept.into_iter().map(Shown::from).collect::<Vec<_>>() })))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
) -> Answer<Json<Value>> {
    Ok(Json(json!(Shown::from(stepwise::find::<Failover>(&service, &id).await?))))
}

/// What to fail over, and where to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    machine: MachineId,
    kind: Kind,
    /// The one of the machine's target settings, or the only one that there is, where it is not given.
    place: Option<String>,
    /// `latest` where it is not given.
    point: Option<String>,
}

pub(super) async fn begin(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Read(wanted): Read<Wanted>,
) -> Answer<Json<Value>> {
    let machine =
        service.database.machine(wanted.machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    let place = place_of(&service, machine.id, wanted.place).await?;
    let point = checked_point(wanted.point.unwrap_or_else(|| "latest".to_owned()))?;
    if wanted.kind == Kind::Planned && point != "latest" {
        return Err(Refusal::bad(
            "a planned failover takes the machine's last point: leave the point out, and change it afterwards",
        ));
    }
    let id = secret::hex(&secret::random::<8>()?);
    let failover = Failover::new(id, (machine.id, machine.name), wanted.kind, place, point);
    if !add(&service, &failover).await? {
        let problem = "the machine is being failed over already: cancel or commit that failover first";
        return Err(Refusal::new(ErrorCode::Conflict, problem));
    }
    Ok(Json(json!(Shown::from(Kept { record: failover, asked: None }))))
}

/// Begins a failover, unless the machine has one already of which nobody has said what becomes of it.
pub(in crate::service) async fn add(service: &Service, failover: &Failover) -> Result<bool, DatabaseError> {
    if !service.database.add_failover(failover).await? {
        return Ok(false);
    }
    facts::store_now(service, failover.machine).await;
    let kind = match failover.kind {
        Kind::Test => "a test failover",
        Kind::Planned => "a planned failover",
        Kind::Unplanned => "a failover",
    };
    let message = format!("{kind} to {} was asked for: {}", failover.place, failover.id);
    service.event(EventKind::Failover, Some(failover.machine), message).await;
    Ok(true)
}

pub(super) async fn act(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
    Read(action): Read<Action>,
) -> Answer<Json<Value>> {
    if let Action::ChangePoint { point } = &action {
        checked_point(point.clone())?;
    }
    stepwise::ask::<Failover>(&service, &id, &action).await?;
    Ok(Json(json!({ "failover": id, "asked": action })))
}

/// Where a machine is failed over to: where it is said, or its target settings say, or there is nothing else.
pub(super) async fn place_of(
    service: &Service,
    machine: MachineId,
    wanted: Option<String>,
) -> Answer<String> {
    let settled = service.database.target(machine).await?.and_then(|target| target.place);
    the_place(service, wanted.or(settled))
}

fn the_place(service: &Service, wanted: Option<String>) -> Answer<String> {
    let names = || service.failover.keys().cloned().collect::<Vec<_>>().join(", ");
    match wanted {
        Some(name) if service.failover.contains_key(&name) => Ok(name),
        Some(name) => {
            Err(Refusal::bad(format!("there is no place '{name}' to fail over to: there are {}", names())))
        }
        None => match service.failover.keys().next() {
            Some(name) if service.failover.len() == 1 => Ok(name.clone()),
            Some(_) => Err(Refusal::bad(format!("say which place to fail over to: {}", names()))),
            None => Err(Refusal::bad(
                "there is no place to fail over to: the service's configuration needs a table [failover.NAME]",
            )),
        },
    }
}

pub(super) fn checked_point(point: String) -> Answer<String> {
    match point.len() <= MOST_POINT && !point.is_empty() {
        true => Ok(point),
        false => Err(Refusal::bad(format!("a point is named by up to {MOST_POINT} characters"))),
    }
}
