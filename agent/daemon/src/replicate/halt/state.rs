//! What is known of a machine's stop for a failover: how far it is, and what an agent that is killed has to know of it.
//!
//! Deliberately not here: what is done (`halt`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use mobility_capture::boot::boot_id;
use mobility_engine::{CutPolicy, Limits};
use mobility_format::{
    MachineId,
    control::{CommandId, CommandResult},
};
use serde::{Deserialize, Serialize};

use crate::clock;

/// After so long a machine that is halted goes on by itself.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// How long a run waits for commands before it repeats what an earlier one may have answered: they come at once, and `go-on` first.
const LISTENS: Duration = Duration::from_secs(30);
/// What the service is told of a machine that is switched off.
pub(super) const GOES_OFF: &str = "the machine switches itself off";
/// The version of the note.
const VERSION: u32 = 2;
/// Why no more points are made.
const LAST_WAS_MADE: &str =
    "the machine is being failed over, and its last point was made: cancel the failover first";

/// What has to be known after a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// Another boot has started everything again.
    boot: String,
    failover: String,
    since: Timestamp,
    /// The last point was made.
    halted: bool,
    /// The service may have been told, in answer to this command, that the machine is switched off.
    announced: Option<CommandId>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Everything runs, or did so before this run of the agent.
    #[default]
    Runs,
    Stopping,
    LastPoint,
    Halted,
    /// The answer to this command says that the machine is switched off now.
    Announced(CommandId),
    GoingOff,
}

/// The machine's stop for a failover, if there is one.
#[derive(Debug)]
pub(crate) struct Halt {
    pub(super) file: PathBuf,
    loaded: Instant,
    note: Option<Note>,
    pub(super) stage: Stage,
    /// Commands to halt that wait for the last point.
    pub(super) waiting: Vec<CommandId>,
    /// Commands to go on that wait for what is being stopped.
    pub(super) returning: Vec<CommandId>,
    pub(super) cancel: Arc<AtomicBool>,
}

impl Halt {
    /// As an earlier run of the agent has left it.
    pub(crate) fn load(file: PathBuf) -> Halt {
        let read = || serde_json::from_slice::<Note>(&fs::read(&file).ok()?).ok();
        let boot = boot_id().ok();
        let note = read().filter(|note| note.version == VERSION && Some(&note.boot) == boot.as_ref());
        let halted = note.as_ref().is_some_and(|note| note.halted);
        Halt::new(file, note, if halted { Stage::Halted } else { Stage::Runs })
    }

    fn new(file: PathBuf, note: Option<Note>, stage: Stage) -> Halt {
        let (loaded, waiting, returning) = (Instant::now(), Vec::new(), Vec::new());
        Halt { file, loaded, note, stage, waiting, returning, cancel: Arc::default() }
    }

    /// Where it is noted.
    pub(crate) fn file(runtime_dir: &Path, machine: MachineId) -> PathBuf {
        runtime_dir.join(format!("{machine}.halt"))
    }

    /// The limits, with what the stop asks for.
    pub(crate) fn over(&self, limits: Limits) -> Limits {
        match self.stage {
            Stage::Runs | Stage::Stopping => limits,
            // The request for the last point is served all the same.
            Stage::LastPoint => Limits { paused: true, cut_policy: CutPolicy::Freeze, ..limits },
            Stage::Halted | Stage::Announced(_) | Stage::GoingOff => Limits { paused: true, ..limits },
        }
    }

