//! Does the steps of failovers, each after the one before was noted.
//!
//! An instance claims a failover whose place it has, and holds the claim by noting each second how far it is. When it is killed the
//! claim ends by itself, and whoever takes it up begins again with the step that was begun. Work that blocks runs in a thread of its
//! own, and ends soon when it is told to: because somebody asked to undo the failover, the claim was lost, or the service stops.
//! Deliberately not here: what a step does (`steps`).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Action, Failover, Phase,
    provider::Failure,
    record::Progress,
    steps::{self, Problem},
};
use crate::service::{
    database::{DatabaseError, EventKind},
    facts,
    state::Service,
};

/// How often is looked for failovers that nobody works on.
const LOOK: Duration = Duration::from_secs(1);
/// For how long to wait until what was noted is stored, too.
const STORE: Duration = Duration::from_secs(5);
/// How often is noted how far a step is, and looked what was asked meanwhile.
const BEAT: Duration = Duration::from_secs(1);

/// Tells work that blocks to end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether to end.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How far a step is, said by whatever does it.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<Mutex<Option<Progress>>>);

impl Gauge {
    /// Says how far it is.
    pub(super) fn set(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    fn get(&self) -> Option<Progress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works until the service stops.
pub(in crate::service) async fn run(service: Arc<Service>) {
    let mut stop = service.stop.clone();
    let mut running = tokio::task::JoinSet::new();
    loop {
        if !service.failover.is_empty()
            && let Err(err) = begin(&service, &mut running).await
        {
            tracing::error!("failovers cannot be looked for: {err}");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

async fn begin(service: &Arc<Service>, running: &mut tokio::task::JoinSet<()>) -> Result<(), DatabaseError> {
    for (id, place) in service.database.idle_failovers().await? {
        let by = service.claim_name();
        if service.failover.contains_key(&place) && service.database.claim_failover(&id, &by).await? {
            let service = service.clone();
            running.spawn(async move {
                let runner = Runner { service, by, stop: Stop::default() };
                if let Err(err) = runner.work(&id).await {
                    tracing::error!(
                        failover = id,
                        "a failover stands still until it can be claimed again: {err}"
                    );
                }
            });
        }
    }
    Ok(())
}

/// Works on one failover that it has claimed.
pub(super) struct Runner {
    pub(super) service: Arc<Service>,
    by: String,
    pub(super) stop: Stop,
}

/// Why a runner ends before there is nothing more to do.
enum End {
    /// Somebody else has the claim, or the service stops.
    Left,
    /// Nothing is to be done until somebody asks for something.
    Rests,
}

impl Runner {
    async fn work(&self, id: &str) -> Result<(), DatabaseError> {
        let database = &self.service.database;
        let Some(kept) = database.failover(id).await? else { return Ok(()) };
        let mut failover = kept.failover;
        let end = loop {
            if self.service.is_stopping() {
                break End::Left;
            }
            if !self.take_up(&mut failover).await? {
                break End::Left;
            }
            match self.step(&mut failover).await? {
                None => {}
                Some(end) => break end,
            }
        };
        match end {
            End::Left => database.release_failover(id, &self.by, false).await,
            End::Rests => database.release_failover(id, &self.by, true).await,
        }
    }

    /// Turns to what was asked meanwhile. Whether the claim is still held.
    async fn take_up(&self, failover: &mut Failover) -> Result<bool, DatabaseError> {
        let Some(kept) = self.service.database.failover(&failover.id).await? else { return Ok(false) };
        let Some(action) = kept.asked else { return Ok(true) };
        if let Err(problem) = failover.take(&action, Timestamp::now()) {
            failover.say(format!("{} was not done: {problem}", action.name()), Timestamp::now());
        }
        self.note(failover, true).await
    }

    /// Does the next step, and notes what came of it. Why not to go on, if that is so.
    async fn step(&self, failover: &mut Failover) -> Result<Option<End>, DatabaseError> {
        let Some(step) = failover.begin(Timestamp::now()) else { return Ok(Some(End::Rests)) };
        if !self.note(failover, false).await? {
            return Ok(Some(End::Left));
        }
        let done = steps::run(self, failover, step).await;
        let now = Timestamp::now();
        match done {
            Ok(result) => failover.end(result, now),
            Err(Problem::Stopped) => return Ok(self.service.is_stopping().then_some(End::Left)),
            Err(Problem::Failed(Failure { problem, hint })) => failover.fail(problem, hint, now),
        }
        if !self.note(failover, false).await? {
            return Ok(Some(End::Left));
        }
        self.tell(failover).await;
        Ok(None)
    }

    /// Notes what is known now, also where it outlasts the database. Whether the claim is still held.
    async fn note(&self, failover: &Failover, taken_up: bool) -> Result<bool, DatabaseError> {
        let held = self.service.database.note_failover(failover, &self.by, taken_up).await?;
        // The claim does not last until storage answers again that does not: it is stored later then.
        let stored = facts::store_now(&self.service, failover.machine);
        tokio::time::timeout(STORE, stored).await.ok();
        Ok(held)
    }

    /// Keeps what is known now. Whether the claim is still held.
    async fn keep(&self, failover: &Failover) -> Result<bool, DatabaseError> {
        self.service.database.keep_failover(failover, &self.by, false).await
    }

    /// Tells of phases in which somebody has to do something, and of ends.
    async fn tell(&self, failover: &Failover) {
        let kind = match failover.phase {
            Phase::Running => return,
            Phase::Failed => EventKind::FailoverFailed,
            _ => EventKind::Failover,
        };
        let why = match failover.phase {
            Phase::Failed => failover.log.last().map_or(String::new(), |line| format!(": {}", line.text)),
            _ => String::new(),
        };
        let message =
            format!("failover {} to {} is {}{why}", failover.id, failover.place, failover.phase_name());
        self.service.event(kind, Some(failover.machine), message).await;
    }

    /// Does what blocks, beside noting how far it is.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        failover: &mut Failover,
        gauge: Gauge,
        work: impl FnOnce(&Stop) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let stop = self.stop.clone();
        let mut done = tokio::task::spawn_blocking(move || work(&stop));
        loop {
            tokio::select! {
                done = &mut done => {
                    return done.unwrap_or_else(|err| Err(Problem::from(Failure::new(err.to_string(), "look at the log, and resume"))));
                }
                () = tokio::time::sleep(BEAT) => self.beat(failover, &gauge).await,
            }
        }
    }

    /// Notes how far a step is, and has it stopped where it is not wanted any more.
    pub(super) async fn beat(&self, failover: &mut Failover, gauge: &Gauge) {
        if let (Some(progress), Some(next)) = (gauge.get(), failover.next()) {
            next.progress = Some(progress);
        }
        let held = match self.keep(failover).await {
            Ok(held) => held,
            Err(err) => {
                // The claim may still be held: for as long as it lasts, nobody else begins.
                tracing::warn!(failover = failover.id, "how far a failover is could not be noted: {err}");
                true
            }
        };
        let asked = self.service.database.failover(&failover.id).await;
        let undo = asked.is_ok_and(|kept| kept.is_some_and(|kept| kept.asked == Some(Action::Cancel)));
        if !held || undo || self.service.is_stopping() {
            self.stop.set();
        }
    }
}
