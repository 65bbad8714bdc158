//! The state of the whole model at one moment: device, kernel side, agent. Small, without pointers, and free of what does
//! not matter any more, so that two ways to the same state are recognised as such.
//!
//! Sets of blocks and of writes are bits. What half a block holds is the number of the write that it came from, counted from 1.
//! Deliberately not here: how it changes.

use crate::scenario::{BLOCKS, DISKS, WRITES};

/// A set of blocks of one disk.
pub(crate) type Blocks = u8;
/// A set of writes.
pub(crate) type Writes = u8;
/// What the two halves of a block hold.
pub(crate) type Halves = [u8; 2];

pub(crate) const ALL: Blocks = (1 << BLOCKS) - 1;
/// Instead of a half: nothing was read.
pub(crate) const UNREAD: u8 = 0xff;
pub(crate) const NOTHING_READ: [Halves; BLOCKS] = [[UNREAD; 2]; BLOCKS];

/// How far a write has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    #[default]
    New,
    /// It is in the table of writes in flight.
    Departed,
    /// Its block is touched, and the summary does not say so yet.
    Touched,
    /// The program at issue has run.
    Issued,
    /// The device has it.
    Given,
    /// Its block is dirty, and the summary does not say so yet.
    Marked,
    /// Its block is dirty.
    Summed,
    /// Its writer knows that it is complete.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bits {
    Touched,
    Dirty,
}

/// What the agent does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Begins the next phase.
    Begin,
    /// `Bitmap::take`: clears the summary, reads the bits, clears them.
    Summary(Bits),
    Load(Bits),
    Clear(Bits),
    /// `Tracker::carry`: looks what is in flight, then whether anything is.
    Slots(Bits),
    Idle(Bits),
    /// Looks what is in flight before `dirty` is taken.
    Look,
    /// The end of a drain: the counters, then whether anything is in flight.
    Account,
    SeeIdle,
    /// `Cutting::settled`.
    SettleIdle,
    SettleSlots,
    SettleDirty,
    SettleTouched,
    /// Writes are still in flight that have to be waited for.
    Unsettled,
    /// Reads half a block.
    Read(usize),
    /// `Cutting::take`.
    LookDirty,
    LookTouched,
    RoundOver,
    Ended,
}

/// On which way the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Pass,
    /// Step 1 of a cut.
    T0,
    /// Step 2.
    Drain,
    /// Steps 3 to 5.
    Cut,
}

/// One disk: medium, tracker, and what the agent knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) medium: [Halves; BLOCKS],
    /// Which writes reached a block, in their order: three bits each, the last one lowest.
    pub(crate) order: [u16; BLOCKS],
    /// The tracker, in the kernel's memory.
    pub(crate) dirty: Blocks,
    pub(crate) touched: Blocks,
    pub(crate) pending: Blocks,
    pub(crate) dirty_sum: bool,
    pub(crate) touched_sum: bool,
    /// The table of writes in flight: by tag, a write counted from 1.
    pub(crate) slots: [u8; WRITES],
    /// Runs that were skipped at issue and at completion and have not been accounted for.
    pub(crate) missed_issue: bool,
    pub(crate) missed_completion: bool,
    /// The tracker, in the agent's memory.
    pub(crate) ended: Writes,
    pub(crate) carried: Blocks,
    /// What is being sent, and what is durable.
    pub(crate) copy: [Halves; BLOCKS],
    pub(crate) durable: [Halves; BLOCKS],
    pub(crate) knows: Known,
    pub(crate) drained: Taken,
    pub(crate) cutting: Cutting,
}

/// What the engine knows of a disk between cuts (`engine/src/disk.rs`, `suspects.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) owed: Blocks,
    pub(crate) open: Blocks,
    pub(crate) settled: Blocks,
    pub(crate) fading: Blocks,
    pub(crate) recent: Blocks,
    pub(crate) unseen: bool,
    pub(crate) inherited: bool,
}

/// What was taken from the tracker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Taken {
    pub(crate) dirty: Blocks,
    pub(crate) touched: Blocks,
    pub(crate) idle: bool,
    pub(crate) missed_issue: bool,
    pub(crate) missed_completion: bool,
}

/// The shell's part of a cut of a disk (`daemon/src/replicate/cut/disk.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cutting {
    /// The engine's part, in `cuts::Cuts`.
    pub(crate) cut: u16,
    pub(crate) recent: Blocks,
    pub(crate) concerned: Blocks,
    pub(crate) in_flight: Blocks,
    pub(crate) touched_since: Blocks,
    pub(crate) conflicts: Blocks,
    /// Skipped runs at issue since the cut began.
    pub(crate) missed: bool,
    pub(crate) content: [Halves; BLOCKS],
}

impl Default for Cutting {
    fn default() -> Self {
        Cutting {
            cut: 0,
            recent: 0,
            concerned: 0,
            in_flight: 0,
            touched_since: 0,
            conflicts: 0,
            missed: false,
            content: NOTHING_READ,
        }
    }
}

impl Disk {
    fn new(inherited: bool) -> Disk {
        let recent = if inherited { ALL } else { 0 };
        Disk {
            medium: [[0; 2]; BLOCKS],
            order: [0; BLOCKS],
            dirty: 0,
            touched: 0,
            pending: 0,
            dirty_sum: false,
            touched_sum: false,
            slots: [0; WRITES],
            missed_issue: false,
            missed_completion: false,
            ended: 0,
            carried: 0,
            copy: [[0; 2]; BLOCKS],
            durable: [[0; 2]; BLOCKS],
            knows: Known { recent, inherited, ..Known::default() },
            drained: Taken::default(),
            cutting: Cutting::default(),
        }
    }

    /// The writes in the table that are not known to have ended.
    pub(crate) fn in_table(&self) -> Writes {
        self.filled() & !self.ended
    }

    pub(crate) fn filled(&self) -> Writes {
        self.slots.iter().filter(|slot| **slot > 0).fold(0, |writes, slot| writes | 1 << (slot - 1))
    }
}

/// Where the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Agent {
    pub(crate) phase: usize,
    pub(crate) round: u8,
    pub(crate) way: Way,
    pub(crate) step: Step,
    pub(crate) disk: usize,
    pub(crate) block: usize,
    /// What the last step has seen, for the next one.
    pub(crate) seen: u8,
    pub(crate) seen_in_flight: Blocks,
    pub(crate) seen_dirty: Blocks,
    /// What is still to be read.
    pub(crate) left: [Blocks; DISKS],
    /// Of the last `t0`: what had been issued, and what had completed.
    pub(crate) issued: Writes,
    pub(crate) completed: Writes,
    /// Writes that were issued while `touched` was being taken, in this round.
    pub(crate) between: Writes,
}

/// All of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) stages: [Stage; WRITES],
    /// Which halves of it the device has written.
    pub(crate) halves: [u8; WRITES],
    pub(crate) lost: Writes,
    pub(crate) disks: [Disk; DISKS],
    pub(crate) agent: Agent,
}

impl State {
    pub(crate) fn new(inherited: bool) -> State {
        State {
            stages: [Stage::New; WRITES],
            halves: [0; WRITES],
            lost: 0,
            disks: [Disk::new(inherited); DISKS],
            agent: Agent {
                phase: 0,
                round: 0,
                way: Way::Pass,
                step: Step::Begin,
                disk: 0,
                block: 0,
                seen: 0,
                seen_in_flight: 0,
                seen_dirty: 0,
                left: [0; DISKS],
                issued: 0,
                completed: 0,
                between: 0,
            },
        }
    }
}
