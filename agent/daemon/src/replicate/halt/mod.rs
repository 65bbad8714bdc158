//! Stops this machine for a planned failover: first whatever writes on it, then, after a last point, the machine itself.
//!
//! ```text
//! halt -> what writes is stopped -> last point -> nothing, until ... -> switch off, once the service has heard it -> off
//!                                                                     -> go on -> what was stopped is started again
//! ```
//!
//! What was stopped is noted in the runtime directory, so that an agent that is killed meanwhile knows of it; the commands are handed
//! out again by the service until they are answered. A machine of which nobody says anything for an hour goes on by itself. It is
//! switched off only when the service has taken the answer that says so, for it may have been told to cancel in between. Deliberately
//! not here: how units are stopped (`crate::stop`).

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use mobility_capture::boot::boot_id;
use mobility_engine::{CutPolicy, Limits};
use mobility_format::{
    control::{Claim, CommandId, CommandResult},
    manifest::Consistency,
};
use serde::{Deserialize, Serialize};

use super::{Message, Replication};
use crate::{
    clock,
    request::{Answer, Request, RequestId},
    stop,
};

/// After so long a machine that is halted goes on by itself.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// The version of the note.
const VERSION: u32 = 1;
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
    /// The service may have been told that the machine is switched off.
    announced: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
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
    file: PathBuf,
    note: Option<Note>,
    stage: Stage,
    /// Commands to halt that wait for the last point.
    waiting: Vec<CommandId>,
    /// Commands to go on that wait for what is being stopped.
    returning: Vec<CommandId>,
    cancel: Arc<AtomicBool>,
}

impl Halt {
    /// As an earlier run of the agent has left it.
    pub(crate) fn load(file: PathBuf) -> Halt {
        let read = || serde_json::from_slice::<Note>(&fs::read(&file).ok()?).ok();
        let boot = boot_id().ok();
        let note = read().filter(|note| note.version == VERSION && Some(&note.boot) == boot.as_ref());
        let halted = note.as_ref().is_some_and(|note| note.halted);
        let stage = if halted { Stage::Halted } else { Stage::Runs };
        Halt { file, note, stage, waiting: Vec::new(), returning: Vec::new(), cancel: Arc::default() }
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
    pub(super) fn refuses_points(&self) -> Option<&'static str> {
        match self.stage {
            Stage::Runs | Stage::Stopping | Stage::LastPoint => None,
            Stage::Halted | Stage::Announced(_) | Stage::GoingOff => Some(LAST_WAS_MADE),
        }
    }

    fn is_for(&self, failover: &str) -> bool {
        self.note.as_ref().is_some_and(|note| note.failover == failover)
    }

    fn begin(&mut self, failover: String) -> io::Result<()> {
        let (boot, since) = (boot_id()?, clock::wall());
        self.keep(Note { version: VERSION, boot, failover, since, halted: false, announced: false })
    }

    fn keep(&mut self, note: Note) -> io::Result<()> {
        let unfinished = self.file.with_extension("halt.new");
        fs::write(&unfinished, serde_json::to_vec(&note)?)?;
        fs::rename(unfinished, &self.file)?;
        self.note = Some(note);
        Ok(())
    }

    /// Notes how far it is. Only a killed agent would miss it.
    fn mark(&mut self, halted: bool, announced: bool) {
        let Some(note) = self.note.clone() else { return };
        if let Err(err) = self.keep(Note { halted, announced, ..note }) {
            tracing::warn!("{}: how far the machine is stopped cannot be noted: {err}", self.file.display());
        }
    }

    fn over_now(&mut self) {
        (self.stage, self.note) = (Stage::Runs, None);
        // One that stays behind is of a failover that is over, and is believed for an hour.
        let _ = fs::remove_file(&self.file);
    }

    /// Whether nobody has said anything of it for too long.
    fn is_forgotten(&self, now: Timestamp) -> bool {
        let decided = matches!(self.stage, Stage::Stopping | Stage::Announced(_) | Stage::GoingOff);
        let noted = self.note.as_ref().filter(|note| !note.announced);
        !decided && noted.is_some_and(|note| now.duration_since(note.since) > LONGEST)
    }
}

