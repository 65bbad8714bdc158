//! Stops this machine for a planned failover: first whatever writes on it, then, after a last point, the machine itself.
//!
//! ```text
//! halt -> what writes is stopped -> last point -> nothing, until ... -> switch off, once the service has heard it -> off
//!                                                                     -> go on -> what was stopped is started again
//! ```
//!
//! What was stopped is noted in the runtime directory, so that an agent that is killed meanwhile knows of it; the commands are handed
//! out again by the service until they are answered. A machine of which nobody says anything for an hour goes on by itself. It is
//! switched off only when the service has taken the answer that says so, for it may have been told to cancel in between; a run that
//! does not know whether it was taken gives it again. `state` is what is known of it, `unbegun` looks after it while a run cannot begin.
//! Deliberately not here: how units are stopped (`crate::stop`).

mod state;
mod unbegun;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use mobility_format::{
    control::{Claim, CommandId, CommandResult},
    manifest::Consistency,
};

use self::state::{GOES_OFF, Stage};
pub(super) use self::{state::Halt, unbegun::Unbegun};
use super::{Message, Replication};
use crate::{
    clock,
    request::{Answer, Request, RequestId},
    stop::{self, StopSettings},
};

/// What is said where a machine goes on by itself.
const FORGOTTEN: &str = "nobody has said for an hour what becomes of the halted machine: it goes on";

/// Has the service manager switch the machine off. Whether it will.
fn switch_off(settings: &StopSettings) -> bool {
    tracing::warn!("the machine is switched off for a planned failover");
    stop::switch_off(settings)
        .inspect_err(|err| tracing::error!("the machine cannot be switched off: {err}; do it by hand"))
        .is_ok()
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
        self.halt.mark(None);
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
        self.halt.mark(Some(command));
        self.halt.stage = Stage::Announced(command);
        self.conclude(command, CommandResult::done(GOES_OFF));
    }

    /// The service has heard what came of a command, or would not have it.
    pub(super) fn told(&mut self, command: CommandId, taken: bool) {
        if self.halt.stage != Stage::Announced(command) {
            return;
        }
        if !taken {
            tracing::info!("the machine is not switched off: that is not wanted any more");
            self.halt.stage = Stage::Halted;
            return self.halt.mark(None);
        }
        self.halt.stage = Stage::GoingOff;
        let settings = self.report.stop_settings().clone();
        tokio::task::spawn_blocking(move || switch_off(&settings));
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

    /// A machine that nobody thinks of any more goes on; one that was to be off and is not is switched off.
    pub(super) fn look_after_halt(&mut self) {
        if let Some((command, result)) = self.halt.repeat(Instant::now()) {
            self.conclude(command, result);
        }
        if self.halt.is_forgotten(clock::wall()) {
            tracing::error!("{FORGOTTEN}");
            self.start_again(None);
        }
    }
}
