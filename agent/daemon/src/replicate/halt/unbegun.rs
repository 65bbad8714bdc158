//! Looks after a machine that an earlier run of the agent has halted, while the service does not let this one begin.
//!
//! An agent that is killed after it has said that the machine goes off, and before the machine does, finds its identity held: the
//! failover goes on without it. It says so again, and where that counts, switches off. And a machine of which nobody says anything for an
//! hour goes on here as well. Deliberately not here: the same once a run has begun (`halt`).

use std::path::PathBuf;

use jiff::Timestamp;
use mobility_format::control::ErrorCode;

use super::{FORGOTTEN, Halt, switch_off};
use crate::{
    service::{Service, ServiceFault, ServiceFaultKind},
    stop::{self, StopSettings},
};

/// The halted machine, if it is halted, of an agent that waits for its service.
pub(crate) struct Unbegun<'a> {
    file: PathBuf,
    settings: &'a StopSettings,
    /// The service manager was told.
    goes_off: bool,
}

impl<'a> Unbegun<'a> {
    pub(crate) fn new(file: PathBuf, settings: &'a StopSettings) -> Unbegun<'a> {
        Unbegun { file, settings, goes_off: false }
    }

    /// Does what is due after the service has not let this run begin.
    pub(crate) fn look(&mut self, service: &Service, fault: &ServiceFault, now: Timestamp) {
        let mut halt = Halt::load(self.file.clone());
        let decided = matches!(fault.kind, ServiceFaultKind::NotYet | ServiceFaultKind::Fenced);
        match halt.unheard() {
            Some((command, result)) if decided && !self.goes_off => {
                match service.say_again(command, &result) {
                    Ok(()) => self.goes_off = switch_off(self.settings),
                    // It was cancelled.
                    Err(fault) if fault.kind == ServiceFaultKind::Refused(ErrorCode::Conflict) => {
                        halt.mark(None);
                    }
                    Err(fault) => tracing::warn!("the machine is not switched off yet: {fault}"),
                }
            }
            _ if halt.is_forgotten(now) => self.go_on(&mut halt),
            _ => {}
        }
    }

    fn go_on(&self, halt: &mut Halt) {
        tracing::error!("{FORGOTTEN}");
        match stop::go_on(self.settings) {
            Ok(()) => halt.over_now(),
            Err(reason) => tracing::error!("{reason}"),
        }
    }
}
