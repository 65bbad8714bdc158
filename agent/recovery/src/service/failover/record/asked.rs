//! What an administrator asks of a failover, whether it can be done now, and what is done then.
//!
//! Deliberately not here: who asks (`admin::failovers`), and when it is taken up (`stepwise`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Failover, Kind, Phase};
use crate::service::failover::step::Step;

/// What an administrator asks of a failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Action {
    /// Do again what went wrong, and go on.
    Resume,
    /// Undo it: nothing of it is left at the target, and the machine goes on where it was.
    Cancel,
    /// Make the machine anew, from another point.
    ChangePoint {
        /// As [`Failover::wanted`].
        point: String,
    },
    /// Keep the machine at the target as the real one: it cannot be undone any more.
    Commit,
    /// Let the machine at the target replicate, and the one before it never again.
    Reprotect,
    /// Remove the machine at the target, which is not the real one any more.
    Remove,
}

/// What is asked for cannot be done now; why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotNow(String);

impl NotNow {
    /// Why.
    pub(crate) fn new(why: impl Into<String>) -> NotNow {
        NotNow(why.into())
    }
}

impl Failover {
    /// Whether what is asked for can be done now. Undoing can be asked for while steps are done.
    pub(crate) fn may(&self, action: &Action) -> Result<(), NotNow> {
        let allowed = match action {
            Action::Resume => self.phase == Phase::Failed,
            Action::Cancel => !self.committed && !self.phase.is_end(),
            Action::ChangePoint { .. } => {
                !self.committed && matches!(self.phase, Phase::Ready | Phase::Failed)
            }
            Action::Commit => self.phase == Phase::Ready && self.kind != Kind::Test,
            Action::Reprotect => self.phase == Phase::Committed,
            Action::Remove => matches!(self.phase, Phase::Committed | Phase::Reprotected),
        };
        let what = self.phase_name();
        match (allowed, action) {
            (true, Action::ChangePoint { .. }) if self.kind == Kind::Planned && !self.source.off => Err(NotNow(
                "the machine at the source is not switched off yet: resume, or cancel and start an unplanned failover"
                    .to_owned(),
            )),
            (true, _) => Ok(()),
            (false, Action::Commit) if self.kind == Kind::Test => Err(NotNow(
                "a test failover is not committed: it is cancelled when it has been looked at".to_owned(),
            )),
            (false, Action::Cancel) if self.committed => {
                Err(NotNow("it is committed: fail back, or remove the machine at the target".to_owned()))
            }
            (false, _) => Err(NotNow(format!("the failover is {what}, and this cannot be asked of it now"))),
        }
    }

    /// Turns to what is asked for.
    pub(crate) fn take(&mut self, action: &Action, now: Timestamp) -> Result<(), NotNow> {
        self.may(action)?;
        self.hint = String::new();
        match action {
            // Whatever kept it from being switched off, it may have gone on meanwhile.
            Action::Resume if self.is_at(Step::SwitchOffSource) => {
                self.source.last = None;
                self.plan(&Step::PLANNED[1..], Phase::Ready);
            }
            Action::Resume => self.phase = Phase::Running,
            Action::Cancel if self.kind == Kind::Planned => {
                self.plan(&Step::UNDONE_PLANNED, Phase::Cancelled);
            }
            Action::Cancel => self.plan(&Step::UNDONE, Phase::Cancelled),
            Action::ChangePoint { point } => {
                self.wanted.clone_from(point);
                self.asked = now;
                self.booted = None;
                self.plan(&Step::ANEW, Phase::Ready);
            }
            Action::Commit => self.plan(&[Step::LetPointGo], Phase::Committed),
            Action::Reprotect => self.plan(&[Step::AdmitMachine, Step::WaitForPoint], Phase::Reprotected),
            Action::Remove => self.plan(&Step::REMOVED, Phase::Removed),
        }
        self.say(format!("asked for: {}", action.name()), now);
        Ok(())
    }

    /// Whether this is the first step that is not done.
    fn is_at(&self, step: Step) -> bool {
        self.steps.iter().find(|done| done.ended.is_none()).is_some_and(|done| done.step == step)
    }
}

impl Action {
    /// The word for it, as it is written everywhere.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Action::Resume => "resume",
            Action::Cancel => "cancel",
            Action::ChangePoint { .. } => "change-point",
            Action::Commit => "commit",
            Action::Reprotect => "reprotect",
            Action::Remove => "remove",
        }
    }
}
