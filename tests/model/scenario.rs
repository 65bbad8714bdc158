//! What is checked: a few writes, what the agent does meanwhile, and which mistake it makes on purpose.
//!
//! Deliberately not here: how any of it goes on step by step (`kernel`, `agent`, `cut`).

/// The most disks, blocks of a disk, and writes of a scenario.
pub(crate) const DISKS: usize = 2;
pub(crate) const BLOCKS: usize = 3;
pub(crate) const WRITES: usize = 5;

/// Which of the tracker's programs may not run for a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Loss {
    #[default]
    None,
    /// The one at completion, and nobody knows.
    Completion,
    /// The one at completion, and the kernel counts it.
    CountedCompletion,
    /// The one at issue, and the kernel counts it.
    CountedIssue,
}

impl Loss {
    pub(crate) fn is_of_completion(self) -> bool {
        matches!(self, Loss::Completion | Loss::CountedCompletion)
    }
}

/// A write of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) disk: usize,
    pub(crate) block: usize,
    /// Writes in flight at the same time have different ones.
    pub(crate) tag: usize,
    /// The write that its writer has to know to be complete before it issues this one.
    pub(crate) after: Option<usize>,
    pub(crate) loss: Loss,
}

/// A write by a writer that does nothing else: its tag is its number among those.
pub(crate) const fn write(disk: usize, block: usize, tag: usize) -> Write {
    Write { disk, block, tag, after: None, loss: Loss::None }
}

impl Write {
    pub(crate) const fn after(self, write: usize) -> Write {
        Write { after: Some(write), ..self }
    }

    pub(crate) const fn loses(self, loss: Loss) -> Write {
        Write { loss, ..self }
    }
}

/// What the agent does, one after the other. At the end, when all writes have completed, it makes one more cut, which has to
/// succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Drains all disks, then reads what is owed without looking whether it changes.
    Pass,
    /// Cuts, in so many rounds at most.
    Cut(u8),
    /// The agent was killed, at any step before, and another one takes up the tracker.
    Restart,
}

/// A mistake that somebody could make one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nobody looks at the marks after the read.
    NoValidation,
    /// After the read only completions are looked at.
    LooksAtDirtyAlone,
    /// The marks are taken out once more after the read, and forgotten.
    DrainsAfterRead,
    /// `dirty` is taken first, and `touched` after it.
    TakesTouchedLast,
    /// What is taken of `touched` along with `dirty`, after `t0`, is forgotten.
    ForgetsTouchedSince,
    /// Nobody looks at what is in flight.
    IgnoresInFlight,
    /// What is in flight is looked at when `dirty` has been taken.
    LooksInFlightLast,
    /// The marks are looked at before the read.
    ValidatesBeforeRead,
    /// The next round is not told what conflicted.
    NextForgetsConflicts,
    /// The next round is not told what this one took of `touched`.
    NextForgetsTouched,
    /// When the wait ends, only what is to be read anyway is looked up, not what passes have read.
    SettledIgnoresRecent,
    /// What was in flight when a bitmap was taken is not reported as dirty the next time.
    CarriesNothing,
    /// The kernel's program marks a block touched when the device already has the write.
    TouchesTooLate,
    /// `dirty` is cleared before its bits are noted as pending.
    ClearsBeforePending,
}

/// For how long the kernel counts a write as in flight (`/sys/block/<disk>/inflight`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// From before the program at issue runs until the device has written it; the program at completion runs some time later.
    UntilWritten,
    /// From before the program at issue runs until the program at completion has marked it.
    UntilMarked,
    /// From some time after the program at issue has run, until the device has written it.
    Late,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) writes: &'static [Write],
    pub(crate) phases: &'static [Phase],
    /// Whether a bit and its bit in the summary are set and cleared one after the other, as they are, or at once.
    pub(crate) summary: bool,
    pub(crate) counted: Counted,
    /// Whether each step is tried in every order, also where it makes no difference (`alone`).
    pub(crate) in_full: bool,
    /// The agent has just started: it knows nothing of what an earlier run of it read, and when.
    pub(crate) inherited: bool,
    /// Whether a write may not even slip through where the engine's `cut` says that it can.
    pub(crate) strict: bool,
    pub(crate) mutant: Option<Mutant>,
}

impl Scenario {
    pub(crate) const fn new(
        name: &'static str,
        writes: &'static [Write],
        phases: &'static [Phase],
    ) -> Scenario {
        Scenario {
            name,
            writes,
            phases,
            summary: false,
            counted: Counted::UntilWritten,
            inherited: false,
            in_full: false,
            strict: false,
            mutant: None,
        }
    }

    pub(crate) const fn with_summary(self) -> Scenario {
        Scenario { summary: true, ..self }
    }

    pub(crate) const fn inherited(self) -> Scenario {
        Scenario { inherited: true, ..self }
    }

    pub(crate) const fn counted(self, counted: Counted) -> Scenario {
        Scenario { counted, ..self }
    }

    pub(crate) const fn in_full(self) -> Scenario {
        Scenario { in_full: true, ..self }
    }

    pub(crate) const fn strict(self) -> Scenario {
        Scenario { strict: true, ..self }
    }

    pub(crate) const fn broken(self, mutant: Mutant) -> Scenario {
        Scenario { mutant: Some(mutant), ..self }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}
