//! The file systems of the protected disks, ready to be frozen for a cut: found, opened, flushed.
//!
//! Deliberately not here: freezing itself and its guard (`mobility_capture::freeze`), and when it is done.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mobility_capture::{
    disk::Disk,
    freeze::{
        FileSystems, FreezeError, Freezer, Frozen, GuardProgram, Held, Leftover, LeftoverOutcome, Skipped,
        file_systems, lock_memory, thaw_leftovers,
    },
};
use mobility_engine::Verdict;
use mobility_format::MachineId;

use crate::{
    log::{self, HeldBack},
    state_file::State,
};

/// How the name of a record of what is frozen ends.
const RECORD: &str = "frozen";

/// Thaws what agents that are gone left frozen. Has to come before anything else, for that might wait for the thaw. Returns how
/// many could not be thawed.
pub(crate) fn thaw_what_was_left(runtime_dir: &Path) -> usize {
    let mut failed = 0;
    // A directory that is not there or cannot be read has no records.
    let states = State::read_all(runtime_dir).unwrap_or_default();
    for entry in fs::read_dir(runtime_dir).into_iter().flatten().flatten() {
        let record = entry.path();
        let machine = record.file_stem().and_then(|stem| stem.to_str()?.parse::<MachineId>().ok());
        if record.extension().is_none_or(|extension| extension != RECORD) {
            continue;
        }
        // The freeze of an agent that runs is its own to end.
        if !states.iter().any(|state| Some(state.machine) == machine && state.is_running()) {
            let left = thaw_leftovers(&record);
            left.iter().for_each(report);
            failed += left.iter().filter(|left| matches!(left.outcome, LeftoverOutcome::Failed(_))).count();
        }
    }
    failed
}

/// What can be frozen.
#[derive(Debug)]
pub(crate) struct Freezing {
    freezer: Option<Freezer>,
    record: PathBuf,
    found: FileSystems,
    /// Why nothing can be frozen at present.
    problem: Option<FreezeError>,
    /// What was said last about file systems that are left out.
    said: Vec<String>,
}

/// A freeze of the agent's, during which its log is held back.
#[derive(Debug)]
pub(crate) struct Holding<'a> {
    // In this order: thawed first, then what was held back is written.
    frozen: Frozen<'a>,
    log: HeldBack,
}

impl Holding<'_> {
    pub(crate) fn thaw(self) -> Held {
        let held = self.frozen.thaw();
        drop(self.log);
        held
    }
}

impl Freezing {
    /// Nothing is frozen yet; the record of `machine` in `runtime_dir` will say what is.
    pub(crate) fn new(runtime_dir: &Path, machine: MachineId) -> Freezing {
        let record = runtime_dir.join(format!("{machine}.{RECORD}"));
        let found = FileSystems::default();
        Freezing { freezer: None, record, found, problem: None, said: Vec::new() }
    }

    /// Finds the file systems on `disks`, and has them written out.
    pub(crate) fn prepare(&mut self, disks: &[Disk]) {
        self.found = file_systems(&disks.iter().collect::<Vec<_>>());
        let said: Vec<_> = self.found.skipped.iter().map(ToString::to_string).collect();
        if said != self.said {
            said.iter().for_each(|line| tracing::info!("{line}"));
            self.said = said;
        }
        self.problem = self.flush().err();
    }

    fn flush(&mut self) -> Result<(), FreezeError> {
        if self.found.to_freeze.is_empty() {
            return Ok(());
        }
        let freezer = match &mut self.freezer {
            Some(freezer) => freezer,
            none => none.insert(start(&self.record)?),
        };
        freezer.hold(&self.found.to_freeze)?;
        let flushed = freezer.sync();
        // Until the cut they may be unmounted, and there may be no cut.
        freezer.release();
        flushed
    }

    /// Whether nothing on the disks is written while what can be frozen is.
    pub(crate) fn holds_everything(&self) -> bool {
        !self.found.skipped.iter().any(Skipped::is_written_to)
    }

    /// Has the file systems written out once more, so that freezing them has less to write. What is wrong with them is said
    /// when they are frozen.
    pub(crate) fn write_out(&mut self) {
        if self.problem.is_none() {
            self.problem = self.flush().err();
        }
    }

    /// Freezes, for `limit` at most.
    pub(crate) fn freeze(&mut self, limit: Duration) -> Result<Holding<'_>, Verdict> {
        if let Some(problem) = &self.problem {
            return Err(Verdict::NotFrozen(problem.to_string()));
        }
        let Some(freezer) = self.freezer.as_mut().filter(|_| !self.found.to_freeze.is_empty()) else {
            return Err(Verdict::NothingToFreeze);
        };
        let held = freezer.hold(&self.found.to_freeze);
        let log = log::hold_back();
        match held.and_then(|()| freezer.freeze(limit)) {
            Ok(frozen) => Ok(Holding { frozen, log }),
            Err(FreezeError::Nothing) => Err(Verdict::NothingToFreeze),
            Err(err) => Err(Verdict::NotFrozen(err.to_string())),
        }
    }

    /// Lets go of the file systems, so that they can be unmounted.
    pub(crate) fn release(&mut self) {
        if let Some(freezer) = &mut self.freezer {
            freezer.release();
        }
    }
}

/// Starts a guard. What weakens a freeze without making it unsafe is logged.
fn start(record: &Path) -> Result<Freezer, FreezeError> {
    // Before the guard is there, which has memory of its own.
    if let Err(err) = lock_memory() {
        tracing::warn!("the agent's memory may be swapped out: {err}; frozen cuts may take longer");
    }
    let freezer = Freezer::new(GuardProgram::this_program(), record)?;
    let lacks = freezer.protection().map(|protection| protection.lacks()).unwrap_or_default();
    if !lacks.is_empty() {
        tracing::warn!(
            "the guard of frozen file systems is less protected than it should be, it lacks {}",
            lacks.join(", ")
        );
    }
    Ok(freezer)
}

fn report(leftover: &Leftover) {
    let point = leftover.point.display();
    match &leftover.outcome {
        LeftoverOutcome::Thawed => {
            tracing::warn!("{point} was left frozen by an earlier agent and its guard; it is thawed");
        }
        LeftoverOutcome::Failed(err) => {
            tracing::error!(
                "{point} may have been left frozen, and cannot be thawed: {err}; try `fsfreeze --unfreeze`"
            );
        }
        _ => tracing::debug!("{point} had been frozen by an earlier agent, and is not any more"),
    }
}
