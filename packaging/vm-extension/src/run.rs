//! One run of a command, from the question where things are to the exit code: lock, log, status.
//!
//! Deliberately not here: what the commands do (`commands`).

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    Command, commands,
    environment::Environment,
    failure::{Cause, Failure},
    log::Log,
    place::Place,
    report::{Level, Report},
    secrets::Secrets,
};

const LOCK: &str = "/run/mobility-agent-extension.lock";
const STEP: Duration = Duration::from_millis(50);

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) command: Command,
    pub(crate) place: Place,
    pub(crate) environment: Environment,
    pub(crate) secrets: Secrets,
    /// The sequence number that this run is about.
    pub(crate) sequence: String,
    log: Log,
}

/// Runs a command. What to say, and the code to exit with if it failed.
pub(crate) fn run(command: Command) -> Result<String, (u8, String)> {
    let secrets = Secrets::default();
    let early = |failure: Failure| (failure.code(), secrets.hide(&failure.message));
    let place = Place::new(command.limit());
    let program = std::env::current_exe().map_err(|err| early(Failure::other("this program", err)))?;
    let environment = Environment::find(&program, place.end).map_err(early)?;
    // Who comes every minute need not wait for who is at work.
    let wait = if command == Command::Heartbeat { Instant::now() } else { place.end };
    let lock = match (lock(&place, wait), command) {
        (Ok(Some(lock)), _) => lock,
        (Ok(None), Command::Heartbeat) => return Ok("another command is at work".to_owned()),
        (Ok(None), _) => {
            return Err(early(Failure::new(
                Cause::Other,
                "another command of this extension is at work and does not end",
            )));
        }
        (Err(failure), _) => return Err(early(failure)),
    };
    let (log, sequence) = (Log::new(&environment.logs, command.name()), environment.sequence());
    let mut run = Run { command, place, environment, secrets: Secrets::default(), sequence, log };
    let outcome = run.follow();
    drop(lock);
    outcome
}

/// The right to work, held until it is dropped or this process ends.
fn lock(place: &Place, end: Instant) -> Result<Option<File>, Failure> {
    let path = place.path(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|err| Failure::other(path.display(), err))?;
    loop {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(Some(file));
        }
        if Instant::now() + STEP > end {
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

impl Run {
    fn follow(&mut self) -> Result<String, (u8, String)> {
        let is_heartbeat = self.command == Command::Heartbeat;
        if !is_heartbeat {
            self.log(&format!("begins, sequence number {}", self.sequence));
        }
        match commands::follow(self) {
            Ok(said) => {
                if !is_heartbeat {
                    self.log(&said);
                }
                Ok(self.hide(&said))
            }
            Err(failure) => {
                let said = self.hide(&failure.message);
                self.log(&format!("failed with {}: {said}", failure.code()));
                self.report_failure(&failure);
                Err((failure.code(), said))
            }
        }
    }

    /// Whoever deploys the extension sees the status, and hardly ever a log.
    fn report_failure(&self, failure: &Failure) {
        let report = Report::of(failure);
        if matches!(self.command, Command::Install | Command::Update | Command::Enable)
            && let Err(failure) = self.write_status(&report)
        {
            self.log(&failure.message);
        }
        if self.command == Command::Enable
            && let Err(failure) = self.write_heartbeat(&report)
        {
            self.log(&failure.message);
        }
    }

    /// Adds to the log.
    pub(crate) fn log(&self, text: &str) {
        self.log.add(&self.hide(text));
    }

    /// A text without what must not be said.
    pub(crate) fn hide(&self, text: &str) -> String {
        self.secrets.hide(text)
    }

    /// Says that the work has begun.
    pub(crate) fn write_transitioning(&self, text: &str) -> Result<(), Failure> {
        self.write_status(&Report::new(Level::Transitioning, text))
    }

    /// Writes the status of this run's sequence number.
    pub(crate) fn write_status(&self, report: &Report) -> Result<(), Failure> {
        report.write_status(&self.environment, &self.sequence, &self.command.title(), |text| self.hide(text))
    }

    /// Writes the heartbeat.
    pub(crate) fn write_heartbeat(&self, report: &Report) -> Result<(), Failure> {
        report.write_heartbeat(&self.environment, |text| self.hide(text))
    }
}
