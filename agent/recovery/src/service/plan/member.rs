//! A machine of a plan run: which failover is its own, how that is, and what to do next about it.
//!
//! It decides alone, from what is known of the failover, so that whoever takes a run up comes to the same. Deliberately not here:
//! asking failovers (`steps`).

use jiff::Timestamp;
use mobility_format::{ByteCount, MachineId};
use serde::{Deserialize, Serialize};

use crate::service::{
    database,
    failover::{Action, Chosen, Failover, Phase},
    secret,
};

type Kept = database::Kept<Failover>;

/// The length of a failover's id.
const ID_LEN: usize = 16;

/// A machine of a plan run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) machine: MachineId,
    /// The machine's name, for people.
    pub(crate) name: String,
    /// In which group, from 1.
    pub(crate) group: usize,
    /// Where to.
    pub(crate) place: String,
    /// Its failover, once it is to be begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failover: Option<String>,
    /// How many failovers before were undone by hand.
    #[serde(default)]
    pub(super) before: u32,
    /// Whether what went wrong with it is to be done again.
    #[serde(default)]
    pub(super) again: bool,
    /// How its failover was when it was looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<Phase>,
    /// Why it is not where it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<Trouble>,
    /// What came of it when it was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) up: Option<Up>,
}

/// Why a machine is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    pub(crate) problem: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// A machine that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Up {
    /// When its failover was asked for.
    pub(crate) asked: Timestamp,
    /// From then until it was up, in milliseconds.
    pub(crate) took_ms: i64,
    pub(crate) point: Chosen,
    pub(crate) disks: Vec<Root>,
}

/// A disk of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) size: ByteCount,
    /// What was written, as one digest.
    pub(crate) root: String,
}

impl Up {
    /// What came of a failover, if its machine is up.
    pub(super) fn of(failover: &Failover) -> Option<Up> {
        if !matches!(failover.phase, Phase::Ready | Phase::Committed | Phase::Reprotected) {
            return None;
        }
        let disk = |disk: &crate::service::failover::Written| Root {
            name: disk.name.clone(),
            size: disk.size,
            root: disk.root.clone(),
        };
        Some(Up {
            asked: failover.asked,
            took_ms: failover.took_ms()?,
            point: failover.chosen.clone()?,
            disks: failover.disks.iter().map(disk).collect(),
        })
    }
}

/// What is to become of machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// They are up.
    Up,
    /// They are the real ones.
    Committed,
    /// Nothing is left of them.
    Gone,
}

/// What to do next about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it is where it should be.
    Arrived,
    /// Wait.
    Wait,
    /// Begin its failover.
    Begin,
    /// Turn to another one, since the one that there was was undone.
    TurnToAnother,
    /// Ask something of it.
    Ask(Action),
    /// Nothing without somebody who says so.
    GiveUp(Trouble),
}

impl Member {
    /// A machine of which nothing is known yet.
    pub(crate) fn new(machine: MachineId, name: String, group: usize, place: String) -> Member {
        Member {
            machine,
            name,
            group,
            place,
            failover: None,
            before: 0,
            again: false,
            phase: None,
            trouble: None,
            up: None,
        }
    }

    /// The id of its failover in this run. The same whenever it is asked for.
    pub(super) fn failover_of(&self, run: &str) -> String {
        let text = format!("{run}/{}/{}", self.machine, self.before);
        secret::sha256(text.as_bytes())[..ID_LEN].to_owned()
    }

    /// Takes over what is known of its failover.
    pub(crate) fn note(&mut self, kept: Option<&Kept>) {
        let Some(failover) = kept.map(|kept| &kept.record) else { return };
        // An instance that was killed may have begun it and not said so.
        self.failover = Some(failover.id.clone());
        self.phase = Some(failover.phase);
        self.up = Up::of(failover).or_else(|| self.up.take());
    }

