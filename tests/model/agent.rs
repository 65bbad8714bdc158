//! The agent's steps with the tracker: drains, passes, and what the engine makes of what was drained.
//!
//! One step reads or writes one thing that the kernel's side changes, as in `capture/src/ebpf/{bitmap,flights,tracker}.rs`; whatever
//! the agent does by itself between two of these is part of the one before. What the engine knows of a disk between cuts is
//! its rules in bits (`engine/src/disk.rs`, `suspects.rs`, `misses.rs`), without age. Deliberately not here: the cut (`cut`).

use std::collections::BTreeSet;

use crate::{
    cuts::Cuts,
    kernel::{bitmap, is_certainly_zero, is_idle, is_quiet},
    scenario::{BLOCKS, DISKS, Mutant, Phase, Scenario},
    state::{ALL, Agent, Bits, Blocks, Cutting, Disk, Known, State, Step, Taken, Way, Writes},
};

/// Instead of a way to go on: it is killed.
pub(crate) const KILL: u8 = u8::MAX;

/// How the agent gets on; what it has reached so far.
pub(crate) struct Shell<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) cuts: Cuts,
    pub(crate) reached: BTreeSet<&'static str>,
}

impl Shell<'_> {
    /// How many ways there are to go on.
    pub(crate) fn choices(&self, state: &State) -> u8 {
        match state.agent.step {
            Step::Ended => 0,
            Step::Begin if self.is_last(state) => u8::from(is_quiet(self.scenario, state)),
            Step::Unsettled if !self.is_last(state) => 2,
            _ => 1,
        }
    }

    /// Where it goes on when it is killed now, if it may be.
    pub(crate) fn restart(&self, state: &State) -> Option<usize> {
        let to_come = state.agent.phase..self.scenario.phases.len();
        to_come.into_iter().find(|phase| self.scenario.phases[*phase] == Phase::Restart)
    }

    /// Whether this is the cut at the end, in peace.
    pub(crate) fn is_last(&self, state: &State) -> bool {
        state.agent.phase == self.scenario.phases.len()
    }

    /// The blocks of `disk` that the writes in `of` are to.
    pub(crate) fn blocks(&self, disk: usize, of: Writes) -> Blocks {
        let writes = self.scenario.writes.iter().enumerate();
        let of_disk = writes.filter(|(w, write)| of >> w & 1 == 1 && write.disk == disk);
        of_disk.fold(0, |blocks, (_, write)| blocks | 1 << write.block)
    }

    /// Makes the next step.
    ///
    /// # Errors
    /// What must never be.
    pub(crate) fn step(&mut self, state: &mut State, choice: u8) -> Result<(), String> {
        if let (KILL, Some(phase)) = (choice, self.restart(state)) {
            state.agent.phase = phase;
            self.reached.insert("killed");
            self.take_up(state);
            return Ok(());
        }
        match state.agent.step {
            Step::Begin => self.begin(state),
            Step::Summary(bits) => self.summary(state, bits),
            Step::Load(bits) => self.load(state, bits),
            Step::Clear(bits) => self.clear(state, bits),
            Step::Slots(bits) => self.slots(state, bits),
            Step::Idle(bits) => {
                let idle = is_certainly_zero(self.scenario, state, state.agent.disk);
                self.carry(state, bits, idle);
            }
            Step::Account => {
                let disk = &mut state.disks[state.agent.disk];
                disk.drained.missed_issue = std::mem::take(&mut disk.missed_issue);
                disk.drained.missed_completion = std::mem::take(&mut disk.missed_completion);
                state.agent.step = Step::SeeIdle;
            }
            Step::SeeIdle => {
                let d = state.agent.disk;
                let unseen = state.disks[d].knows.unseen || state.disks[d].drained.missed_issue;
                state.disks[d].drained.idle = is_idle(self.scenario, state, d, unseen);
                self.drained(state);
            }
            Step::Read(half) => self.read(state, half),
            _ => return self.step_cut(state, choice),
        }
        Ok(())
    }

    fn begin(&mut self, state: &mut State) {
        let phase = self.scenario.phases.get(state.agent.phase).copied().unwrap_or(Phase::Cut(1));
        match phase {
            Phase::Pass => {
                (state.agent.way, state.agent.step, state.agent.disk) =
                    (Way::Pass, Step::Summary(Bits::Dirty), 0);
            }
            Phase::Cut(_) => {
                for disk in &mut state.disks {
                    let (cut, recent) = (self.cuts.begin(disk.knows), disk.knows.recent);
                    disk.cutting = Cutting { cut, recent, ..Cutting::default() };
                }
                self.begin_round(state);
            }
            Phase::Restart => self.take_up(state),
        }
    }

    /// A new run of the agent: it has what is in the kernel's memory, and what was durable.
    fn take_up(&self, state: &mut State) {
        for disk in &mut state.disks {
            (disk.dirty_sum, disk.touched_sum) = (disk.dirty != 0, disk.touched != 0);
            (disk.ended, disk.carried, disk.copy) = (0, 0, disk.durable);
            disk.knows = Known { owed: disk.pending, recent: ALL, inherited: true, ..Known::default() };
        }
        self.end_phase(state);
    }

    /// To the next phase; what belonged to this one does not matter any more.
    pub(crate) fn end_phase(&self, state: &mut State) {
        let ended = self.is_last(state);
        let Agent { phase, .. } = state.agent;
        state.agent = State::new(false).agent;
        (state.agent.phase, state.agent.step) =
            if ended { (phase, Step::Ended) } else { (phase + 1, Step::Begin) };
        for disk in &mut state.disks {
            (disk.cutting, disk.drained) = (Cutting::default(), Taken::default());
        }
    }

    fn summary(&mut self, state: &mut State, bits: Bits) {
        let disk = &mut state.disks[state.agent.disk];
        if std::mem::take(bitmap(disk, bits).1) {
            state.agent.step = Step::Load(bits);
            if !self.scenario.summary {
                self.load(state, bits);
            }
        } else {
            self.took(state, bits, 0);
        }
    }

    fn load(&mut self, state: &mut State, bits: Bits) {
        let disk = &mut state.disks[state.agent.disk];
        let seen = *bitmap(disk, bits).0;
        if !self.scenario.is(Mutant::ClearsBeforePending) {
            disk.pending |= seen;
        }
        (state.agent.seen, state.agent.step) = (seen, Step::Clear(bits));
    }

    fn clear(&mut self, state: &mut State, bits: Bits) {
        let seen = std::mem::take(&mut state.agent.seen);
        *bitmap(&mut state.disks[state.agent.disk], bits).0 &= !seen;
        self.took(state, bits, seen);
    }

    fn took(&mut self, state: &mut State, bits: Bits, seen: Blocks) {
        let (way, disk) = (state.agent.way, &mut state.disks[state.agent.disk]);
        let late = self.scenario.is(Mutant::TakesTouchedLast) || way != Way::Drain;
        match bits {
            Bits::Dirty => disk.drained.dirty |= seen | std::mem::take(&mut disk.carried),
            Bits::Touched if late => disk.drained.touched |= seen,
            Bits::Touched if self.scenario.is(Mutant::ForgetsTouchedSince) => {}
            Bits::Touched => disk.cutting.touched_since |= seen,
        }
        state.agent.step = Step::Slots(bits);
    }

    fn slots(&mut self, state: &mut State, bits: Bits) {
        let disk = &mut state.disks[state.agent.disk];
        if self.scenario.is(Mutant::ClearsBeforePending) {
            disk.pending |= disk.drained.dirty | disk.drained.touched;
        }
        let (filled, in_table) = (disk.filled(), disk.in_table());
        if filled == 0 {
            self.carry(state, bits, false);
        } else {
            (state.agent.seen, state.agent.step) = (filled, Step::Idle(bits));
            state.agent.seen_in_flight = self.blocks(state.agent.disk, in_table);
        }
    }

    fn carry(&mut self, state: &mut State, bits: Bits, idle: bool) {
        let filled = std::mem::take(&mut state.agent.seen);
        let in_flight = std::mem::take(&mut state.agent.seen_in_flight);
        let disk = &mut state.disks[state.agent.disk];
        disk.ended = if idle { filled } else { disk.ended & filled };
        disk.pending |= in_flight;
        if !self.scenario.is(Mutant::CarriesNothing) {
            disk.carried |= in_flight;
        }
        match (state.agent.way, bits) {
            (Way::T0, _) => self.took_first(state),
            (_, Bits::Dirty) => state.agent.step = Step::Summary(Bits::Touched),
            (_, Bits::Touched) => state.agent.step = Step::Account,
        }
    }

    /// A drain of a disk is over.
    fn drained(&mut self, state: &mut State) {
        let d = state.agent.disk;
        if state.agent.way == Way::Drain {
            return self.drained_in_cut(state);
        }
        let taken = std::mem::take(&mut state.disks[d].drained);
        absorb(&mut state.disks[d], taken);
        if d + 1 < DISKS {
            (state.agent.disk, state.agent.step) = (d + 1, Step::Summary(Bits::Dirty));
            return;
        }
        for (disk, left) in state.disks.iter_mut().zip(&mut state.agent.left) {
            *left = disk.knows.owed | disk.knows.open;
            disk.knows.owed = 0;
            disk.knows.recent |= *left;
        }
        self.read_next(state);
    }

    fn read(&mut self, state: &mut State, half: usize) {
        let (d, block) = (state.agent.disk, state.agent.block);
        let disk = &mut state.disks[d];
        let into = if state.agent.way == Way::Pass { &mut disk.copy } else { &mut disk.cutting.content };
        into[block][half] = disk.medium[block][half];
        match half {
            0 => state.agent.step = Step::Read(1),
            _ if state.agent.way == Way::Pass || self.scenario.is(Mutant::ValidatesBeforeRead) => {
                self.read_next(state);
            }
            _ => state.agent.step = Step::LookDirty,
        }
    }

    /// On to the next block: those that a cut reads first, then the others.
    pub(crate) fn read_next(&mut self, state: &mut State) {
        let cut = state.agent.way == Way::Cut;
        let first = |d: usize| if cut { self.cuts.view(state.disks[d].cutting.cut).read_first } else { 0 };
        let left = state.agent.left;
        let hot = (0..DISKS).find(|&d| left[d] & first(d) != 0).map(|d| (d, left[d] & first(d)));
        let Some((d, blocks)) = hot.or_else(|| (0..DISKS).find(|&d| left[d] != 0).map(|d| (d, left[d])))
        else {
            if cut {
                (state.agent.disk, state.agent.block, state.agent.step) = (0, 0, Step::RoundOver);
            } else {
                self.end_phase(state);
            }
            return;
        };
        let block = blocks.trailing_zeros() as usize;
        debug_assert!(block < BLOCKS);
        state.agent.left[d] &= !(1 << block);
        (state.agent.disk, state.agent.block) = (d, block);
        let early = cut && self.scenario.is(Mutant::ValidatesBeforeRead);
        state.agent.step = if early { Step::LookDirty } else { Step::Read(0) };
    }
}

/// The engine takes in what was drained.
pub(crate) fn absorb(disk: &mut Disk, taken: Taken) {
    let knows = &mut disk.knows;
    knows.settled |= (knows.open | taken.touched) & taken.dirty;
    knows.open = (knows.open & !taken.dirty) | (taken.touched & !taken.dirty);
    let fading = std::mem::take(&mut knows.fading);
    if taken.missed_completion {
        knows.owed |= knows.settled | knows.open | fading;
    }
    if taken.idle {
        knows.owed |= std::mem::take(&mut knows.open);
        knows.fading = std::mem::take(&mut knows.settled);
        if knows.unseen {
            // The engine knows more exactly which of them were read meanwhile.
            knows.owed |= knows.recent;
        }
        (knows.recent, knows.inherited) = (0, false);
    }
    knows.owed |= taken.dirty;
    knows.unseen = taken.missed_issue || (knows.unseen && !taken.idle);
}
