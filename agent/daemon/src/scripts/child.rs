//! One call of one script: started with nothing of the agent's but what it is given, listened to, and ended in time.
//!
//! The script leads a process group of its own, so that what it has started ends with it when time is up. It is not reaped
//! before that: as long as it is not, its number cannot become another's. What it leaves behind on purpose, after an end
//! in time, lives on; such a process may even keep the pipe of the output, which is then simply not read any more.
//! Deliberately not here: which scripts are called, and when.

use std::{
    ffi::OsString,
    io::{self, PipeReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid},
    time::Timespec,
};

use super::{ScriptError, find::Script, output::Output};

/// How long a script that was told to end may take before it is ended.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end what was killed.
const KILLED: Duration = Duration::from_secs(5);
/// How often it is looked whether the call was cancelled, and, on kernels that cannot tell, whether the script has ended.
const TICK: Duration = Duration::from_millis(50);
/// How much is read at once.
const READ: usize = 16 << 10;

/// What a script is called with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) phase: &'static str,
    pub(super) environment: &'a [(String, OsString)],
    pub(super) limit: Duration,
}

/// Runs a script to its end. What it said is returned also when it failed.
pub(super) fn run(
    script: &Script,
    call: Call<'_>,
    cancelled: &dyn Fn() -> bool,
) -> (Vec<String>, Result<(), ScriptError>) {
    let start = |source| ScriptError::Start { script: script.name.clone(), source };
    let mut running = match Running::start(script, call) {
        Ok(running) => running,
        Err(source) => return (Vec::new(), Err(start(source))),
    };
    let outcome = running.end(script, call.limit, cancelled);
    running.read();
    (running.output.finish(), outcome)
}

struct Running {
    child: Child,
    pid: Pid,
    /// Becomes readable when the script ends. Kernels before 5.3 do not have it.
    ended: Option<OwnedFd>,
    /// Until all who hold its other end have closed it.
    pipe: Option<PipeReader>,
    output: Output,
}

impl Running {
    fn start(script: &Script, call: Call<'_>) -> io::Result<Running> {
        let (reader, writer) = io::pipe()?;
        fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
        let mut command = Command::new(&script.path);
        command
            .arg(call.phase)
            .env_clear()
            .envs(call.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let child = command.spawn()?;
        // The command holds the writing end as well.
        drop(command);
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok(Running { child, pid, ended, pipe: Some(reader), output: Output::default() })
    }

    /// Waits for the end, within the limit.
    fn end(
        &mut self,
        script: &Script,
        limit: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), ScriptError> {
        let name = || script.name.clone();
        let failed = |source| ScriptError::Start { script: name(), source };
        let wanted = self.wait(limit, cancelled).map_err(failed);
        if matches!(wanted, Ok(true)) {
            let status = self.child.wait().map_err(failed)?;
            return if status.success() { Ok(()) } else { Err(ended_badly(script, status)) };
        }
        self.stop(script)?;
        wanted?;
        Err(if cancelled() {
            ScriptError::Cancelled { script: name() }
        } else {
            ScriptError::TimedOut { script: name(), limit }
        })
    }

    /// Ends the script and all of its group that is left.
    fn stop(&mut self, script: &Script) -> Result<(), ScriptError> {
        // That there is nobody left to be told is as good.
        let _ = kill_process_group(self.pid, Signal::TERM);
        let _ = self.wait(GRACE, &|| false);
        let _ = kill_process_group(self.pid, Signal::KILL);
        match self.wait(KILLED, &|| false) {
            Ok(true) => {
                let _ = self.child.wait();
                Ok(())
            }
            _ => Err(ScriptError::Unkillable { script: script.name.clone() }),
        }
    }

    /// Listens until the script has ended, and says whether it has. It is not reaped.
    fn wait(&mut self, limit: Duration, cancelled: &dyn Fn() -> bool) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            self.read();
            if self.has_ended()? {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || cancelled() {
                return Ok(false);
            }
            let tick = left.min(TICK);
            let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(tick.subsec_nanos()) };
            let both = [self.ended.as_ref().map(AsFd::as_fd), self.pipe.as_ref().map(AsFd::as_fd)];
            let mut polled: Vec<_> =
                both.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            match poll(&mut polled, Some(&tick)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// Reads what is there now, once round the largest pipe at most: a flood does not keep us from looking at the clock.
    fn read(&mut self) {
        let mut buffer = [0; READ];
        for _ in 0..(1 << 20) / READ {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.output.take(&buffer[..length]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

fn ended_badly(script: &Script, status: ExitStatus) -> ScriptError {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "in an unknown way".to_owned(),
    };
    ScriptError::Failed { script: script.name.clone(), how }
}
