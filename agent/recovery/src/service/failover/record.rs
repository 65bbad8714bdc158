//! What is known of a failover: what it is to do, how far it is, and what came of each step.
//!
//! It is what the database keeps and what an administrator is shown, and it decides alone what comes next: no step is forgotten
//! and none is done twice as long as it is stored after each. Deliberately not here: what is asked of it (`asked`), what a step does
//! (`steps`), and where it is stored (`database::failovers`, `facts`).

mod asked;

use jiff::Timestamp;
use mobility_format::{ByteCount, DiskId, Epoch, MachineId, manifest::Consistency};
use serde::{Deserialize, Serialize};

pub(crate) use self::asked::{Action, NotNow};
use super::{mend::Change, source::Source, step::Step};
use crate::PointId;

/// Lines of its own log that a failover keeps. Each step adds a few.
const MOST_LINES: usize = 500;
/// Lines of it that are stored with the machine's facts.
const LINES_STORED: usize = 50;

/// Why a machine is failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// To see that it works: on a network of its own, while the machine goes on.
    Test,
    /// Because the machine is to run elsewhere: it is stopped before, and nothing is lost.
    Planned,
    /// Because the machine is gone.
    Unplanned,
}

/// How far a failover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Its steps are being done.
    Running,
    /// A step went wrong: it waits for somebody to say what to do.
    Failed,
    /// The machine runs at the target, and somebody has to say what becomes of it.
    Ready,
    /// The machine at the target is the real one, and is not protected.
    Committed,
    /// The machine at the target replicates.
    Reprotected,
    /// It was undone.
    Cancelled,
    /// The machine at the target was removed after it had been the real one.
    Removed,
}

impl Phase {
    /// Whether nothing can come after it.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Phase::Cancelled | Phase::Removed)
    }
}

/// The point that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    /// Its name.
    pub(crate) id: String,
    pub(crate) epoch: Epoch,
    /// What it shows.
    pub(crate) time: Timestamp,
    pub(crate) consistency: Consistency,
    /// How old it was when the failover was asked for: what is lost of the machine's work, the measured RPO.
    pub(crate) age_ms: i64,
}

/// A disk at the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) id: DiskId,
    /// What the machine calls it.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: String,
    pub(crate) size: ByteCount,
    /// How much of it was written; the rest is zero.
    pub(crate) written: ByteCount,
    /// What was written, as one digest, read back from where it is.
    pub(crate) root: String,
}

/// A step and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) step: Step,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Timestamp>,
    /// How much of it is done, while it is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<Progress>,
    /// What came of it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) result: String,
}

/// How much of a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) done: ByteCount,
    pub(crate) total: ByteCount,
}

/// A line of a failover's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) text: String,
}

/// A failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failover {
    pub(crate) id: String,
    pub(crate) machine: MachineId,
    /// The machine's name, for people.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Where to, by the name that the configuration gives it.
    pub(crate) place: String,
    /// Which point was asked for: `latest`, `latest-processed`, `latest-app-consistent`, a time, an id.
    pub(crate) wanted: String,
    pub(crate) asked: Timestamp,
    pub(crate) phase: Phase,
    /// What phase it is in once all steps are done.
    pub(crate) then: Phase,
    /// Whether the point must not go.
    #[serde(default)]
    pub(crate) holds_point: bool,
    /// The hardware that the machine was before, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hardware: Option<String>,
    /// What is known of the machine at the source, where it is stopped for the failover.
    #[serde(default)]
    pub(crate) source: Source,
    /// The newest epoch when the machine at the target was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admitted_at: Option<u64>,
    /// The machine at the target may be the real one: undoing is not possible any more.
    pub(crate) committed: bool,
    pub(crate) steps: Vec<Done>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chosen: Option<Chosen>,
    #[serde(default)]
    pub(crate) disks: Vec<Written>,
    /// What was changed on the disks before the machine was first started, or would be where nothing may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<Change>,
    /// What was found on them that somebody should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<String>,
    /// Whether the machine was seen to be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) booted: Option<bool>,
    /// What to do about what went wrong, where there is something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) hint: String,
    pub(crate) log: Vec<Line>,
}