    /// What to do next.
    pub(super) fn next(&self, goal: Goal, kept: Option<&Kept>) -> Next {
        let Some(Kept { record: failover, asked }) = kept else { return self.next_unknown(goal) };
        if asked.is_some() {
            return Next::Wait;
        }
        match goal {
            Goal::Up => self.next_up(failover),
            Goal::Committed => self.next_committed(failover),
            Goal::Gone => self.next_gone(failover),
        }
    }

    /// It was not begun yet, or it came to its end and went with the database.
    fn next_unknown(&self, goal: Goal) -> Next {
        match (goal, &self.failover) {
            (Goal::Up, Some(id)) if !self.again => Next::GiveUp(Trouble {
                problem: format!("failover {id} was undone before the database was rebuilt"),
                hint: "resume the plan run to begin it again".to_owned(),
            }),
            (Goal::Up, _) => Next::Begin,
            (Goal::Committed | Goal::Gone, _) => Next::Arrived,
        }
    }

    /// Turns to another failover, which is to be begun when that is known for good.
    pub(super) fn turn_to_another(&mut self) {
        (self.before, self.again) = (self.before + 1, false);
        (self.failover, self.phase, self.up) = (None, None, None);
    }

    fn next_up(&self, failover: &Failover) -> Next {
        match failover.phase {
            Phase::Running => Next::Wait,
            Phase::Ready | Phase::Committed | Phase::Reprotected => Next::Arrived,
            Phase::Failed if self.again => Next::Ask(Action::Resume),
            Phase::Failed => Next::GiveUp(trouble(failover)),
            Phase::Cancelled | Phase::Removed if self.again => Next::TurnToAnother,
            Phase::Cancelled | Phase::Removed => Next::GiveUp(Trouble {
                problem: format!("failover {} was undone by hand", failover.id),
                hint: "resume the plan run to begin another one".to_owned(),
            }),
        }
    }

    fn next_committed(&self, failover: &Failover) -> Next {
        match failover.phase {
            _ if failover.committed => Next::Arrived,
            Phase::Ready => Next::Ask(Action::Commit),
            Phase::Running => Next::Wait,
            Phase::Failed if failover.then != Phase::Committed => Next::Arrived,
            Phase::Failed if self.again => Next::Ask(Action::Resume),
            Phase::Failed => Next::GiveUp(trouble(failover)),
            // It was gone on without it.
            Phase::Committed | Phase::Reprotected | Phase::Cancelled | Phase::Removed => Next::Arrived,
        }
    }

    fn next_gone(&self, failover: &Failover) -> Next {
        let undone = failover.then == Phase::Cancelled;
        match failover.phase {
            phase if phase.is_end() => Next::Arrived,
            _ if failover.committed => Next::GiveUp(Trouble {
                problem: format!("failover {} was committed by hand, and cannot be undone", failover.id),
                hint: "remove the machine at the target once it is not the real one any more".to_owned(),
            }),
            Phase::Running if undone => Next::Wait,
            Phase::Failed if undone && !self.again => Next::GiveUp(trouble(failover)),
            _ => Next::Ask(Action::Cancel),
        }
    }
}

