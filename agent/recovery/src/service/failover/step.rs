//! What a failover is made of. Each step can be done again at any time, as often as it takes.
//!
//! Deliberately not here: how one is done (`steps`), and which comes after which failure (`record`).

use serde::{Deserialize, Serialize};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// See that the place can take the machine.
    CheckPlace,
    /// Have whatever writes on the machine at the source stopped, and take in its last point.
    HaltSource,
    /// Have the machine at the source switched off.
    SwitchOffSource,
    /// See to it that no agent goes on with the machine's identity that should not.
    HoldMachine,
    /// Choose the point, and keep it from going.
    ChoosePoint,
    /// Write the disks as of the point, and read back what was written.
    RestoreDisks,
    /// Look at what was restored, and mend what would keep it from starting where it is now.
    MendDisks,
    /// Make the machine and its network, of the disks.
    MakeMachine,
    /// Switch it on.
    StartMachine,
    /// See that it comes up.
    WatchBoot,
    /// Switch it off.
    StopMachine,
    /// Remove it with its disks, its network, and whatever else was made.
    RemoveMachine,
    /// Let the agents go on that went on before.
    ReleaseMachine,
    /// Let the machine at the source go on that was told to stop.
    ReturnSource,
    /// The point may go as its policy says.
    LetPointGo,
    /// Let the agent in the machine at the target go on, and the one before it never again.
    AdmitMachine,
    /// See that it makes points.
    WaitForPoint,
}

impl Step {
    /// From nothing to a machine at the target.
    pub(super) const WHOLE: [Step; 8] = [
        Step::CheckPlace,
        Step::HoldMachine,
        Step::ChoosePoint,
        Step::RestoreDisks,
        Step::MendDisks,
        Step::MakeMachine,
        Step::StartMachine,
        Step::WatchBoot,
    ];
    /// The same where the machine at the source is stopped before, so that nothing is lost. The place is checked before the machine is
    /// touched.
    pub(super) const PLANNED: [Step; 10] = [
        Step::CheckPlace,
        Step::HaltSource,
        Step::SwitchOffSource,
        Step::HoldMachine,
        Step::ChoosePoint,
        Step::RestoreDisks,
        Step::MendDisks,
        Step::MakeMachine,
        Step::StartMachine,
        Step::WatchBoot,
    ];
    /// From a machine at the target to another one.
    pub(super) const ANEW: [Step; 9] = [
        Step::StopMachine,
        Step::RemoveMachine,
        Step::HoldMachine,
        Step::ChoosePoint,
        Step::RestoreDisks,
        Step::MendDisks,
        Step::MakeMachine,
        Step::StartMachine,
        Step::WatchBoot,
    ];
    /// From anything to nothing.
    pub(super) const UNDONE: [Step; 4] =
        [Step::StopMachine, Step::RemoveMachine, Step::ReleaseMachine, Step::LetPointGo];

    /// The same where the machine at the source was stopped: its agent hears of nothing before it is released.
    pub(super) const UNDONE_PLANNED: [Step; 5] =
        [Step::StopMachine, Step::RemoveMachine, Step::ReleaseMachine, Step::ReturnSource, Step::LetPointGo];

    /// From a machine that was the real one to nothing. Where it never replicated, the one before it may go on.
    pub(super) const REMOVED: [Step; 3] = [Step::StopMachine, Step::RemoveMachine, Step::ReleaseMachine];

    /// What it is called, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::CheckPlace => "check the place",
            Step::HaltSource => "stop what writes on the machine",
            Step::SwitchOffSource => "switch the machine off",
            Step::HoldMachine => "hold the machine's identity",
            Step::ChoosePoint => "choose the point",
            Step::RestoreDisks => "restore the disks",
            Step::MendDisks => "mend the disks",
            Step::MakeMachine => "make the machine",
            Step::StartMachine => "start the machine",
            Step::WatchBoot => "watch it boot",
            Step::StopMachine => "stop the machine",
            Step::RemoveMachine => "remove the machine",
            Step::ReleaseMachine => "release the machine's identity",
            Step::ReturnSource => "let the machine go on",
            Step::LetPointGo => "let the point go",
            Step::AdmitMachine => "admit the machine at the target",
            Step::WaitForPoint => "wait for its first point",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_made_in_the_same_way_however_it_came_to_that() {
        let from_holding = |steps: &[Step]| {
            let begin = steps.iter().position(|&step| step == Step::HoldMachine).unwrap();
            steps[begin..].to_vec()
        };
        let whole = from_holding(&Step::WHOLE);
        assert_eq!(whole.len(), Step::WHOLE.len() - 1);
        assert_eq!(from_holding(&Step::PLANNED), whole);
        assert_eq!(from_holding(&Step::ANEW), whole);
    }
}