impl Replication {
    /// The service wants the machine halted.
    pub(super) fn halt(&mut self, command: CommandId, failover: String) {
        let settings = self.report.stop_settings().clone();
        let refused = match self.halt.stage {
            _ if !settings.allow => Some(
                "the machine's configuration does not let it be stopped (stop.allow in /etc/mobility-agent/config.d)"
                    .to_owned(),
            ),
            Stage::Stopping | Stage::LastPoint if self.halt.is_for(&failover) => {
                return self.halt.waiting.push(command);
            }
            Stage::Stopping | Stage::LastPoint => Some("it is being halted for another failover".to_owned()),
            Stage::GoingOff => Some("it is being switched off".to_owned()),
            _ => self.halt.begin(failover).err().map(|err| {
                format!("{}: what is stopped cannot be noted: {err}", self.halt.file.display())
            }),
        };
        if let Some(reason) = refused {
            return self.conclude(command, CommandResult::refused(reason));
        }
        tracing::warn!("the machine is halted for a planned failover");
        (self.halt.stage, self.halt.cancel) = (Stage::Stopping, Arc::default());
        self.halt.waiting.push(command);
        self.limits_changed();
        let (cancel, mailbox) = (self.halt.cancel.clone(), self.mailbox.clone());
        tokio::task::spawn_blocking(move || {
            let halted = stop::halt(&settings, &|| cancel.load(Ordering::Relaxed));
            let _ = mailbox.send(Message::Halted(halted));
        });
    }

    /// What writes is stopped, or was started again.
    pub(super) fn halted(&mut self, result: Result<(), String>) {
        let cancelled = self.halt.cancel.load(Ordering::Relaxed);
        match result {
            Err(reason) => self.not_halted(&reason),
            Ok(()) if cancelled => self.start_again(None),
            Ok(()) => match RequestId::draw() {
                Ok(id) => {
                    self.halt.stage = Stage::LastPoint;
                    self.limits_changed();
                    self.link.iter_mut().for_each(|link| link.wants_last(id));
                    self.requested(Request { id, application: false });
                }
                Err(err) => {
                    self.refuse_waiting(&err.to_string());
                    self.start_again(None);
                }
            },
        }
    }

    /// All that was stopped is started again.
    fn not_halted(&mut self, reason: &str) {
        tracing::error!("the machine is not halted: {reason}");
        self.report.error(reason.to_owned());
        self.halt.over_now();
        self.limits_changed();
        self.refuse_waiting(reason);
        for command in std::mem::take(&mut self.halt.returning) {
            self.conclude(command, CommandResult::done(reason));
        }
    }

    fn refuse_waiting(&mut self, reason: &str) {
        for command in std::mem::take(&mut self.halt.waiting) {
            self.conclude(command, CommandResult::refused(reason));
        }
    }

    /// Looks whether the last point was made.
    pub(super) fn look_at_last_point(&mut self) {
        let Some(answer) = self.link.as_mut().and_then(super::orders::Link::last_answered) else { return };
        if self.halt.stage != Stage::LastPoint {
            return;
        }
        let made = match answer {
            Answer::Made(made) if made.consistency != Consistency::Fuzzy => made,
            Answer::Made(made) => {
                let reason = made.reason.unwrap_or_default();
                return self.without_last_point(&format!("the last point is only fuzzy: {reason}"));
            }
            Answer::Failed { reason } => return self.without_last_point(&reason),
        };
        tracing::warn!("the last point before the failover is {}; none is made after it", made.id);
        self.halt.stage = Stage::Halted;
        self.halt.mark(true, false);
        self.limits_changed();
        let point = Claim { generation: made.generation, epoch: made.epoch, digest: made.digest };
        for command in std::mem::take(&mut self.halt.waiting) {
            let message = format!("the last point is {}, {}-consistent", made.id, made.consistency.name());
            self.conclude(command, CommandResult { point: Some(point), ..CommandResult::done(message) });
        }
    }

    fn without_last_point(&mut self, reason: &str) {
        tracing::error!("the machine is not halted: {reason}");
        self.refuse_waiting(&format!("{reason}; what was stopped is started again"));
        self.start_again(None);
    }

