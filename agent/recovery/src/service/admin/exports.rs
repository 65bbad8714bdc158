//! Exports: made of a point for a time, listed, ended. The key is shown once, when an export is made.
//!
//! While an export is good its point is not pruned: the thinning reads both from the database. Deliberately not here: what is read
//! of one (`api::exports`).

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use mobility_format::{Epoch, MachineId, control::ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Administrator;
use crate::{
    Catalog, SelectError, select,
    service::{
        api::{InPath, Read},
        database::EventKind,
        export::{Kept, Key, View},
        heads,
        refusal::{Answer, Refusal},
        state::Service,
    },
};

/// How long an export is good, unless it is said, in seconds.
const VALID_S: u64 = 24 * 3600;
const MOST_VALID_S: u64 = 7 * 24 * 3600;
/// Exports at once, of all machines.
const MOST: u64 = 64;
/// How long to wait for work on the machine that began before the export was there, and how often to look.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);
/// When to ask again where that takes longer, in seconds.
const SOON: u64 = 10;

/// An export of which point.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `latest`, a time, an id, the beginning of an id, or an epoch.
    #[serde(default = "latest")]
    point: String,
    /// For how long, in seconds.
    #[serde(default = "day")]
    valid_s: u64,
    /// Whether `latest` or a time may mean a point whose consistency could not be shown.
    #[serde(default)]
    allow_fuzzy: bool,
}

fn latest() -> String {
    "latest".to_owned()
}

fn day() -> u64 {
    VALID_S
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
    Read(wanted): Read<Wanted>,
) -> Answer<Json<Value>> {
    if !(1..=MOST_VALID_S).contains(&wanted.valid_s) {
        return Err(Refusal::bad(format!("an export is good for 1 to {MOST_VALID_S} seconds")));
    }
    if service.database.machine(id).await?.is_none() {
        return Err(Refusal::not_found("machine"));
    }
    let valid = SignedDuration::from_secs(i64::try_from(wanted.valid_s).unwrap_or(0));
    let view = service.blocking(move |stores| choose(&Catalog::load(stores, id)?, &wanted)).await?;
    let (key, name) = Key::new()?;
    let created = Timestamp::now();
    let kept = Kept { id: name, created, expires: created + valid, view };
    if !service.database.add_export(&kept, &key.hash(), MOST).await? {
        let message = format!("there are {MOST} exports already: end one (`export list`, `export end`)");
        return Err(Refusal::new(ErrorCode::Conflict, message));
    }
    if let Err(refusal) = stays(&service, id, kept.view.epoch).await {
        service.database.end_export(&kept.id, Timestamp::now()).await?;
        return Err(refusal);
    }
    let base = service.addresses.first().map_or("", String::as_str);
    let address = format!("{base}/v1/exports/{}", key.secret());
    let mut made = kept.shown(Some(&address));
    made["address"] = address.into();
    made["key"] = key.secret().into();
    made["authority"] = service.authority.pem().into();
    made["ca_fingerprint"] = service.authority.fingerprint().into();
    let message = format!("point {} is exported until {} ({})", kept.view.point, kept.expires, kept.id);
    service.event(EventKind::Exported, Some(id), message).await;
    Ok(Json(made))
}

fn choose(catalog: &Catalog, wanted: &Wanted) -> Answer<View> {
    let point = select(catalog, &wanted.point, wanted.allow_fuzzy).map_err(|err| match &err {
        SelectError::OnlyFuzzy { .. } | SelectError::Ambiguous { .. } => {
            Refusal::new(ErrorCode::Conflict, err.to_string())
        }
        _ => Refusal::new(ErrorCode::NotFound, err.to_string()),
    })?;
    match &point.problem {
        None => Ok(View::of(catalog.machine(), &point)),
        Some(problem) => {
            let message = format!("point {} cannot be read: {problem}; choose another one", point.id);
            Err(Refusal::new(ErrorCode::Conflict, message))
        }
    }
}

/// Waits until nobody is at work on the machine who does not know of the export, and makes sure that its point is still there.
async fn stays(service: &Service, machine: MachineId, epoch: Epoch) -> Answer<()> {
    let begun = service.database.claimed_by(machine).await?;
    let start = std::time::Instant::now();
    while begun.is_some() && service.database.claimed_by(machine).await? == begun {
        if start.elapsed() > PATIENCE {
            return Err(Refusal::not_yet("the machine's points are being thinned out: ask again", SOON));
        }
        tokio::time::sleep(LOOK).await;
    }
    match service.blocking(move |stores| Ok(heads::in_target(stores, machine, epoch)?)).await? {
        Some(_) => Ok(()),
        None => Err(Refusal::new(ErrorCode::Conflict, "the point was pruned just now: choose another one")),
    }
}

pub(super) async fn list(State(service): State<Arc<Service>>, _: Administrator) -> Answer<Json<Value>> {
    let exports = service.database.exports(Timestamp::now()).await?;
    Ok(Json(json!({ "exports": exports.iter().map(|kept| kept.shown(None)).collect::<Vec<_>>() })))
}

pub(super) async fn end(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<String>,
) -> Answer<Json<Value>> {
    let exports = service.database.exports(Timestamp::now()).await?;
    let machine = exports.iter().find(|kept| kept.id == id).map(|kept| kept.view.machine);
    if !service.database.end_export(&id, Timestamp::now()).await? {
        return Err(Refusal::not_found("export"));
    }
    service.forget_exports();
    service.event(EventKind::ExportEnded, machine, format!("export {id} was ended")).await;
    Ok(Json(json!({ "ended": id })))
}
