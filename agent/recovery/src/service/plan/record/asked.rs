//! What an administrator asks of a plan run, whether it can be done now, and what is done then.
//!
//! Deliberately not here: who asks (`admin::plan_runs`), and when it is taken up (`stepwise`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Phase, PlanRun, Step, Work};
use crate::service::failover::{Kind, NotNow};

/// What an administrator asks of a plan run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Action {
    /// What a person was to do is done: go on.
    Confirm,
    /// Do again what went wrong, and go on.
    Resume,
    /// Go on without what went wrong.
    Skip,
    /// Undo it: nothing of its machines is left at the target, and they go on where they were.
    Cancel,
    /// Keep the machines at the target as the real ones: it cannot be undone any more.
    Commit,
}

impl PlanRun {
    /// Whether what is asked for can be done now. Undoing can be asked for while steps are done.
    pub(crate) fn may(&self, action: Action) -> Result<(), NotNow> {
        let (phase, then) = (self.phase, self.then);
        let undoing = then == Phase::Cancelled;
        let allowed = match action {
            Action::Confirm => phase == Phase::Waiting,
            Action::Resume => phase == Phase::Failed,
            Action::Skip => phase == Phase::Failed && then == Phase::Ready,
            Action::Cancel => {
                then != Phase::Committed && !self.is_settled() && !(undoing && phase == Phase::Running)
            }
            Action::Commit => phase == Phase::Ready && self.kind != Kind::Test,
        };
        let problem = match action {
            _ if allowed => return Ok(()),
            Action::Commit if self.kind == Kind::Test => {
                "a test is not committed: it is cleaned up when it has been looked at".to_owned()
            }
            Action::Skip if phase == Phase::Failed => {
                "what was begun to be committed or undone has to be done for every machine: resume".to_owned()
            }
            Action::Cancel if then == Phase::Committed => {
                "it is committed: fail the machines back, or remove them at the target".to_owned()
            }
            Action::Cancel if undoing && phase == Phase::Running => "it is being undone already".to_owned(),
            _ => format!("the plan run is {}, and this cannot be asked of it now", self.phase_name()),
        };
        Err(NotNow::new(problem))
    }

    /// Turns to what is asked for.
    pub(crate) fn take(&mut self, action: Action, now: Timestamp) -> Result<(), NotNow> {
        self.may(action)?;
        self.say(format!("asked for: {}", action.name()), now);
        match action {
            Action::Confirm => self.end("confirmed".to_owned(), now),
            Action::Skip => {
                let problem = self.current().map(|step| step.result.clone()).unwrap_or_default();
                self.end(format!("gone on without it: {problem}"), now);
            }
            Action::Resume => {
                self.do_again();
                self.go_on(now);
            }
            Action::Cancel => {
                self.do_again();
                let begun = |step: &&Step| step.work == Work::FailOver && step.began.is_some();
                let groups: Vec<_> = self.steps.iter().filter(begun).map(|step| step.group).collect();
                self.turn(groups.into_iter().rev(), &Work::Cancel, Phase::Cancelled, now);
            }
            Action::Commit => self.turn(1..=self.groups.len(), &Work::Commit, Phase::Committed, now),
        }
        Ok(())
    }

    fn do_again(&mut self) {
        for member in &mut self.machines {
            (member.again, member.trouble) = (true, None);
        }
    }

    /// Does something else from now on; what was begun ends here, what was not is not done any more.
    fn turn(&mut self, groups: impl Iterator<Item = usize>, work: &Work, then: Phase, now: Timestamp) {
        self.steps.retain(|step| step.began.is_some());
        if let Some(step) = self.current() {
            step.ended = Some(now);
            step.result = format!("given up; {}", step.result).trim_end_matches("; ").to_owned();
        }
        self.steps.extend(groups.map(|group| Step::new(group, work.clone())));
        self.then = then;
        self.go_on(now);
    }
}

impl Action {
    /// The word for it, as it is written everywhere.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Confirm => "confirm",
            Action::Resume => "resume",
            Action::Skip => "skip",
            Action::Cancel => "cancel",
            Action::Commit => "commit",
        }
    }
}
