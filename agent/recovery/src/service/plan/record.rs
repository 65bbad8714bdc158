//! What is known of a plan run: what it is to do, how far it is, and what came of each step.
//!
//! It is what the database keeps and what an administrator is shown, and it decides alone what comes next. The plan is a part of it:
//! a plan that is changed meanwhile changes no run. Deliberately not here: what a step does (`steps`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    definition::{Plan, Task},
    member::Member,
};
use crate::service::failover::{Kind, Line, NotNow};

/// Lines of its own log that a plan run keeps.
const MOST_LINES: usize = 1000;
/// What programs have printed that a plan run keeps, in bytes. What was printed first goes first.
const MOST_OUTPUT: usize = 256 << 10;

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

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Runs a program, before or after the group's machines are failed over.
    Script { when: When, script: String, limit_s: u64 },
    /// Waits for a person.
    Manual { when: When, text: String },
    /// Fails the group's machines over.
    FailOver,
    /// Commits their failovers.
    Commit,
    /// Undoes their failovers.
    Cancel,
}

/// When, as seen from failing the group's machines over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum When {
    Before,
    After,
}

impl When {
    /// The word for it, as it is written everywhere.
    pub(super) fn name(self) -> &'static str {
        match self {
            When::Before => "before",
            When::After => "after",
        }
    }
}

/// A step and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// In which group, from 1.
    pub(crate) group: usize,
    #[serde(flatten)]
    pub(crate) work: Work,
    /// How often it was begun.
    #[serde(default)]
    pub(crate) tries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Timestamp>,
    /// What came of it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) result: String,
    /// The end of what it printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) output: String,
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
            steps.extend(group.before.iter().map(task(When::Before)).map(|work| step(number, work)));
            steps.push(step(number, Work::FailOver));
            steps.extend(group.after.iter().map(task(When::After)).map(|work| step(number, work)));
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
    pub(super) fn take(&mut self, action: Action, now: Timestamp) -> Result<(), NotNow> {
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
        self.steps.extend(groups.map(|group| step(group, work.clone())));
        self.then = then;
        self.go_on(now);
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

fn step(group: usize, work: Work) -> Step {
    let (result, output) = (String::new(), String::new());
    Step { group, work, tries: 0, began: None, ended: None, result, output }
}

impl Step {
    /// What it is, for people.
    pub(super) fn name(&self) -> String {
        let what = match &self.work {
            Work::Script { script, .. } => format!("script {script}"),
            Work::Manual { .. } => "manual step".to_owned(),
            Work::FailOver => "fail the machines over".to_owned(),
            Work::Commit => "commit the machines".to_owned(),
            Work::Cancel => "undo the machines".to_owned(),
        };
        format!("group {}: {what}", self.group)
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

/// A kind of failover as it is written.
pub(crate) fn kind_name(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
