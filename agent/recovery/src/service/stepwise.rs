//! What failovers and plan runs share: they are records of steps, done by whichever instance has claimed them, each step after the one
//! before was noted.
//!
//! An instance claims what it can do, and holds the claim each second while it works on it. When it is killed the claim ends by itself,
//! and whoever takes it up begins again with the step that was begun. Work that blocks runs in a thread of its own, and ends soon when
//! it is told to: because somebody asked to undo it, the claim was lost, or the service stops. Deliberately not here: what a step does
//! (`failover`, `plan`), and how a record is kept (`database::stepwise`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mobility_format::MachineId;
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::JoinSet;

use super::{
    claims::Lease,
    database::{DatabaseError, EventKind},
    failover::{Failure, NotNow},
    state::Service,
};

/// How often is looked for what nobody works on.
const LOOK: Duration = Duration::from_secs(1);
/// How often a claim is held on to, and looked what was asked meanwhile.
const BEAT: Duration = Duration::from_secs(1);
/// For how long to wait until what was noted is stored, too.
const STORE: Duration = Duration::from_secs(5);

/// What is done step by step.
pub(crate) trait Stepwise: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What an administrator asks of it.
    type Action: Serialize + DeserializeOwned + PartialEq + Send + Sync;

    /// What one is called, for people.
    const WHAT: &'static str;
    /// The table that it is kept in.
    const TABLE: &'static str;
    /// The column that says what it is of.
    const OF: &'static str;
    /// What says what an instance needs to do it, in a statement.
    const NEEDS: &'static str;
    /// What else is changed in its row when it is kept, in a statement whose fifth parameter is [`Stepwise::more`].
    const MORE: &'static str;
    /// What undoes it: this ends a step that is being done.
    const CANCEL: Self::Action;

    fn id(&self) -> &str;

    /// The machine with whose facts it is stored; none where it is stored by itself.
    fn machine(&self) -> Option<MachineId>;

    /// Whether nobody has to say any more what becomes of it.
    fn is_settled(&self) -> bool;

    /// See [`Stepwise::MORE`]. `noted` where it is going to be stored, too.
    fn more(&self, noted: bool) -> Option<u64>;

    /// Whether an instance has what it needs.
    fn can(service: &Service, needs: &str) -> bool;

    /// The word for what is asked, as it is written everywhere.
    fn word(action: &Self::Action) -> &'static str;

    /// Whether what is asked for can be done now.
    fn may(&self, action: &Self::Action) -> Result<(), NotNow>;

    /// Turns to what is asked for.
    fn take(&mut self, action: &Self::Action, now: Timestamp) -> Result<(), NotNow>;

    /// Adds a line to its log.
    fn say(&mut self, text: String, now: Timestamp);

    /// Notes that its next step is begun, perhaps again. Not where nothing is to be done until somebody asks for something.
    fn begin(&mut self, now: Timestamp) -> bool;

    /// Does the step that was begun, and notes what came of it; not where it was told to end.
    fn go(&mut self, runner: &Runner) -> impl Future<Output = Result<(), Stopped>> + Send;

    /// What there is to tell of the phase that it is in: where somebody has to do something, and of ends.
    fn news(&self) -> Option<(EventKind, String)>;

    /// Stores what is known where it outlasts the database.
    fn store(&self, service: &Service) -> impl Future<Output = ()> + Send;
}

/// A step was told to end before it was done.
pub(crate) struct Stopped;

/// Tells work that blocks to end. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    told: Arc<AtomicBool>,
    /// An instance that stands still loses its claim, and finds out too late that it has: its work has to end before another one begins.
    lease: Lease,
}

impl Stop {
    fn new(claimed: Instant) -> Stop {
        Stop { told: Arc::default(), lease: Lease::new(claimed) }
    }

    /// Whether to end.
    pub(crate) fn is_set(&self) -> bool {
        self.told.load(Ordering::Relaxed) || !self.lease.holds()
    }

    /// Whether it was told to end, for what knows nothing of claims.
    pub(crate) fn told(&self) -> &AtomicBool {
        &self.told
    }
}

