//! The engine's `CutDisk`, the real one, behind numbers: each of its values that was ever reached is kept once, and what it
//! answers to the same question is asked once.
//!
//! So a state of the model is a few bytes, and the sets of blocks are built only where something new happens. Deliberately not
//! here: what the questions mean.

use std::collections::HashMap;

use mobility_engine::{CutDisk, CutPlan, Drained};
use mobility_format::{BlockIndex, BlockSet};

use crate::state::{Blocks, Known, Taken};

fn set(blocks: Blocks) -> BlockSet {
    (0..8).filter(|block| blocks >> block & 1 == 1).map(BlockIndex).collect()
}

fn bits(set: &BlockSet) -> Blocks {
    set.words().fold(0, |bits, (_, word)| bits | word as Blocks)
}

fn drained(taken: Taken) -> Drained {
    Drained {
        dirty: set(taken.dirty),
        touched: set(taken.touched),
        idle: taken.idle,
        completion_missed: taken.missed_completion,
        issue_missed: taken.missed_issue,
        unknown: None,
    }
}

/// A question to a cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    New(Known),
    Taken(u16, Taken, Blocks),
    Settled(u16, Blocks, Blocks, Blocks, bool),
    NextRound(u16, Taken, Blocks),
    Concerned(u16, Blocks),
    Conflicts(u16, Blocks, Blocks),
}

/// What can be asked at any time.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) to_read: Blocks,
    pub(crate) read_first: Blocks,
    pub(crate) read: Blocks,
    pub(crate) must_settle: bool,
}

/// All values of `CutDisk` so far. Number 0 is none.
#[derive(Default)]
pub(crate) struct Cuts {
    values: Vec<(CutDisk, View)>,
    numbers: HashMap<String, u16>,
    answers: HashMap<Question, (u16, u8)>,
}

impl Cuts {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    fn number(&mut self, cut: CutDisk) -> u16 {
        let next = u16::try_from(self.values.len() + 1).expect("a scenario so large has to be made smaller");
        // All of its fields are in what it prints.
        let number = *self.numbers.entry(format!("{cut:?}")).or_insert(next);
        if number == next {
            let view = View {
                to_read: bits(cut.to_read()),
                read_first: bits(&cut.read_first()),
                read: bits(&cut.read()),
                must_settle: cut.must_settle(),
            };
            self.values.push((cut, view));
        }
        number
    }

    fn cut(&self, number: u16) -> CutDisk {
        self.values[usize::from(number) - 1].0.clone()
    }

    pub(crate) fn view(&self, number: u16) -> View {
        self.values[usize::from(number) - 1].1
    }

    fn ask(&mut self, question: Question, answer: impl FnOnce(&mut Cuts) -> (u16, u8)) -> (u16, u8) {
        if let Some(known) = self.answers.get(&question) {
            return *known;
        }
        let found = answer(self);
        self.answers.insert(question, found);
        found
    }

    /// As the engine's `Disk::cut_plan`.
    pub(crate) fn begin(&mut self, known: Known) -> u16 {
        let plan = || CutPlan {
            owed: set(known.owed),
            suspects: set(known.open),
            recent: set(known.recent),
            lately: set(known.settled | known.fading),
            unseen: known.unseen,
            inherited: known.inherited,
            ..CutPlan::default()
        };
        self.ask(Question::New(known), |cuts| (cuts.number(CutDisk::new(plan())), 0)).0
    }

    pub(crate) fn taken(&mut self, cut: u16, taken: Taken, in_flight: Blocks) -> u16 {
        let answer = |cuts: &mut Cuts| {
            let mut cut = cuts.cut(cut);
            cut.taken(&drained(taken), &set(in_flight));
            (cuts.number(cut), 0)
        };
        self.ask(Question::Taken(cut, taken, in_flight), answer).0
    }

    pub(crate) fn settled(
        &mut self,
        cut: u16,
        (in_flight, dirty, touched): (Blocks, Blocks, Blocks),
        idle: bool,
    ) -> (u16, bool) {
        let answer = |cuts: &mut Cuts| {
            let mut cut = cuts.cut(cut);
            let settled = cut.settled(&set(in_flight), &set(dirty), &set(touched), idle);
            (cuts.number(cut), u8::from(settled))
        };
        let (cut, settled) = self.ask(Question::Settled(cut, in_flight, dirty, touched, idle), answer);
        (cut, settled == 1)
    }

    pub(crate) fn next_round(&mut self, cut: u16, taken: Taken, conflicts: Blocks) -> u16 {
        let answer = |cuts: &mut Cuts| {
            let mut cut = cuts.cut(cut);
            cut.next_round(&drained(taken), &set(conflicts));
            (cuts.number(cut), 0)
        };
        self.ask(Question::NextRound(cut, taken, conflicts), answer).0
    }

    pub(crate) fn concerned(&mut self, cut: u16, touched: Blocks) -> Blocks {
        let answer = |cuts: &mut Cuts| (0, bits(&cuts.cut(cut).concerned(&set(touched))));
        self.ask(Question::Concerned(cut, touched), answer).1
    }

    pub(crate) fn conflicts(&mut self, cut: u16, touched: Blocks, dirty: Blocks) -> Blocks {
        let answer = |cuts: &mut Cuts| (0, bits(&cuts.cut(cut).conflicts(&set(touched), &set(dirty))));
        self.ask(Question::Conflicts(cut, touched, dirty), answer).1
    }
}
