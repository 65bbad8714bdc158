//! What is known of a plan run: what it is to do, how far it is, and what came of each step.
//!
//! It is what the database keeps and what an administrator is shown, and it decides alone what comes next. The plan is a part of it:
//! a plan that is changed meanwhile changes no run. Deliberately not here: what is asked of it (`asked`), what a step does (`steps`), and
//! where it is stored (`database::plan_runs`, `facts`).

mod asked;
mod step;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    asked::Action,
    step::{Step, When, Work},
};
use super::{
    definition::{Plan, Task},
    member::Member,
};
use crate::service::failover::{Kind, Line};

/// Lines of its own log that a plan run keeps.
const MOST_LINES: usize = 1000;
/// Lines of it that are stored.
const LINES_STORED: usize = 50;
/// What programs have printed that a plan run keeps, in bytes. What was printed first goes first.
const MOST_OUTPUT: usize = 256 << 10;

/// How far a plan run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Its steps are being done.
    Running,
    /// A person has to do something and confirm it.
    Waiting,
    /// A step went wrong: it waits for somebody to say what to do.
    Failed,
    /// Its machines run at the target, and somebody has to say what becomes of them.
    Ready,
    /// The machines at the target are the real ones.
    Committed,
    /// It was undone.
    Cancelled,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// Which point of each machine, as for a failover.
    pub(crate) point: String,
    /// Whether nobody has to confirm anything.
    pub(crate) skip_manual: bool,
}

/// A plan run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanRun {
    pub(crate) id: String,
    /// The plan's name.
    pub(crate) plan: String,
    pub(crate) kind: Kind,
    /// Which point was asked for.
    pub(crate) wanted: String,
    pub(crate) skip_manual: bool,
    pub(crate) asked: Timestamp,
    pub(crate) phase: Phase,
    /// What phase it is in once all steps are done.
    pub(crate) then: Phase,
    /// When it was first in that phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<Timestamp>,
    /// The groups' names, as far as they have any.
    pub(crate) groups: Vec<String>,
    pub(crate) machines: Vec<Member>,
    pub(crate) steps: Vec<Step>,
    /// What to do about what went wrong or is waited for, where there is something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) hint: String,
    pub(crate) log: Vec<Line>,
}

impl PlanRun {
    /// What was asked for, with all steps before it.
    pub(crate) fn new(id: String, name: String, plan: &Plan, wanted: Wanted, machines: Vec<Member>) -> Self {
        let mut steps = Vec::new();
        for (group, number) in plan.groups.iter().zip(1..) {
            let task = |when: When| {
                move |task: &Task| match task.clone() {
                    Task::Script { script, limit_s } => Work::Script { when, script, limit_s },
                    Task::Manual { text } => Work::Manual { when, text },
                }
            };
            steps.extend(group.before.iter().map(task(When::Before)).map(|work| Step::new(number, work)));
            steps.push(Step::new(number, Work::FailOver));
            steps.extend(group.after.iter().map(task(When::After)).map(|work| Step::new(number, work)));
        }
        PlanRun {
            id,
            plan: name,
            kind: wanted.kind,
            wanted: wanted.point,
            skip_manual: wanted.skip_manual,
            asked: Timestamp::now(),
            phase: Phase::Running,
            then: Phase::Ready,
            ready: None,
            groups: plan.groups.iter().map(|group| group.name.clone()).collect(),
            machines,
            steps,
            hint: String::new(),
            log: Vec::new(),
        }
    }

    /// The step that is to be done, is being done, or went wrong.
    pub(super) fn current(&mut self) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.ended.is_none())
    }

    /// Notes that a step is begun, perhaps again.
    pub(super) fn begin(&mut self, now: Timestamp) -> Option<Step> {
        if self.phase != Phase::Running {
            return None;
        }
        let step = self.current()?;
        step.began.get_or_insert(now);
        step.tries += 1;
        Some(step.clone())
    }

    /// Notes that the step that was begun is done.
    pub(super) fn end(&mut self, result: String, now: Timestamp) {
        let Some(step) = self.current() else { return };
        step.ended = Some(now);
        let text = format!("{}: {result}", step.name());
        step.result = result;
        self.say(text, now);
        self.go_on(now);
    }

    /// Notes that the step that was begun went wrong.
    pub(super) fn fail(&mut self, problem: String, hint: String, now: Timestamp) {
        let Some(step) = self.current() else { return };
        let text = format!("{} went wrong: {problem}", step.name());
        step.result = problem;
        self.say(text, now);
        (self.phase, self.hint) = (Phase::Failed, hint);
    }

    /// Notes that a person has to do something.
    pub(super) fn wait(&mut self, text: &str, now: Timestamp) {
        self.say(format!("waits for a person: {text}"), now);
        self.phase = Phase::Waiting;
        self.hint = format!("{text}\nWhen that is done: `plan confirm {}`", self.id);
    }

    /// Notes what the step that was begun has printed.
    pub(super) fn print(&mut self, output: String) {
        if let Some(step) = self.current() {
            step.output = output;
        }
        let mut kept: usize = self.steps.iter().map(|step| step.output.len()).sum();
        for step in &mut self.steps {
            if kept <= MOST_OUTPUT {
                break;
            }
            kept -= std::mem::take(&mut step.output).len();
        }
    }

    /// Adds a line to the log.
    pub(super) fn say(&mut self, text: String, now: Timestamp) {
        self.log.push(Line { at: now, text });
        let surplus = self.log.len().saturating_sub(MOST_LINES);
        self.log.drain(..surplus);
    }

    /// Goes on with the next step, or has come to the end of all.
    fn go_on(&mut self, now: Timestamp) {
        (self.phase, self.hint) = (Phase::Running, String::new());
        if self.current().is_none() {
            self.phase = self.then;
            if self.then == Phase::Ready {
                self.ready.get_or_insert(now);
            }
        }
    }

    /// Whether nobody has to say any more what becomes of it.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Committed | Phase::Cancelled)
    }

    /// Whether programs are a part of it.
    pub(crate) fn has_scripts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.work, Work::Script { .. }))
    }

    /// As it is stored: with the end of its log.
    #[must_use]
    pub(crate) fn stored(mut self) -> PlanRun {
        let surplus = self.log.len().saturating_sub(LINES_STORED);
        self.log.drain(..surplus);
        self
    }

    /// What people call a group.
    pub(super) fn group_name(&self, number: usize) -> &str {
        number.checked_sub(1).and_then(|at| self.groups.get(at)).map_or("", String::as_str)
    }

    /// The phase as it is written.
    pub(crate) fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Running => "running",
            Phase::Waiting => "waiting",
            Phase::Failed => "failed",
            Phase::Ready => "ready",
            Phase::Committed => "committed",
            Phase::Cancelled => "cancelled",
        }
    }
}

/// A kind of failover as it is written.
pub(crate) fn kind_name(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
