//! Which steps of the agent need not be tried in every order.
//!
//! A step that looks at something that no write will change any more gives the same whenever it is made, and changes nothing
//! that a write looks at. Where the next step is of this kind, it is made at once, instead of before and after each step of
//! each write: a persistent set of one, in the words of partial-order reduction. In every loop of the agent there is a step that is
//! not of this kind, so no write is put off for ever. Deliberately not here: the steps.

use crate::{
    scenario::{Counted, DISKS, Loss, Scenario, Write},
    state::{Bits, Stage, State, Step, Way},
};

/// Whether the agent's next step is independent of all that writes can still do.
pub(crate) fn is_alone(scenario: &Scenario, state: &State) -> bool {
    let agent = &state.agent;
    // `t0`, and what counts as issued after a disk's bitmap was taken.
    let last = agent.disk + 1 == DISKS && matches!(agent.step, Step::Slots(_) | Step::Idle(_));
    let loses = scenario.writes.iter().any(|write| write.loss.is_of_completion());
    if agent.way == Way::T0 && (last || loses) {
        return false;
    }
    let here = |write: &Write| write.disk == agent.disk;
    let same = |write: &Write| here(write) && write.block == agent.block;
    let issued = |w: usize| state.stages[w] > Stage::Touched;
    let marked = |w: usize| state.stages[w] > Stage::Marked;
    let written = |w: usize| state.halves[w] == 3;
    let done = |w: usize| state.stages[w] == Stage::Done;
    let all = |of: &dyn Fn(&Write) -> bool, are: &dyn Fn(usize) -> bool| {
        scenario.writes.iter().enumerate().all(|(w, write)| !of(write) || are(w))
    };
    match agent.step {
        Step::Summary(Bits::Touched) | Step::Load(Bits::Touched) | Step::Clear(Bits::Touched) => {
            all(&here, &issued)
        }
        Step::Summary(Bits::Dirty) | Step::Load(Bits::Dirty) | Step::Clear(Bits::Dirty) => {
            all(&here, &marked)
        }
        Step::Slots(_) | Step::Look | Step::SettleSlots => all(&here, &done),
        Step::Idle(_) | Step::SeeIdle | Step::SettleIdle => match scenario.counted {
            Counted::UntilMarked => all(&here, &marked),
            _ => all(&here, &written),
        },
        Step::SettleDirty => all(&here, &marked),
        Step::SettleTouched => all(&here, &issued),
        Step::Account => all(&|write| here(write) && write.loss != Loss::None, &done),
        Step::Read(_) => all(&same, &written),
        Step::LookDirty => all(&same, &marked),
        Step::LookTouched => all(&same, &issued),
        Step::Begin | Step::Unsettled | Step::RoundOver | Step::Ended => false,
    }
}
