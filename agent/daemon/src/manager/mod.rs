//! Asks the service manager of this machine, systemd, to start and stop units, over the socket that it keeps for root.
//!
//! Not by `systemctl`: from version 254 on that binds its end of the connection to a name, and the agent and whatever it starts can bind
//! nothing ([`crate::service::lockdown`]). And what runs no program can be made to run none. Deliberately not here: what is stopped,
//! and when (`crate::stop`); what systemd is told of the agent (`crate::systemd`).

#[cfg(test)]
#[path = "../../../../tests/src/service_manager.rs"]
#[allow(unreachable_pub, dead_code, reason = "it is made for tests elsewhere, too")]
pub(crate) mod stand_in;
mod wire;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::wire::{BEGINNING, Callee, Kind, Reader, Writer};

/// Where systemd listens for root alone.
pub(crate) const SOCKET: &str = "/run/systemd/private";
/// How long an answer may take. Reading all units anew takes longest.
const LONGEST: Duration = Duration::from_secs(90);
/// The longest line while the connection begins.
const LONGEST_LINE: usize = 256;

const MANAGER: Callee<'_> = Callee {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

/// The service manager was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagerError {
    /// There is none, or the connection broke.
    #[error("systemd cannot be asked at {path}: {source}")]
    Unreachable {
        /// Where it was looked for.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It said no.
    #[error("systemd refuses {what}: {message}")]
    Refused {
        /// What it was asked.
        what: String,
        /// What it said.
        message: String,
    },
}

/// The connection to the service manager.
#[derive(Debug)]
pub(crate) struct Manager {
    path: PathBuf,
    stream: UnixStream,
    serial: u32,
}

impl Manager {
    /// Connects.
    pub(crate) fn connect(path: &Path) -> Result<Manager, ManagerError> {
        let begin = || -> io::Result<UnixStream> {
            let mut stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(LONGEST))?;
            stream.set_read_timeout(Some(LONGEST))?;
            let user: String = rustix::process::geteuid().to_string();
            let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
            stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
            let line = line(&mut stream)?;
            if !line.starts_with("OK ") {
                return Err(io::Error::other(format!("it does not know root: {line}")));
            }
            stream.write_all(b"BEGIN\r\n")?;
            Ok(stream)
        };
        let stream = begin().map_err(|source| ManagerError::Unreachable { path: path.to_owned(), source })?;
        Ok(Manager { path: path.to_owned(), stream, serial: 0 })
    }

    /// Begins to start a unit; `isolate` stops all that it does not need.
    pub(crate) fn start(&mut self, unit: &str, mode: &str) -> Result<(), ManagerError> {
        let body = Writer::default().text(unit).text(mode);
        self.ask(&format!("to start {unit}"), "StartUnit", "ss", &body, |_| Some(()))
    }

    /// Begins to stop a unit.
    pub(crate) fn stop(&mut self, unit: &str) -> Result<(), ManagerError> {
        let body = Writer::default().text(unit).text("replace");
        self.ask(&format!("to stop {unit}"), "StopUnit", "ss", &body, |_| Some(()))
    }

    /// Units that have something begun and not ended.
    pub(crate) fn busy(&mut self) -> Result<Vec<String>, ManagerError> {
        self.ask("to list its jobs", "ListJobs", "", &Writer::default(), |reader| {
            reader.structures(|job| {
                job.number()?;
                let unit = job.text()?.to_owned();
                (0..4).try_for_each(|_| job.text().map(drop))?;
                Some(unit)
            })
        })
    }

    /// Units in one of these states whose names match one of these patterns.
    pub(crate) fn units<S: AsRef<str>>(
        &mut self,
        states: &[&str],
        patterns: &[S],
    ) -> Result<Vec<String>, ManagerError> {
        let body = Writer::default().texts(states).texts(patterns);
        self.ask("to list its units", "ListUnitsByPatterns", "asas", &body, |reader| {
            reader.structures(|unit| {
                let name = unit.text()?.to_owned();
                (0..6).try_for_each(|_| unit.text().map(drop))?;
                unit.number()?;
                (0..2).try_for_each(|_| unit.text().map(drop))?;
                Some(name)
            })
        })
    }

    /// Has a unit need others until the machine is started again.
    pub(crate) fn add_needs(&mut self, unit: &str, needs: &[String]) -> Result<(), ManagerError> {
        if needs.is_empty() {
            return Ok(());
        }
        let body = Writer::default().texts(needs).text(unit).text("Wants").truth(true).truth(true);
        self.ask(&format!("to have {unit} need others"), "AddDependencyUnitFiles", "asssbb", &body, |_| {
            Some(())
        })?;
        self.ask("to read its units anew", "Reload", "", &Writer::default(), |_| Some(()))
    }

    fn ask<T>(
        &mut self,
        what: &str,
        member: &str,
        signature: &str,
        body: &Writer,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, ManagerError> {
        self.serial += 1;
        let call = wire::call(self.serial, MANAGER, member, signature, body);
        let broken = |source| ManagerError::Unreachable { path: self.path.clone(), source };
        let garbage = || io::Error::new(io::ErrorKind::InvalidData, "what it says cannot be understood");
        self.stream.write_all(&call).map_err(broken)?;
        let end = Instant::now() + LONGEST;
        while Instant::now() < end {
            let mut beginning = [0; BEGINNING];
            self.stream.read_exact(&mut beginning).map_err(broken)?;
            let (length, kind) = wire::rest(&beginning).ok_or_else(garbage).map_err(broken)?;
            let mut rest = vec![0; length];
            self.stream.read_exact(&mut rest).map_err(broken)?;
            if kind == Kind::Other {
                continue;
            }
            let answer = wire::answered(&beginning, &rest);
            let (serial, mut reader) = answer.ok_or_else(garbage).map_err(broken)?;
            match kind {
                _ if serial != self.serial => {}
                Kind::Answer => return read(&mut reader).ok_or_else(garbage).map_err(broken),
                _ => {
                    let message = reader.text().unwrap_or("it does not say why").to_owned();
                    return Err(ManagerError::Refused { what: what.to_owned(), message });
                }
            }
        }
        Err(broken(io::ErrorKind::TimedOut.into()))
    }
}

/// A line, up to its end.
fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() > LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak D-Bus"));
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
