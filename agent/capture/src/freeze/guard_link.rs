//! The agent's end of the guard: starting it, asking it, and finding out that it is gone.
//!
//! Every wait has an end. Asking and waiting allocate nothing. Deliberately not here: what is asked in which order
//! (`freezer`).

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use super::{
    error::FreezeError,
    guard::Protection,
    wire::{self, Kind, Received, Record},
};

/// Starting a program and locking its memory takes a while on a busy machine. Nothing is frozen then.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long an agent that ends waits for its guard to end, which has nothing to do by then.
const END_PATIENCE: Duration = Duration::from_millis(200);

/// How the guard is started.
#[derive(Clone, Debug)]
pub struct GuardProgram {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl GuardProgram {
    /// The program that is running, also when its file was replaced meanwhile, with the argument `guard`.
    #[must_use]
    pub fn this_program() -> GuardProgram {
        GuardProgram::new("/proc/self/exe", ["guard"])
    }

    /// Another program that comes to [`guard_process`](super::guard_process).
    #[must_use]
    pub fn new<A: Into<OsString>>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> GuardProgram {
        GuardProgram { program: program.into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    Gone,
    Slow,
}

impl NoAnswer {
    pub(super) fn during(self, during: &'static str) -> FreezeError {
        match self {
            NoAnswer::Gone => FreezeError::GuardGone { during },
            NoAnswer::Slow => FreezeError::GuardSlow { during },
        }
    }
}

/// A guard that has said that it is ready.
#[derive(Debug)]
pub(super) struct GuardLink {
    socket: OwnedFd,
    child: Child,
    pub(super) protection: Protection,
}

impl GuardLink {
    pub(super) fn start(program: &GuardProgram) -> Result<GuardLink, FreezeError> {
        let failed = |source: io::Error| FreezeError::GuardStart { program: program.program.clone(), source };
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(|errno| failed(errno.into()))?;
        let child = Command::new(&program.program)
            .args(&program.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut link = GuardLink { socket, child, protection: Protection::default() };
        let until = Instant::now() + START_PATIENCE;
        let ready = link.wait(Kind::Ready, 0, 0, until).map_err(|no| no.during("start"))?;
        link.protection = Protection::from_bits(ready.number);
        Ok(link)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn say(&self, record: &Record, descriptors: &[BorrowedFd<'_>]) -> Result<(), NoAnswer> {
        wire::send(self.socket.as_fd(), record, descriptors).map_err(|errno| match errno {
            Errno::AGAIN | Errno::NOBUFS => NoAnswer::Slow,
            _ => NoAnswer::Gone,
        })
    }

    /// Waits for one answer; those to earlier questions are passed over.
    pub(super) fn wait(
        &self,
        kind: Kind,
        cycle: u64,
        index: u32,
        until: Instant,
    ) -> Result<Record, NoAnswer> {
        let mut no_descriptors = wire::no_descriptors();
        loop {
            match wire::receive(self.socket.as_fd(), &mut no_descriptors) {
                Ok(Received::Record(record))
                    if (record.kind, record.cycle, record.index) == (kind, cycle, index) =>
                {
                    return Ok(record);
                }
                Ok(Received::Record(_)) => continue,
                Ok(Received::End | Received::Strange) => return Err(NoAnswer::Gone),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Err(NoAnswer::Gone),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoAnswer::Slow);
            }
            self.poll(left);
        }
    }

    /// Whether its end of the socket is closed.
    pub(super) fn is_gone(&self) -> bool {
        self.poll(Duration::ZERO).intersects(PollFlags::HUP | PollFlags::ERR)
    }

    fn poll(&self, time: Duration) -> PollFlags {
        let mut sources = [PollFd::new(&self.socket, PollFlags::IN)];
        let _ = poll(&mut sources, time.try_into().ok().as_ref());
        sources[0].revents()
    }

    /// Ends a guard that does not answer, also one that is stopped, and waits until it cannot freeze anything any more;
    /// whether that was seen. It may take as long as a freeze hangs, so the wait is bounded.
    pub(super) fn kill(mut self) -> bool {
        let _ = self.child.kill();
        let until = Instant::now() + END_PATIENCE;
        // Its end of the socket is closed when the last of its threads is gone.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.poll(left).contains(PollFlags::HUP) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

impl Drop for GuardLink {
    fn drop(&mut self) {
        // It ends by itself when the other end of its socket is closed, which is done early here by shutting it down.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let until = Instant::now() + END_PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= until {
                // It is held up by a disk; init will collect it.
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