    /// Why no point is made any more, if that is so.
    pub(crate) fn refuses_points(&self) -> Option<&'static str> {
        match self.stage {
            Stage::Runs | Stage::Stopping | Stage::LastPoint => None,
            Stage::Halted | Stage::Announced(_) | Stage::GoingOff => Some(LAST_WAS_MADE),
        }
    }

    pub(super) fn is_for(&self, failover: &str) -> bool {
        self.note.as_ref().is_some_and(|note| note.failover == failover)
    }

    pub(super) fn begin(&mut self, failover: String) -> io::Result<()> {
        let (boot, since) = (boot_id()?, clock::wall());
        self.keep(Note { version: VERSION, boot, failover, since, halted: false, announced: None })
    }

    fn keep(&mut self, note: Note) -> io::Result<()> {
        let unfinished = self.file.with_extension("halt.new");
        fs::write(&unfinished, serde_json::to_vec(&note)?)?;
        fs::rename(unfinished, &self.file)?;
        self.note = Some(note);
        Ok(())
    }

    /// Notes that it is halted, and what was announced of it. Only a killed agent would miss it.
    pub(super) fn mark(&mut self, announced: Option<CommandId>) {
        let Some(note) = self.note.clone() else { return };
        if let Err(err) = self.keep(Note { halted: true, announced, ..note }) {
            tracing::warn!("{}: how far the machine is stopped cannot be noted: {err}", self.file.display());
        }
    }

    pub(super) fn over_now(&mut self) {
        (self.stage, self.note) = (Stage::Runs, None);
        // One that stays behind is of a failover that is over, and is believed for an hour.
        let _ = fs::remove_file(&self.file);
    }

    /// Whether nobody has said anything of it for too long.
    pub(super) fn is_forgotten(&self, now: Timestamp) -> bool {
        let decided = matches!(self.stage, Stage::Stopping | Stage::Announced(_) | Stage::GoingOff);
        let noted = self.note.as_ref().filter(|note| note.announced.is_none());
        !decided && noted.is_some_and(|note| now.duration_since(note.since) > LONGEST)
    }

    /// What an earlier run may have answered, with what it answers: it was killed before it knew, or before the machine was off.
    pub(super) fn unheard(&self) -> Option<(CommandId, CommandResult)> {
        let announced = self.note.as_ref().filter(|_| self.stage == Stage::Halted)?.announced?;
        Some((announced, CommandResult::done(GOES_OFF)))
    }

    /// The same, once, when commands have been listened for long enough.
    pub(super) fn repeat(&mut self, now: Instant) -> Option<(CommandId, CommandResult)> {
        let (command, result) = self.unheard()?;
        if now.duration_since(self.loaded) < LISTENS {
            return None;
        }
        self.stage = Stage::Announced(command);
        Some((command, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halt(stage: Stage, note: Option<Note>) -> Halt {
        Halt::new(PathBuf::from("/nonexistent/halt"), note, stage)
    }

    fn note(announced: Option<CommandId>) -> Note {
        let boot = boot_id().unwrap();
        let since = "2026-11-29T12:00:00Z".parse().unwrap();
        Note { version: VERSION, boot, failover: "f".to_owned(), since, halted: true, announced }
    }

    #[test]
    fn after_the_last_point_none_is_made_and_before_it_one_that_is_frozen() {
        let limits = Limits::default();
        assert_eq!(halt(Stage::Stopping, None).over(limits), limits);
        let last = halt(Stage::LastPoint, None);
        assert_eq!((last.over(limits).cut_policy, last.over(limits).paused), (CutPolicy::Freeze, true));
        assert_eq!(last.refuses_points(), None);
        for stage in [Stage::Halted, Stage::Announced(1), Stage::GoingOff] {
            let after = halt(stage, None);
            assert!(after.over(limits).paused && after.refuses_points().is_some(), "{stage:?}");
        }
    }

    #[test]
    fn a_machine_that_is_forgotten_goes_on_unless_it_was_said_that_it_is_switched_off() {
        let (soon, late) = ("2026-11-29T12:59:00Z".parse().unwrap(), "2026-11-29T13:01:00Z".parse().unwrap());
        for (stage, announced, goes_on) in [
            (Stage::Halted, None, true),
            (Stage::Runs, None, true),
            (Stage::LastPoint, None, true),
            (Stage::Halted, Some(1), false),
            (Stage::Stopping, None, false),
            (Stage::Announced(1), Some(1), false),
        ] {
            let halt = halt(stage, Some(note(announced)));
            assert_eq!((halt.is_forgotten(soon), halt.is_forgotten(late)), (false, goes_on), "{stage:?}");
        }
        assert!(!halt(Stage::Runs, None).is_forgotten(late));
    }

    #[test]
    fn what_may_not_have_been_heard_is_said_again_once_unless_something_else_is_ordered_first() {
        let repeated = |mut halt: Halt, after: Duration| {
            let now = halt.loaded + after;
            (halt.repeat(now).map(|(command, _)| command), halt.repeat(now).is_some(), halt.stage)
        };
        let halted = |announced| halt(Stage::Halted, Some(note(announced)));
        assert_eq!(repeated(halted(Some(7)), LISTENS), (Some(7), false, Stage::Announced(7)));
        assert_eq!(repeated(halted(Some(7)), LISTENS / 2), (None, false, Stage::Halted));
        assert_eq!(repeated(halted(None), LISTENS), (None, false, Stage::Halted));
        let going_on = halt(Stage::Stopping, Some(note(Some(7))));
        assert_eq!(repeated(going_on, LISTENS), (None, false, Stage::Stopping));
    }

    #[test]
    fn what_was_stopped_is_known_after_a_kill_and_not_after_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.halt");
        let mut before = Halt::load(file.clone());
        assert_eq!((before.stage, &before.note), (Stage::Runs, &None));
        before.begin("f".to_owned()).unwrap();
        let stopping = Halt::load(file.clone());
        assert!(stopping.stage == Stage::Runs && stopping.is_for("f") && !stopping.is_for("g"));
        before.mark(None);
        let halted = Halt::load(file.clone());
        assert_eq!((halted.stage, halted.unheard()), (Stage::Halted, None));
        before.mark(Some(7));
        assert_eq!(Halt::load(file.clone()).unheard(), Some((7, CommandResult::done(GOES_OFF))));
        before.keep(Note { boot: "another".to_owned(), ..note(None) }).unwrap();
        assert!(!Halt::load(file.clone()).is_for("f"));
        before.over_now();
        assert!(!file.exists());
    }
}