fn trouble(failover: &Failover) -> Trouble {
    let problem = failover.log.last().map_or_else(String::new, |line| line.text.clone());
    Trouble { problem, hint: format!("failover {}: {}", failover.id, failover.hint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::failover::Kind;

    fn member() -> Member {
        Member::new(MachineId([7; 16]), "web1".to_owned(), 1, "shelf".to_owned())
    }

    fn kept(phase: Phase, then: Phase, asked: Option<Action>) -> Kept {
        let machine = (MachineId([7; 16]), "web1".to_owned());
        let (place, wanted) = ("shelf".to_owned(), "latest".to_owned());
        let failover = Failover::new("0".repeat(16), machine, Kind::Unplanned, place, wanted);
        let committed = matches!(phase, Phase::Committed | Phase::Reprotected);
        Kept { record: Failover { phase, then, committed, ..failover }, asked }
    }

    #[test]
    fn what_is_done_next_follows_from_what_is_known_of_the_failover() {
        let ask = Next::Ask;
        let table = [
            (Phase::Running, Phase::Ready, Next::Wait, Next::Wait, ask(Action::Cancel)),
            (Phase::Ready, Phase::Ready, Next::Arrived, ask(Action::Commit), ask(Action::Cancel)),
            (Phase::Failed, Phase::Ready, ask(Action::Resume), Next::Arrived, ask(Action::Cancel)),
            (Phase::Failed, Phase::Committed, ask(Action::Resume), ask(Action::Resume), ask(Action::Cancel)),
            (Phase::Running, Phase::Cancelled, Next::Wait, Next::Wait, Next::Wait),
            (Phase::Failed, Phase::Cancelled, ask(Action::Resume), Next::Arrived, ask(Action::Cancel)),
            (Phase::Cancelled, Phase::Cancelled, Next::TurnToAnother, Next::Arrived, Next::Arrived),
        ];
        let again = Member { again: true, ..member() };
        for (phase, then, up, committed, gone) in table {
            let kept = kept(phase, then, None);
            let next = [Goal::Up, Goal::Committed, Goal::Gone].map(|goal| again.next(goal, Some(&kept)));
            assert_eq!(next, [up, committed, gone], "{phase:?} {then:?}");
        }
        assert_eq!(again.next(Goal::Up, None), Next::Begin);
        assert_eq!(again.next(Goal::Gone, None), Next::Arrived);
        let asked = kept(Phase::Ready, Phase::Ready, Some(Action::Cancel));
        for goal in [Goal::Up, Goal::Committed, Goal::Gone] {
            assert_eq!(again.next(goal, Some(&asked)), Next::Wait, "what was asked is taken up first");
        }
    }

    #[test]
    fn what_went_wrong_is_done_again_only_where_somebody_says_so() {
        let gives_up = |goal, phase, then| {
            matches!(member().next(goal, Some(&kept(phase, then, None))), Next::GiveUp(_))
        };
        assert!(gives_up(Goal::Up, Phase::Failed, Phase::Ready));
        assert!(gives_up(Goal::Up, Phase::Cancelled, Phase::Cancelled));
        assert!(gives_up(Goal::Committed, Phase::Failed, Phase::Committed));
        assert!(gives_up(Goal::Gone, Phase::Failed, Phase::Cancelled));
        assert!(gives_up(Goal::Gone, Phase::Committed, Phase::Committed));
        let lost = Member { failover: Some("0".repeat(16)), ..member() };
        assert!(matches!(lost.next(Goal::Up, None), Next::GiveUp(_)), "it was begun, and nobody knows it");
        assert_eq!(Member { again: true, ..lost.clone() }.next(Goal::Up, None), Next::Begin);
        assert_eq!(lost.next(Goal::Gone, None), Next::Arrived);
    }

    #[test]
    fn a_run_has_one_failover_of_a_machine_and_another_one_after_that_was_undone() {
        let id = member().failover_of("run");
        assert_eq!(id, member().failover_of("run"));
        assert!(id.len() == ID_LEN && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
        let others = [
            member().failover_of("another"),
            Member { before: 1, ..member() }.failover_of("run"),
            Member { machine: MachineId([8; 16]), ..member() }.failover_of("run"),
        ];
        assert!(!others.contains(&id));
        let mut noted = member();
        noted.note(Some(&kept(Phase::Running, Phase::Ready, None)));
        assert_eq!(noted.failover, Some("0".repeat(16)), "whoever has begun it");
        let mut another = Member { failover: Some(id.clone()), again: true, ..member() };
        another.turn_to_another();
        assert_eq!(another.next(Goal::Up, None), Next::Begin);
        assert_eq!(another.failover_of("run"), others[1]);
    }
}