impl Failover {
    /// What was asked for, with all steps before it.
    pub(crate) fn new(
        id: String,
        machine: (MachineId, String),
        kind: Kind,
        place: String,
        wanted: String,
    ) -> Self {
        let now = Timestamp::now();
        let mut failover = Failover {
            id,
            machine: machine.0,
            name: machine.1,
            kind,
            place,
            wanted,
            asked: now,
            phase: Phase::Running,
            then: Phase::Ready,
            holds_point: false,
            hardware: None,
            source: Source::default(),
            admitted_at: None,
            committed: false,
            steps: Vec::new(),
            chosen: None,
            disks: Vec::new(),
            changes: Vec::new(),
            findings: Vec::new(),
            booted: None,
            hint: String::new(),
            log: Vec::new(),
        };
        let steps: &[Step] = if kind == Kind::Planned { &Step::PLANNED } else { &Step::WHOLE };
        failover.plan(steps, Phase::Ready);
        failover
    }

    /// The next step that is not done.
    pub(crate) fn next(&mut self) -> Option<&mut Done> {
        match self.phase {
            Phase::Running => self.steps.iter_mut().find(|done| done.ended.is_none()),
            _ => None,
        }
    }

    /// Notes that a step is begun, perhaps again.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Option<Step> {
        let next = self.next()?;
        next.began.get_or_insert(now);
        next.progress = None;
        Some(next.step)
    }

    /// Notes that the step that was begun is done.
    pub(crate) fn end(&mut self, result: String, now: Timestamp) {
        let Some(next) = self.next() else { return };
        next.ended = Some(now);
        next.progress = None;
        let text = format!("{}: {result}", next.step.name());
        next.result = result;
        self.say(text, now);
        if self.next().is_none() {
            self.phase = self.then;
            self.committed |= self.then == Phase::Committed;
        }
    }

    /// Notes that the step that was begun went wrong.
    pub(crate) fn fail(&mut self, problem: String, hint: String, now: Timestamp) {
        let Some(next) = self.next() else { return };
        next.progress = None;
        let text = format!("{} went wrong: {problem}", next.step.name());
        next.result = problem;
        self.say(text, now);
        self.hint = hint;
        self.phase = Phase::Failed;
    }

    /// Adds a line to the log.
    pub(crate) fn say(&mut self, text: String, now: Timestamp) {
        self.log.push(Line { at: now, text });
        let surplus = self.log.len().saturating_sub(MOST_LINES);
        self.log.drain(..surplus);
    }

    /// Whether the chosen point holds all that the machine at the source has written.
    pub(crate) fn loses_nothing(&self) -> bool {
        let (chosen, last) = (self.chosen.as_ref(), self.source.last);
        chosen.zip(last).is_some_and(|(chosen, last)| chosen.epoch >= last.epoch)
    }

    /// What is done after what was done; what was not done is not done any more.
    fn plan(&mut self, steps: &[Step], then: Phase) {
        self.steps.retain(|done| done.ended.is_some());
        let planned = |&step| Done { step, began: None, ended: None, progress: None, result: String::new() };
        self.steps.extend(steps.iter().map(planned));
        (self.phase, self.then) = (Phase::Running, then);
    }

    /// As it is stored with the machine's facts: with the end of its log, and without what is so for a moment only.
    #[must_use]
    pub(crate) fn stored(mut self) -> Failover {
        self.steps.iter_mut().for_each(|done| done.progress = None);
        let surplus = self.log.len().saturating_sub(LINES_STORED);
        self.log.drain(..surplus);
        self
    }

    /// The phase as it is written.
    pub(crate) fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Running => "running",
            Phase::Failed => "failed",
            Phase::Ready => "ready",
            Phase::Committed => "committed",
            Phase::Reprotected => "reprotected",
            Phase::Cancelled => "cancelled",
            Phase::Removed => "removed",
        }
    }

    /// From when it was asked for, or another point was, until the machine was up, in milliseconds: the measured RTO. Where the machine
    /// was stopped for it, from then on.
    pub(crate) fn took_ms(&self) -> Option<i64> {
        let up = self.steps.iter().rev().find(|done| done.step == Step::WatchBoot)?.ended?;
        let halt = self.steps.iter().find(|done| done.step == Step::HaltSource).and_then(|done| done.began);
        let begin = halt.map_or(self.asked, |halt| halt.max(self.asked));
        Some((up.as_millisecond() - begin.as_millisecond()).max(0))
    }
}

impl From<PointId> for String {
    fn from(id: PointId) -> String {
        id.to_string()
    }
}
