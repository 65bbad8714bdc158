//! Agents that are wrong on purpose. Each makes one mistake that somebody could make one day, in what the shell does or in
//! what the engine gets told; the simulation has to notice each.
//!
//! Deliberately not here: any switch in the product's own code.

use mobility_tests::dice::Dice;

use crate::plan::Plan;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// `pending` is cleared when the epoch is handed in, not when it is durable.
    ClearsPendingBeforeCommit,
    /// `pending` is emptied after a commit, whatever the engine says is still owed.
    SettlesEverything,
    /// What was touched and is not dirty is not told.
    NoSuspects,
    /// A cut is called consistent without looking at the marks again.
    NoValidation,
    /// Marks are taken after the blocks were read.
    DrainsAfterRead,
    /// Missed completions are not told.
    IgnoresMissedCompletions,
    /// Missed issues are not told, nor looked for when a cut is validated.
    IgnoresMissedIssues,
    /// Writes without a place are not told.
    IgnoresPassthrough,
    /// What could not be read is said to have been.
    HidesUnread,
    /// A refused commit is taken for a success.
    RefusedIsSuccess,
    /// A commit that fails in any way is taken for a success.
    CommitFaultIsSuccess,
    /// An upload that failed is taken for a success.
    UploadFaultIsSuccess,
    /// Nobody looks at what is in flight at a cut.
    IgnoresInFlight,
    /// After a kill what was pending is not taken up.
    ForgetsPending,
    /// After a reboot the old bitmaps are believed.
    BelievesOldMarks,
    /// A tracker that starts has nothing pending until the agent says so, a moment later.
    StartsUnmarked,
    /// Two scans are always said to agree.
    NoConfirmation,
    /// The audit finds nothing.
    BlindAudit,
    /// Blocks beyond the old end are not marked when a disk grows.
    ForgetsGrowth,
    /// Marks are cleared first and noted as pending after.
    ClearsMarksBeforePending,
    /// Segments are made without regard to how many wait.
    NoBackPressure,
}

impl Mutant {
    /// Makes sure that what it does wrong is asked of it.
    pub(crate) fn provoke(self, plan: &mut Plan, rng: &mut Dice) {
        const SECOND: u64 = 1_000_000;
        match self {
            Mutant::NoSuspects if plan.calm() => plan.lost_completions = 100,
            Mutant::DrainsAfterRead => plan.think = rng.magnitude(500, 5_000),
            Mutant::IgnoresMissedCompletions => {
                (plan.missed_completions, plan.lost_completions, plan.blind) = (100, 0, 0);
            }
            Mutant::IgnoresMissedIssues => (plan.missed_issues, plan.blind) = (20, 0),
            Mutant::IgnoresPassthrough => (plan.passthrough, plan.blind) = (5, 0),
            Mutant::HidesUnread => plan.read_faults = Some(SECOND),
            Mutant::RefusedIsSuccess => plan.corruption = 50,
            Mutant::CommitFaultIsSuccess => plan.commit_faults = 200,
            Mutant::UploadFaultIsSuccess => plan.upload_faults = 200,
            Mutant::ClearsPendingBeforeCommit
            | Mutant::SettlesEverything
            | Mutant::ClearsMarksBeforePending => {
                (plan.kills, plan.blind) = (Some(SECOND), 0);
                (plan.reboots, plan.lost_completions) = (0, 0);
            }
            Mutant::ForgetsPending => (plan.kills, plan.reboots) = (Some(SECOND), 0),
            Mutant::StartsUnmarked => (plan.kills, plan.reboots) = (Some(SECOND), 500),
            Mutant::BelievesOldMarks => (plan.kills, plan.reboots) = (Some(5 * SECOND), 800),
            Mutant::BlindAudit => plan.blind = 20,
            Mutant::ForgetsGrowth => plan.growth = Some(SECOND),
            _ => {}
        }
    }
}

pub(crate) const ALL: &[Mutant] = &[
    Mutant::ClearsPendingBeforeCommit,
    Mutant::SettlesEverything,
    Mutant::NoSuspects,
    Mutant::NoValidation,
    Mutant::DrainsAfterRead,
    Mutant::IgnoresMissedCompletions,
    Mutant::IgnoresMissedIssues,
    Mutant::IgnoresPassthrough,
    Mutant::HidesUnread,
    Mutant::RefusedIsSuccess,
    Mutant::CommitFaultIsSuccess,
    Mutant::UploadFaultIsSuccess,
    Mutant::IgnoresInFlight,
    Mutant::ForgetsPending,
    Mutant::BelievesOldMarks,
    Mutant::StartsUnmarked,
    Mutant::NoConfirmation,
    Mutant::BlindAudit,
    Mutant::ForgetsGrowth,
    Mutant::ClearsMarksBeforePending,
    Mutant::NoBackPressure,
];
