//! The writers, the kernel's two programs and the device: what happens to a write, in steps.
//!
//! ```text
//! in the table ─> touched ─> the device writes its halves, in any order ─> dirty ─> out of the table ─> its writer knows
//! ```
//!
//! As `capture/bpf/tracker.bpf.c` has it. A write counts as in flight (`/sys/block/<disk>/inflight`) from its first step until the device has
//! written it. That is the earliest end there can be, so it is the one that can mislead. The device writes one block for one
//! write at a time. Deliberately not here: what the agent makes of it.

use crate::{
    scenario::{Counted, Loss, Mutant, Scenario, Write},
    state::{Bits, Stage, State, Step, Way},
};

/// A step of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// It is issued, and neither program knows.
    SkipIssue,
    Depart,
    Touch,
    SumTouched,
    Give,
    Half(usize),
    Mark,
    SumDirty,
    /// Its writer learns that it is complete, and the program at completion has not run.
    Lose,
    Arrive,
}

/// What can happen next to write `w`.
pub(crate) fn moves(scenario: &Scenario, state: &State, w: usize) -> Vec<Move> {
    let Write { disk, block, after, loss, .. } = scenario.writes[w];
    let two = |able: bool, one: Move, other: Move| if able { vec![one, other] } else { vec![one] };
    match state.stages[w] {
        Stage::New if after.is_some_and(|before| state.stages[before] != Stage::Done) => Vec::new(),
        Stage::New => two(loss == Loss::CountedIssue, Move::Depart, Move::SkipIssue),
        Stage::Departed => vec![Move::Touch],
        Stage::Touched => vec![Move::SumTouched],
        Stage::Issued => vec![Move::Give],
        Stage::Given => {
            let halves = state.halves[w];
            let busy = |(other, write): (usize, &Write)| {
                other != w
                    && (write.disk, write.block) == (disk, block)
                    && matches!(state.halves[other], 1 | 2)
            };
            if halves == 3 {
                two(loss.is_of_completion(), Move::Mark, Move::Lose)
            } else if scenario.writes.iter().enumerate().any(busy) {
                Vec::new()
            } else {
                (0..2).filter(|half| halves >> half & 1 == 0).map(Move::Half).collect()
            }
        }
        Stage::Marked => vec![Move::SumDirty],
        Stage::Summed => vec![Move::Arrive],
        Stage::Done => Vec::new(),
    }
}

/// Makes a step of write `w`.
pub(crate) fn make(scenario: &Scenario, state: &mut State, w: usize, step: Move) {
    let Write { disk: d, block, tag, loss, .. } = scenario.writes[w];
    let bit = 1 << block;
    let late = loss.is_of_completion() && is_past(state, d);
    let disk = &mut state.disks[d];
    let issued = if scenario.counted == Counted::Late { Stage::Issued } else { Stage::Given };
    state.stages[w] = match step {
        Move::SkipIssue => {
            disk.missed_issue = true;
            disk.cutting.missed |= disk.cutting.cut > 0;
            Stage::Given
        }
        Move::Depart => {
            disk.slots[tag] = w as u8 + 1;
            Stage::Departed
        }
        Move::Touch if scenario.is(Mutant::TouchesTooLate) => issued,
        Move::Touch => {
            disk.touched |= bit;
            disk.touched_sum |= !scenario.summary;
            state.agent.between |= u8::from(late) << w;
            if scenario.summary { Stage::Touched } else { issued }
        }
        Move::SumTouched => {
            disk.touched_sum = true;
            state.agent.between |= u8::from(late) << w;
            issued
        }
        Move::Give => Stage::Given,
        Move::Half(half) => {
            if state.halves[w] == 0 {
                disk.order[block] = disk.order[block] << 3 | (w as u16 + 1);
            }
            disk.medium[block][half] = w as u8 + 1;
            state.halves[w] |= 1 << half;
            Stage::Given
        }
        Move::Mark => {
            if scenario.is(Mutant::TouchesTooLate) {
                (disk.touched, disk.touched_sum) = (disk.touched | bit, true);
            }
            disk.dirty |= bit;
            disk.dirty_sum |= !scenario.summary;
            if scenario.summary { Stage::Marked } else { Stage::Summed }
        }
        Move::SumDirty => {
            disk.dirty_sum = true;
            Stage::Summed
        }
        Move::Lose => {
            disk.missed_completion |= loss == Loss::CountedCompletion;
            state.lost |= 1 << w;
            Stage::Done
        }
        Move::Arrive => {
            disk.slots[tag] = 0;
            Stage::Done
        }
    };
}

/// Whether the first step of a cut has gone past this disk's bitmap and not yet past the last one's.
fn is_past(state: &State, disk: usize) -> bool {
    let agent = &state.agent;
    let behind = matches!(agent.step, Step::Clear(_) | Step::Slots(_) | Step::Idle(_));
    agent.way == Way::T0 && (agent.disk > disk || (agent.disk == disk && behind))
}

/// Whether the tracker says that a disk is idle: nothing is counted, and nothing is in the table. Where a write may be in
/// flight `unseen`, it has made sure first.
pub(crate) fn is_idle(scenario: &Scenario, state: &State, disk: usize, unseen: bool) -> bool {
    let late = scenario.counted == Counted::Late;
    let sure = !unseen || is_certainly_zero(scenario, state, disk);
    let first = if late { Stage::Given } else { Stage::Departed };
    sure && is_zero(scenario, state, disk, first) && state.disks[disk].in_table() == 0
}

/// Whether nothing is counted after the kernel has left what it was doing: then a write is counted from its issue on.
pub(crate) fn is_certainly_zero(scenario: &Scenario, state: &State, disk: usize) -> bool {
    is_zero(scenario, state, disk, Stage::Departed)
}

fn is_zero(scenario: &Scenario, state: &State, disk: usize, first: Stage) -> bool {
    let over = |w: usize| match scenario.counted {
        Counted::UntilMarked => state.stages[w] > Stage::Marked,
        _ => state.halves[w] == 3,
    };
    let working = |(w, write): (usize, &Write)| {
        write.disk == disk && state.stages[w] >= first && state.stages[w] < Stage::Done && !over(w)
    };
    !scenario.writes.iter().enumerate().any(working)
}

/// Whether every write has completed.
pub(crate) fn is_quiet(scenario: &Scenario, state: &State) -> bool {
    state.stages[..scenario.writes.len()].iter().all(|stage| *stage == Stage::Done)
}

/// The bits of a bitmap and whether its summary says that there are any.
pub(crate) fn bitmap(disk: &mut crate::state::Disk, bits: Bits) -> (&mut u8, &mut bool) {
    match bits {
        Bits::Touched => (&mut disk.touched, &mut disk.touched_sum),
        Bits::Dirty => (&mut disk.dirty, &mut disk.dirty_sum),
    }
}
