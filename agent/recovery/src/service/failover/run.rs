//! How a failover's steps are done: by an instance that has its place, with its progress noted each second, and stored with the facts of
//! its machine after each step.
//!
//! Deliberately not here: what a step does (`steps`), and how records are claimed (`stepwise`).

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use mobility_format::MachineId;

use super::{
    Action, Failover, NotNow, Phase,
    provider::Failure,
    record::Progress,
    steps::{self, Problem},
};
pub(super) use crate::service::stepwise::{Runner, Stop};
use crate::service::{
    database::EventKind,
    facts,
    state::Service,
    stepwise::{Stepwise, Stopped},
};

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

impl Stepwise for Failover {
    type Action = Action;

    const WHAT: &'static str = "failover";
    const TABLE: &'static str = "failovers";
    const OF: &'static str = "machine";
    const NEEDS: &'static str = "place";
    const MORE: &'static str = "epoch = $5";
    const CANCEL: Action = Action::Cancel;

    fn id(&self) -> &str {
        &self.id
    }

    fn machine(&self) -> Option<MachineId> {
        Some(self.machine)
    }

    fn is_settled(&self) -> bool {
        self.committed || self.phase.is_end()
    }

    /// The point that it needs.
    fn more(&self, _: bool) -> Option<u64> {
        let held = self.chosen.as_ref().filter(|_| self.holds_point);
        held.map(|chosen| chosen.epoch.0)
    }

    fn can(service: &Service, place: &str) -> bool {
        service.failover.contains_key(place)
    }

    fn word(action: &Action) -> &'static str {
        action.name()
    }

    fn may(&self, action: &Action) -> Result<(), NotNow> {
        Failover::may(self, action)
    }

    fn take(&mut self, action: &Action, now: Timestamp) -> Result<(), NotNow> {
        Failover::take(self, action, now)
    }

    fn say(&mut self, text: String, now: Timestamp) {
        Failover::say(self, text, now);
    }

    fn begin(&mut self, now: Timestamp) -> bool {
        Failover::begin(self, now).is_some()
    }

    async fn go(&mut self, runner: &Runner) -> Result<(), Stopped> {
        let Some(step) = self.next().map(|next| next.step) else { return Ok(()) };
        let done = steps::run(runner, self, step).await;
        let now = Timestamp::now();
        match done {
            Ok(result) => self.end(result, now),
            Err(Problem::Stopped) => return Err(Stopped),
            Err(Problem::Failed(Failure { problem, hint })) => self.fail(problem, hint, now),
        }
        Ok(())
    }

    fn news(&self) -> Option<(EventKind, String)> {
        let kind = match self.phase {
            Phase::Running => return None,
            Phase::Failed => EventKind::FailoverFailed,
            _ => EventKind::Failover,
        };
        let why = match self.phase {
            Phase::Failed => self.log.last().map_or(String::new(), |line| format!(": {}", line.text)),
            _ => String::new(),
        };
        let message = format!("failover {} to {} is {}{why}", self.id, self.place, self.phase_name());
        Some((kind, message))
    }

    async fn store(&self, service: &Service) {
        facts::store_now(service, self.machine).await;
    }
}

impl Runner {
    /// Does what blocks, beside noting how far it is.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        failover: &mut Failover,
        gauge: Gauge,
        work: impl FnOnce(&Stop) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let look = |failover: &mut Failover| {
            show(failover, &gauge);
            true
        };
        self.beside(failover, look, work).await?
    }

    /// Notes how far a step is, and has it stopped where it is not wanted any more.
    pub(super) async fn beat(&self, failover: &mut Failover, gauge: &Gauge) {
        show(failover, gauge);
        self.hold(failover, true).await;
    }
}

fn show(failover: &mut Failover, gauge: &Gauge) {
    if let (Some(progress), Some(next)) = (gauge.get(), failover.next()) {
        next.progress = Some(progress);
    }
}