    /// The service wants the machine switched off.
    pub(super) fn switch_off(&mut self, command: CommandId, failover: &str) {
        let allowed = self.report.stop_settings().allow;
        if self.halt.stage != Stage::Halted || !self.halt.is_for(failover) || !allowed {
            let reason = "the machine is not halted for this failover: what it runs may write";
            return self.conclude(command, CommandResult::refused(reason));
        }
        // Before it is said: from now on it does not go on by itself.
        self.halt.mark(true, true);
        self.halt.stage = Stage::Announced(command);
        self.conclude(command, CommandResult::done("the machine switches itself off"));
    }

    /// The service has heard what came of a command, or would not have it.
    pub(super) fn told(&mut self, command: CommandId, taken: bool) {
        if self.halt.stage != Stage::Announced(command) {
            return;
        }
        if !taken {
            tracing::info!("the machine is not switched off: that is not wanted any more");
            self.halt.stage = Stage::Halted;
            return self.halt.mark(true, false);
        }
        tracing::warn!("the machine is switched off for a planned failover");
        self.halt.stage = Stage::GoingOff;
        let settings = self.report.stop_settings().clone();
        tokio::task::spawn_blocking(move || {
            if let Err(err) = stop::switch_off(&settings) {
                tracing::error!("the machine cannot be switched off: {err}; do it by hand");
            }
        });
    }

    /// The service does not want the machine stopped any more.
    pub(super) fn go_on(&mut self, command: CommandId, failover: &str) {
        if !self.halt.is_for(failover) {
            return self.conclude(command, CommandResult::done("nothing was stopped for it"));
        }
        match self.halt.stage {
            Stage::Stopping => {
                self.halt.cancel.store(true, Ordering::Relaxed);
                self.halt.returning.push(command);
            }
            Stage::GoingOff => {
                let reason = "it is being switched off: switch it on again by hand";
                self.conclude(command, CommandResult::refused(reason));
            }
            _ => self.start_again(Some(command)),
        }
    }

    /// Starts again what was stopped, for a command or without one.
    fn start_again(&mut self, command: Option<CommandId>) {
        self.halt.returning.extend(command);
        self.refuse_waiting("it is not wanted any more");
        (self.halt.stage, self.halt.cancel) = (Stage::Stopping, Arc::default());
        let (settings, mailbox) = (self.report.stop_settings().clone(), self.mailbox.clone());
        tokio::task::spawn_blocking(move || {
            let begun = stop::go_on(&settings);
            let _ = mailbox.send(Message::WentOn(begun));
        });
    }

    /// What was stopped is being started again, or cannot be.
    pub(super) fn went_on(&mut self, result: Result<(), String>) {
        let result = match result {
            Ok(()) => {
                tracing::info!("what was stopped for a failover is started again");
                CommandResult::done("what was stopped is started again")
            }
            Err(reason) => {
                tracing::error!("{reason}");
                self.report.error(reason.clone());
                CommandResult::refused(reason)
            }
        };
        self.halt.over_now();
        self.limits_changed();
        self.refuse_waiting("what was stopped is being started again");
        for command in std::mem::take(&mut self.halt.returning) {
            self.conclude(command, result.clone());
        }
    }

    /// A machine that nobody thinks of any more goes on.
    pub(super) fn look_after_halt(&mut self) {
        if self.halt.is_forgotten(clock::wall()) {
            tracing::error!("nobody has said for an hour what becomes of the halted machine: it goes on");
            self.start_again(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halt(stage: Stage, note: Option<Note>) -> Halt {
        let file = PathBuf::from("/nonexistent/halt");
        Halt { file, note, stage, waiting: Vec::new(), returning: Vec::new(), cancel: Arc::default() }
    }

    fn note(announced: bool) -> Note {
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
            (Stage::Halted, false, true),
            (Stage::Runs, false, true),
            (Stage::LastPoint, false, true),
            (Stage::Halted, true, false),
            (Stage::Stopping, false, false),
            (Stage::Announced(1), true, false),
        ] {
            let halt = halt(stage, Some(note(announced)));
            assert_eq!((halt.is_forgotten(soon), halt.is_forgotten(late)), (false, goes_on), "{stage:?}");
        }
        assert!(!halt(Stage::Runs, None).is_forgotten(late));
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
        before.mark(true, false);
        assert_eq!(Halt::load(file.clone()).stage, Stage::Halted);
        before.keep(Note { boot: "another".to_owned(), ..note(false) }).unwrap();
        assert!(!Halt::load(file.clone()).is_for("f"));
        before.over_now();
        assert!(!file.exists());
    }
}
