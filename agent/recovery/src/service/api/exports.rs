//! Exports as they are read: whoever shows an export's key gets what it is of, and its disks in ranges.
//!
//! An ended export is known for what it is by this instance at once, and by others within two seconds. Deliberately not here: how a
//! disk is read (`service::export`).

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use jiff::Timestamp;
use mobility_format::control::ErrorCode;

use super::InPath;
use crate::service::{
    database::EventKind,
    export::{Asked, Kept, Key, answer, index},
    refusal::{Answer, Refusal},
    state::Service,
};

/// How long it may go unnoticed that another instance has ended an export.
const KEPT: Duration = Duration::from_secs(2);
/// Exports that are remembered.
const MOST: usize = 256;

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    InPath(named): InPath<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let kept = service.export(&named, &headers).await?;
    let address = service.addresses.first().map_or("", String::as_str);
    Ok(index(&kept.shown(Some(&format!("{address}/v1/exports/{named}")))))
}

pub(super) async fn disk(
    State(service): State<Arc<Service>>,
    InPath((named, disk)): InPath<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Answer<Response> {
    let kept = service.export(&named, &headers).await?;
    let machine = kept.view.machine;
    let teller = service.clone();
    let tell = move |message: String| {
        let service = teller.clone();
        tokio::spawn(async move {
            service.event(EventKind::StorageDamaged, Some(machine), message).await;
        });
    };
    let asked = Asked { view: &kept.view, disk: &disk, method: &method, headers: &headers };
    answer(&service.shelf, asked, Arc::new(tell)).await
}

impl Service {
    /// The export whose key is shown, as of two seconds ago at most.
    async fn export(&self, named: &str, headers: &HeaderMap) -> Answer<Arc<Kept>> {
        let refused = || Refusal::new(ErrorCode::Forbidden, "there is no such export, or it has ended");
        let hash = Key::shown(named, headers).ok_or_else(refused)?.hash();
        let now = Instant::now();
        let known = {
            let exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
            exports.get(&hash).filter(|(at, _)| now.duration_since(*at) < KEPT).map(|(_, kept)| kept.clone())
        };
        let kept = match known {
            Some(kept) => kept,
            None => {
                let found = self.database.export(&hash, Timestamp::now()).await?;
                let kept = Arc::new(found.ok_or_else(refused)?);
                let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
                if exports.len() >= MOST {
                    exports.clear();
                }
                exports.insert(hash, (now, kept.clone()));
                kept
            }
        };
        // A path may name the export beside the key of another one.
        let names_it = named.len() != kept.id.len() || named == kept.id;
        if kept.expires > Timestamp::now() && names_it { Ok(kept) } else { Err(refused()) }
    }

    /// What is remembered of exports may not be so any more.
    pub(crate) fn forget_exports(&self) {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
