//! Does the steps of plan runs, each after the one before was noted.
//!
//! An instance claims a plan run and holds the claim while it works on it, as for a failover. Waiting for a person needs no claim.
//! Deliberately not here: what a step does (`steps`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

use super::{
    record::{Action, Phase, PlanRun},
    steps::{self, Outcome},
};
use crate::service::{
    database::{DatabaseError, EventKind},
    failover::Failure,
    state::Service,
};

/// How often is looked for plan runs that nobody works on, and how often a claim is held on to.
const LOOK: Duration = Duration::from_secs(1);

/// Works until the service stops.
pub(in crate::service) async fn run(service: Arc<Service>) {
    let mut stop = service.stop.clone();
    let mut running = tokio::task::JoinSet::new();
    loop {
        if let Err(err) = begin(&service, &mut running).await {
            tracing::error!("plan runs cannot be looked for: {err}");
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
    for (id, has_scripts) in service.database.idle_plan_runs().await? {
        let by = service.claim_name();
        let can = !has_scripts || service.plans.scripts.is_some();
        if can && service.database.claim_plan_run(&id, &by).await? {
            let service = service.clone();
            running.spawn(async move {
                let runner = Runner { service, by, stop: Arc::default() };
                if let Err(err) = runner.work(&id).await {
                    tracing::error!(run = id, "a plan run stands still until it can be claimed again: {err}");
                }
            });
        }
    }
    Ok(())
}

/// Works on one plan run that it has claimed.
pub(super) struct Runner {
    pub(super) service: Arc<Service>,
    by: String,
    /// Tells what blocks to end.
    stop: Arc<AtomicBool>,
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
        let Some(kept) = database.plan_run(id).await? else { return Ok(()) };
        let mut run = kept.run;
        let end = loop {
            self.stop.store(false, Ordering::Relaxed);
            if self.service.is_stopping() || !self.take_up(&mut run).await? {
                break End::Left;
            }
            if let Some(end) = self.step(&mut run).await? {
                break end;
            }
        };
        database.release_plan_run(id, &self.by, matches!(end, End::Rests)).await
    }

    /// Turns to what was asked meanwhile. Whether the claim is still held.
    async fn take_up(&self, run: &mut PlanRun) -> Result<bool, DatabaseError> {
        let Some(kept) = self.service.database.plan_run(&run.id).await? else { return Ok(false) };
        let Some(action) = kept.asked else { return Ok(true) };
        let now = Timestamp::now();
        if let Err(problem) = run.take(action, now) {
            run.say(format!("{} was not done: {problem}", action.name()), now);
        }
        let held = self.service.database.keep_plan_run(run, &self.by, true).await?;
        if held {
            self.tell(run).await;
        }
        Ok(held)
    }

    /// Does the next step, and notes what came of it. Why not to go on, if that is so.
    async fn step(&self, run: &mut PlanRun) -> Result<Option<End>, DatabaseError> {
        let Some(step) = run.begin(Timestamp::now()) else { return Ok(Some(End::Rests)) };
        if !self.keep(run).await? {
            return Ok(Some(End::Left));
        }
        let outcome = steps::run(self, run, &step).await;
        let now = Timestamp::now();
        match outcome {
            Outcome::Done(result) => run.end(result, now),
            Outcome::Waits(text) => run.wait(&text, now),
            Outcome::Failed(Failure { problem, hint }) => run.fail(problem, hint, now),
            Outcome::Stopped => return Ok(self.service.is_stopping().then_some(End::Left)),
        }
        if !self.keep(run).await? {
            return Ok(Some(End::Left));
        }
        self.tell(run).await;
        Ok(None)
    }

    /// Keeps what is known now. Whether the claim is still held.
    pub(super) async fn keep(&self, run: &PlanRun) -> Result<bool, DatabaseError> {
        self.service.database.keep_plan_run(run, &self.by, false).await
    }

    /// Tells of phases in which somebody has to do something, and of ends.
    async fn tell(&self, run: &PlanRun) {
        let kind = match run.phase {
            Phase::Running => return,
            Phase::Waiting => EventKind::PlanRunWaits,
            Phase::Failed => EventKind::PlanRunFailed,
            Phase::Ready | Phase::Committed | Phase::Cancelled => EventKind::PlanRun,
        };
        let why = match run.phase {
            Phase::Failed | Phase::Waiting => {
                run.log.last().map_or_else(String::new, |line| format!(": {}", line.text))
            }
            _ => String::new(),
        };
        let message = format!("run {} of plan '{}' is {}{why}", run.id, run.plan, run.phase_name());
        self.service.event(kind, None, message).await;
    }

    /// Waits a moment. Whether to go on.
    pub(super) async fn pause(&self, run: &PlanRun) -> bool {
        let mut stopping = self.service.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        self.is_wanted(run).await
    }

    /// Whether to go on: the claim is held, nobody asked to undo the run meanwhile, and the service does not stop.
    async fn is_wanted(&self, run: &PlanRun) -> bool {
        let held = match self.service.database.hold_plan_run(&run.id, &self.by).await {
            Ok(held) => held,
            Err(err) => {
                // The claim may still be held: for as long as it lasts, nobody else begins.
                tracing::warn!(run = run.id, "the claim on a plan run could not be held on to: {err}");
                true
            }
        };
        let asked = self.service.database.plan_run(&run.id).await;
        let undo = asked.is_ok_and(|kept| kept.is_some_and(|kept| kept.asked == Some(Action::Cancel)));
        held && !undo && !self.service.is_stopping()
    }

    /// Does what blocks, beside holding the claim.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        run: &PlanRun,
        work: impl FnOnce(&AtomicBool) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let stop = self.stop.clone();
        let mut done = tokio::task::spawn_blocking(move || work(&stop));
        loop {
            tokio::select! {
                done = &mut done => {
                    return done.unwrap_or_else(|err| Err(Failure::new(err.to_string(), "look at the log, and resume")));
                }
                () = tokio::time::sleep(LOOK) => {
                    if !self.is_wanted(run).await {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}
