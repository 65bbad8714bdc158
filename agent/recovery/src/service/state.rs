//! What all parts of a running instance share.
//!
//! Deliberately not here: how it is put together (`start`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mobility_format::{MachineId, control::Order};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::{
    api::digests::Readers,
    authority::Authority,
    bell::Bell,
    database::{Database, DatabaseError, Event, EventKind, Standing, Waiting},
    export::{Kept, Shelf},
    failover::Place,
    granting::Granting,
    plan,
    processor::{Gaps, Intakes},
    refusal::{Answer, Refusal},
    secret::{Recognised, Sealer},
};
use crate::{storage::Stores, target};

/// How long it may go unnoticed that a machine was revoked.
const STANDING_KEPT: Duration = Duration::from_secs(2);
/// Machines whose standing is remembered.
const STANDINGS: usize = 50_000;

/// A running instance.
pub(crate) struct Service {
    /// What it calls itself when it claims work.
    pub(crate) instance: String,
    /// How many claims it has asked for.
    pub(crate) claims: AtomicU64,
    pub(crate) database: Database,
    pub(crate) authority: Authority,
    pub(crate) administrator: Recognised,
    /// Signs the addresses of the service's own cache storage.
    pub(crate) sealer: Sealer,
    pub(crate) stores: Stores,
    /// How rights to put something into cache storage are made.
    pub(crate) granting: Granting,
    /// Where machines reach the service, in the order to try.
    pub(crate) addresses: Vec<String>,
    /// Places that machines can be failed over to.
    pub(crate) targets: Vec<target::Place>,
    pub(crate) bell: Bell,
    /// Rung when there may be work.
    pub(crate) work: Notify,
    /// Alerts for the webhook.
    pub(crate) alerts: mpsc::Sender<Event>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Threads that wait for storage on behalf of requests.
    pub(crate) threads: Arc<Semaphore>,
    /// Uploads into the service's own cache storage at once.
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) readers: Readers,
    /// What is read of exports.
    pub(crate) shelf: Arc<Shelf>,
    /// Exports that were asked for lately, by the hash of their keys.
    pub(crate) exports: Mutex<HashMap<String, (Instant, Arc<Kept>)>>,
    pub(crate) intakes: Intakes,
    pub(crate) gaps: Gaps,
    /// For how long a commit may be missing while later ones are there.
    pub(crate) patience: Duration,
    /// How long a machine may take to be stopped for a planned failover.
    pub(crate) source_limit: Duration,
    /// Where machines can be failed over to, by name.
    pub(crate) failover: BTreeMap<String, Place>,
    /// What plans go by here.
    pub(crate) plans: plan::Settings,
    pub(crate) counters: Counters,
    pub(crate) standings: Mutex<HashMap<MachineId, (Instant, Standing)>>,
}

/// What this instance has done since it was started.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) heartbeats: AtomicU64,
    pub(crate) grants: AtomicU64,
    pub(crate) uploads: AtomicU64,
    pub(crate) uploaded_bytes: AtomicU64,
    pub(crate) taken_in: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

impl Service {
    /// What a machine may do, as of two seconds ago at most.
    pub(crate) async fn standing(&self, machine: MachineId) -> Result<Option<Standing>, DatabaseError> {
        let now = Instant::now();
        {
            let standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, standing)) = standings.get(&machine)
                && now.duration_since(*at) < STANDING_KEPT
            {
                return Ok(Some(standing.clone()));
            }
        }
        let standing = self.database.standing(machine).await?;
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        if standings.len() >= STANDINGS {
            standings.retain(|_, (at, _)| now.duration_since(*at) < STANDING_KEPT);
        }
        if let Some(standing) = &standing
            && standings.len() < STANDINGS
        {
            standings.insert(machine, (now, standing.clone()));
        }
        Ok(standing)
    }

    /// What is remembered of a machine's standing is not so any more.
    pub(crate) fn forget_standing(&self, machine: MachineId) {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).remove(&machine);
    }

    /// Notes that something happened. That it cannot be noted must not stop what did happen.
    pub(crate) async fn event(&self, kind: EventKind, machine: Option<MachineId>, message: String) {
        match machine {
            Some(machine) => tracing::info!(%machine, kind = kind.name(), "{message}"),
            None => tracing::info!(kind = kind.name(), "{message}"),
        }
        let event = Event { at: Timestamp::now(), machine, kind: kind.name().to_owned(), message };
        if let Err(err) = self.database.add_event(kind, &event).await {
            tracing::error!("an event could not be noted: {err}");
        }
        if kind.is_alert() && self.alerts.try_send(event).is_err() {
            tracing::debug!("an alert was not sent on: there is no webhook, or too many wait for it");
        }
    }

    /// Leaves a command for a machine, and wakes it if it waits here.
    pub(crate) async fn order(&self, machine: MachineId, order: &Order) -> Answer<u64> {
        match self.database.order(machine, order, Timestamp::now()).await? {
            Waiting::As(id) => {
                self.bell.ring(machine);
                Ok(id)
            }
            Waiting::Refused => Err(Refusal::new(
                mobility_format::control::ErrorCode::Conflict,
                "the machine does not take its commands, and too many wait already",
            )),
        }
    }

    /// Whether the service was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Runs what waits for storage where it may wait.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stores) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let permit = self.threads.clone().acquire_owned().await.map_err(|err| Refusal::failing(&err))?;
        let stores = self.stores.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&stores)
        });
        done.await.map_err(|err| Refusal::failing(&err))?
    }
}
