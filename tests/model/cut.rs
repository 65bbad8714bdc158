//! The cut's steps over all disks, in the order of `daemon/src/replicate/cut/{mod,disk}.rs`, around the engine's `CutDisk`.
//!
//! Blocks are read one after the other; the real ones are read by several threads, but each is looked up after its own read,
//! and no look-up knows of another. Deliberately not here: what has to be read and what conflicts, which is the code under
//! test, and whether the result is right (`judge`).

use std::mem;

use crate::{
    agent::{Shell, absorb},
    judge,
    kernel::is_idle,
    scenario::{DISKS, Mutant, Phase},
    state::{Bits, Stage, State, Step, Taken, UNREAD, Way},
};

impl Shell<'_> {
    pub(crate) fn begin_round(&mut self, state: &mut State) {
        state.agent.round += 1;
        state.agent.between = 0;
        let first = if self.scenario.is(Mutant::TakesTouchedLast) { Bits::Dirty } else { Bits::Touched };
        (state.agent.way, state.agent.disk, state.agent.step) = (Way::T0, 0, Step::Summary(first));
    }

    /// Step 1 is over for a disk, and where it was the last one, that is `t0`.
    pub(crate) fn took_first(&mut self, state: &mut State) {
        let agent = &mut state.agent;
        if agent.disk + 1 < DISKS {
            agent.disk += 1;
            let first = if self.scenario.is(Mutant::TakesTouchedLast) { Bits::Dirty } else { Bits::Touched };
            agent.step = Step::Summary(first);
            return;
        }
        (agent.issued, agent.completed) = (0, 0);
        for (w, stage) in state.stages.iter().enumerate() {
            agent.issued |= u8::from(*stage != Stage::New) << w;
            agent.completed |= u8::from(*stage == Stage::Done) << w;
        }
        // What the engine's `cut` says of a lost completion in these microseconds.
        let hole = if self.scenario.strict { 0 } else { agent.completed & agent.between & state.lost };
        agent.completed &= !hole;
        if hole != 0 {
            self.reached.insert("a write came and went unseen within step 1");
        }
        (agent.between, agent.way, agent.disk, agent.step) = (0, Way::Drain, 0, Step::Look);
    }

    pub(crate) fn step_cut(&mut self, state: &mut State, choice: u8) -> Result<(), String> {
        let d = state.agent.disk;
        match state.agent.step {
            Step::Look => self.look(state),
            Step::SettleIdle => {
                let unseen = state.disks[d].knows.unseen || state.disks[d].drained.missed_issue;
                let idle = is_idle(self.scenario, state, d, unseen);
                let disk = &mut state.disks[d];
                disk.drained.idle |= self.cuts.view(disk.cutting.cut).must_settle && idle;
                state.agent.step = Step::SettleSlots;
            }
            Step::SettleSlots => {
                state.agent.seen_in_flight = self.in_flight(state) & state.disks[d].cutting.concerned;
                state.agent.step = Step::SettleDirty;
            }
            Step::SettleDirty => {
                let disk = &state.disks[d];
                let to_read = self.cuts.view(disk.cutting.cut).to_read;
                let recent =
                    if self.scenario.is(Mutant::SettledIgnoresRecent) { 0 } else { disk.cutting.recent };
                state.agent.seen_dirty = disk.dirty & (to_read | recent);
                state.agent.step = Step::SettleTouched;
            }
            Step::SettleTouched => self.settle(state),
            Step::Unsettled if choice == 0 && self.is_last(state) => {
                return Err("nothing is in flight, and the cut waits for something".to_owned());
            }
            Step::Unsettled if choice == 0 => {
                (state.agent.disk, state.agent.step) = (0, Step::SettleIdle);
            }
            Step::Unsettled => {
                self.reached.insert("a wait was given up");
                return self.over(state, false);
            }
            Step::LookDirty => {
                let bit = 1 << state.agent.block;
                let disk = &mut state.disks[d];
                if self.scenario.is(Mutant::DrainsAfterRead) {
                    disk.pending |= disk.dirty | disk.touched;
                    (disk.dirty, disk.touched, disk.dirty_sum, disk.touched_sum) = (0, 0, false, false);
                }
                (state.agent.seen_dirty, state.agent.step) = (disk.dirty & bit, Step::LookTouched);
            }
            Step::LookTouched => self.validate(state),
            Step::RoundOver => return self.round_over(state),
            step => unreachable!("{step:?} is not a cut's"),
        }
        Ok(())
    }

    /// What the table says to be in flight on the disk.
    fn in_flight(&self, state: &State) -> u8 {
        let disk = state.agent.disk;
        match self.scenario.is(Mutant::IgnoresInFlight) {
            true => 0,
            false => self.blocks(disk, state.disks[disk].in_table()),
        }
    }

    fn look(&mut self, state: &mut State) {
        let in_flight = self.in_flight(state);
        let disk = &mut state.disks[state.agent.disk];
        let concerned = self.cuts.concerned(disk.cutting.cut, disk.drained.touched);
        (disk.cutting.concerned, disk.cutting.in_flight) = (concerned, in_flight & concerned);
        let next = if self.scenario.is(Mutant::TakesTouchedLast) { Bits::Touched } else { Bits::Dirty };
        state.agent.step = Step::Summary(next);
    }

    /// Step 2 is over for a disk.
    pub(crate) fn drained_in_cut(&mut self, state: &mut State) {
        if self.scenario.is(Mutant::LooksInFlightLast) {
            let in_flight = self.in_flight(state);
            let cutting = &mut state.disks[state.agent.disk].cutting;
            cutting.in_flight = in_flight & cutting.concerned;
        }
        let disk = &mut state.disks[state.agent.disk];
        let in_flight = mem::take(&mut disk.cutting.in_flight);
        if disk.drained.missed_completion {
            disk.drained.touched |= disk.cutting.touched_since;
        }
        disk.cutting.cut = self.cuts.taken(disk.cutting.cut, disk.drained, in_flight);
        let agent = &mut state.agent;
        agent.disk += 1;
        agent.step = Step::Look;
        if agent.disk == DISKS {
            (agent.way, agent.disk, agent.step) = (Way::Cut, 0, Step::SettleIdle);
        }
    }

    fn settle(&mut self, state: &mut State) {
        let agent = &mut state.agent;
        let disk = &mut state.disks[agent.disk];
        let (in_flight, dirty) = (mem::take(&mut agent.seen_in_flight), mem::take(&mut agent.seen_dirty));
        let touched = (disk.touched & dirty) | disk.cutting.touched_since;
        let before = disk.cutting.cut;
        let (cut, settled) = self.cuts.settled(before, (in_flight, dirty, touched), disk.drained.idle);
        disk.cutting.cut = cut;
        if !settled {
            agent.step = Step::Unsettled;
            self.reached.insert("writes in flight were waited for");
            return;
        }
        if self.cuts.view(before).to_read != self.cuts.view(cut).to_read {
            self.reached.insert("more to read when the wait was over");
        }
        (agent.disk, agent.step) = (agent.disk + 1, Step::SettleIdle);
        if agent.disk == DISKS {
            for (left, disk) in agent.left.iter_mut().zip(&state.disks) {
                *left = self.cuts.view(disk.cutting.cut).to_read;
            }
            self.read_next(state);
        }
    }

    fn validate(&mut self, state: &mut State) {
        let bit = 1 << state.agent.block;
        let dirty = mem::take(&mut state.agent.seen_dirty);
        let cutting = &mut state.disks[state.agent.disk].cutting;
        let since = cutting.touched_since;
        let mut touched = (state.disks[state.agent.disk].touched | since) & bit;
        if self.scenario.is(Mutant::LooksAtDirtyAlone) {
            touched = 0;
        }
        let cutting = &mut state.disks[state.agent.disk].cutting;
        if !self.scenario.is(Mutant::NoValidation) {
            cutting.conflicts |= self.cuts.conflicts(cutting.cut, touched, dirty);
        }
        if self.scenario.is(Mutant::ValidatesBeforeRead) {
            state.agent.step = Step::Read(0);
        } else {
            self.read_next(state);
        }
    }

    fn round_over(&mut self, state: &mut State) -> Result<(), String> {
        if state.disks.iter().all(|disk| disk.cutting.conflicts == 0) {
            let missed = state.disks.iter().any(|disk| disk.cutting.missed);
            if missed {
                self.reached.insert("a skipped run at issue undid a cut");
            }
            return self.over(state, !missed);
        }
        self.reached.insert("conflict");
        if state.disks.iter().any(|disk| disk.cutting.content.iter().any(|c| c[0] != c[1])) {
            self.reached.insert("a torn read was found out");
        }
        let most = match self.scenario.phases.get(state.agent.phase) {
            Some(Phase::Cut(rounds)) => *rounds,
            _ => 1,
        };
        if state.agent.round >= most {
            return self.over(state, false);
        }
        for disk in &mut state.disks {
            let cutting = &mut disk.cutting;
            let mut taken = mem::take(&mut disk.drained);
            taken.touched |= mem::take(&mut cutting.touched_since);
            let conflicts = mem::take(&mut cutting.conflicts);
            let told = match self.scenario.is(Mutant::NextForgetsConflicts) {
                true => 0,
                false => conflicts,
            };
            let mut told_taken = taken;
            if self.scenario.is(Mutant::NextForgetsTouched) {
                told_taken.touched = 0;
            }
            cutting.recent |= self.cuts.view(cutting.cut).to_read;
            cutting.cut = self.cuts.next_round(cutting.cut, told_taken, told);
            absorb(disk, taken);
        }
        self.begin_round(state);
        Ok(())
    }

    /// A cut is over, and either its content is part of a durable point, or nothing of it counts.
    fn over(&mut self, state: &mut State, consistent: bool) -> Result<(), String> {
        if self.is_last(state) && !consistent {
            return Err("nothing is written, and yet the cut failed".to_owned());
        }
        if consistent {
            judge::point(self, state)?;
            let last = self.is_last(state);
            self.reached.insert(match state.agent.round {
                _ if last => "the last cut",
                1 => "consistent in the first round",
                _ => "consistent in a later round",
            });
        }
        for disk in &mut state.disks {
            let mut taken: Taken = mem::take(&mut disk.drained);
            taken.touched |= disk.cutting.touched_since;
            absorb(disk, taken);
            if consistent {
                let read = self.cuts.view(disk.cutting.cut).read;
                for (copy, content) in disk.copy.iter_mut().zip(disk.cutting.content) {
                    if content[0] != UNREAD {
                        *copy = content;
                    }
                }
                disk.durable = disk.copy;
                disk.knows.recent = 0;
                disk.knows.owed &= !read;
                disk.pending = disk.knows.owed | disk.knows.open | disk.carried;
            }
        }
        self.end_phase(state);
        Ok(())
    }
}
