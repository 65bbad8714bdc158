//! How a plan run's steps are done: by an instance that knows where its programs are. Waiting for a person needs no claim.
//!
//! Deliberately not here: what a step does (`steps`), and how records are claimed (`stepwise`).

use jiff::Timestamp;
use mobility_format::MachineId;

use super::{
    record::{Action, Phase, PlanRun},
    steps::{self, Outcome},
};
use crate::service::{
    database::EventKind,
    facts,
    failover::{Failure, NotNow},
    state::Service,
    stepwise::{Runner, Stepwise, Stopped},
};

/// What [`Stepwise::NEEDS`] gives for a plan run with programs.
const WITH_SCRIPTS: &str = "1";

impl Stepwise for PlanRun {
    type Action = Action;

    const WHAT: &'static str = "plan run";
    const TABLE: &'static str = "plan_runs";
    const OF: &'static str = "plan";
    const NEEDS: &'static str = "CAST(scripts AS TEXT)";
    const MORE: &'static str = "changes = changes + $5";
    const CANCEL: Action = Action::Cancel;

    fn id(&self) -> &str {
        &self.id
    }

    fn machine(&self) -> Option<MachineId> {
        None
    }

    fn is_settled(&self) -> bool {
        PlanRun::is_settled(self)
    }

    /// What is stored is stored under the number of its last change.
    fn more(&self, noted: bool) -> Option<u64> {
        Some(u64::from(noted))
    }

    fn can(service: &Service, needs: &str) -> bool {
        needs != WITH_SCRIPTS || service.plans.scripts.is_some()
    }

    fn word(action: &Action) -> &'static str {
        action.name()
    }

    fn may(&self, action: &Action) -> Result<(), NotNow> {
        PlanRun::may(self, *action)
    }

    fn take(&mut self, action: &Action, now: Timestamp) -> Result<(), NotNow> {
        PlanRun::take(self, *action, now)
    }

    fn say(&mut self, text: String, now: Timestamp) {
        PlanRun::say(self, text, now);
    }

    fn begin(&mut self, now: Timestamp) -> bool {
        PlanRun::begin(self, now).is_some()
    }

    async fn go(&mut self, runner: &Runner) -> Result<(), Stopped> {
        let Some(step) = self.current().cloned() else { return Ok(()) };
        let outcome = steps::run(runner, self, &step).await;
        let now = Timestamp::now();
        match outcome {
            Outcome::Done(result) => self.end(result, now),
            Outcome::Waits(text) => self.wait(&text, now),
            Outcome::Failed(Failure { problem, hint }) => self.fail(problem, hint, now),
            Outcome::Stopped => return Err(Stopped),
        }
        Ok(())
    }

    fn news(&self) -> Option<(EventKind, String)> {
        let kind = match self.phase {
            Phase::Running => return None,
            Phase::Waiting => EventKind::PlanRunWaits,
            Phase::Failed => EventKind::PlanRunFailed,
            Phase::Ready | Phase::Committed | Phase::Cancelled => EventKind::PlanRun,
        };
        let why = match self.phase {
            Phase::Failed | Phase::Waiting => {
                self.log.last().map_or_else(String::new, |line| format!(": {}", line.text))
            }
            _ => String::new(),
        };
        let message = format!("run {} of plan '{}' is {}{why}", self.id, self.plan, self.phase_name());
        Some((kind, message))
    }

    async fn store(&self, service: &Service) {
        facts::store_plan_run_now(service, &self.id).await;
    }
}