/// Works until the service stops.
pub(super) async fn run<T: Stepwise>(service: Arc<Service>) {
    let mut stop = service.stop.clone();
    let mut running = JoinSet::new();
    loop {
        if let Err(err) = begin::<T>(&service, &mut running).await {
            tracing::error!("{}s cannot be looked for: {err}", T::WHAT);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

async fn begin<T: Stepwise>(service: &Arc<Service>, running: &mut JoinSet<()>) -> Result<(), DatabaseError> {
    for (id, needs) in service.database.idle_records::<T>().await? {
        let (by, claimed) = (service.claim_name(), Instant::now());
        if T::can(service, &needs) && service.database.claim_record::<T>(&id, &by).await? {
            let runner = Runner { service: service.clone(), by, stop: Stop::new(claimed) };
            running.spawn(async move {
                if let Err(err) = runner.work::<T>(&id).await {
                    tracing::error!("{} {id} stands still until it can be claimed again: {err}", T::WHAT);
                }
            });
        }
    }
    Ok(())
}

/// Works on one record that it has claimed.
pub(crate) struct Runner {
    pub(crate) service: Arc<Service>,
    by: String,
    /// Tells what blocks to end.
    pub(crate) stop: Stop,
}

/// Why a runner ends before there is nothing more to do.
enum End {
    /// Somebody else has the claim, or the service stops.
    Left,
    /// Nothing is to be done until somebody asks for something.
    Rests,
}

impl Runner {
    async fn work<T: Stepwise>(&self, id: &str) -> Result<(), DatabaseError> {
        let database = &self.service.database;
        let Some(kept) = database.record::<T>(id).await? else { return Ok(()) };
        let mut record = kept.record;
        let end = loop {
            self.stop.told.store(false, Ordering::Relaxed);
            if self.service.is_stopping() || !self.take_up(&mut record).await? {
                break End::Left;
            }
            if let Some(end) = self.step(&mut record).await? {
                break end;
            }
        };
        database.release_record::<T>(id, &self.by, matches!(end, End::Rests)).await
    }

    /// Turns to what was asked meanwhile. Whether the claim is still held.
    async fn take_up<T: Stepwise>(&self, record: &mut T) -> Result<bool, DatabaseError> {
        let Some(kept) = self.service.database.record::<T>(record.id()).await? else { return Ok(false) };
        let Some(action) = kept.asked else { return Ok(true) };
        let now = Timestamp::now();
        let taken = record.take(&action, now);
        if let Err(problem) = &taken {
            record.say(format!("{} was not done: {problem}", T::word(&action)), now);
        }
        let held = self.noted(record, true).await?;
        if held && taken.is_ok() {
            self.tell(record).await;
        }
        Ok(held)
    }

    /// Does the next step, and notes what came of it. Why not to go on, if that is so.
    async fn step<T: Stepwise>(&self, record: &mut T) -> Result<Option<End>, DatabaseError> {
        if !record.begin(Timestamp::now()) {
            return Ok(Some(End::Rests));
        }
        if !self.note(record).await? {
            return Ok(Some(End::Left));
        }
        if let Err(Stopped) = record.go(self).await {
            return Ok(self.service.is_stopping().then_some(End::Left));
        }
        if !self.note(record).await? {
            return Ok(Some(End::Left));
        }
        self.tell(record).await;
        Ok(None)
    }

    /// Notes what is known now, also where it outlasts the database. Whether the claim is still held.
    pub(crate) async fn note<T: Stepwise>(&self, record: &T) -> Result<bool, DatabaseError> {
        self.noted(record, false).await
    }

    async fn noted<T: Stepwise>(&self, record: &T, taken_up: bool) -> Result<bool, DatabaseError> {
        let asked = Instant::now();
        let held = self.service.database.note_record(record, &self.by, taken_up).await?;
        if held {
            self.stop.lease.extend(asked);
            // The claim does not last until storage answers again that does not: it is stored later then.
            tokio::time::timeout(STORE, record.store(&self.service)).await.ok();
        }
        Ok(held)
    }

    /// Tells of phases in which somebody has to do something, and of ends.
    async fn tell<T: Stepwise>(&self, record: &T) {
        if let Some((kind, message)) = record.news() {
            self.service.event(kind, record.machine(), message).await;
        }
    }

    /// Does what blocks, beside holding the claim. `look` takes over what becomes known meanwhile, and says whether anything has.
    pub(crate) async fn beside<T: Stepwise, R: Send + 'static>(
        &self,
        record: &mut T,
        mut look: impl FnMut(&mut T) -> bool,
        work: impl FnOnce(&Stop) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let stop = self.stop.clone();
        let mut done = tokio::task::spawn_blocking(move || work(&stop));
        loop {
            tokio::select! {
                done = &mut done => {
                    return done.map_err(|err| Failure::new(err.to_string(), "look at the log, and resume"));
                }
                () = tokio::time::sleep(BEAT) => {
                    let changed = look(record);
                    self.hold(record, changed).await;
                }
            }
        }
    }

    /// Waits a moment. Whether to go on.
    pub(crate) async fn pause<T: Stepwise>(&self, record: &T) -> bool {
        let mut stopping = self.service.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        self.hold(record, false).await
    }

    /// Holds the claim, keeps what has changed, and has what blocks stopped where it is not wanted any more: because the claim is lost,
    /// somebody asked to undo it, or the service stops. Whether to go on.
    pub(crate) async fn hold<T: Stepwise>(&self, record: &T, changed: bool) -> bool {
        let (database, begin) = (&self.service.database, Instant::now());
        let held = match changed {
            true => database.keep_record(record, &self.by).await,
            false => database.hold_record::<T>(record.id(), &self.by).await,
        };
        let held = match held {
            Ok(held) => {
                if held {
                    self.stop.lease.extend(begin);
                }
                held
            }
            Err(err) => {
                // The claim may still be held: for as long as it lasts, nobody else begins.
                tracing::warn!("the claim on {} {} could not be held on to: {err}", T::WHAT, record.id());
                self.stop.lease.holds()
            }
        };
        let asked = database.record::<T>(record.id()).await;
        let undo = asked.is_ok_and(|kept| kept.is_some_and(|kept| kept.asked == Some(T::CANCEL)));
        let wanted = held && !undo && !self.service.is_stopping();
        if !wanted {
            self.stop.told.store(true, Ordering::Relaxed);
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_when_it_is_told_to_and_before_its_claim_does() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let stop = Stop::new(Instant::now());
        assert!(!stop.is_set());
        stop.told.store(true, Ordering::Relaxed);
        assert!(stop.is_set() && stop.clone().is_set());
        let late = Stop::new(ago(20));
        assert!(late.is_set(), "another one may have begun in 10 s more");
        late.lease.extend(Instant::now());
        assert!(!late.is_set());
    }
}
