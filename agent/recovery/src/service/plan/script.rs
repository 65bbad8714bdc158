//! Runs a program of the service's host as a step of a plan run.
//!
//! Only what lies in one directory runs, if nobody but root and the service's own user can change it. It gets variables that say
//! what it is run for, nothing of the service's own environment, and as its standard input a file that says which machines there are.
//! That file is locked while anything of the program runs: who takes a run up after a kill waits for what is left of the try before.
//! It has a process group of its own, which is ended when its time is up or nobody wants it any more. Deliberately not here: what it
//! means that it went wrong (`steps`).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, PipeReader, Read, Seek, Write},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, WaitId, WaitIdOptions, geteuid, kill_process_group, waitid},
};

use crate::service::{failover::Failure, private_file};

/// The longest name.
const MAX_NAME: usize = 128;
/// How much of the end of what it prints is kept, in bytes.
const MOST_OUTPUT: usize = 8 << 10;
/// How long it has to end by itself once it was told to.
const GRACE: Duration = Duration::from_secs(5);
/// How often is looked whether it has ended.
const TICK: Duration = Duration::from_millis(50);
/// Where it finds other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const READ: usize = 16 << 10;

/// A program that is to run.
pub(super) struct Script {
    pub(super) path: PathBuf,
    pub(super) variables: Vec<(&'static str, String)>,
    /// What it reads.
    pub(super) input: Vec<u8>,
    /// Where that is kept meanwhile.
    pub(super) note: PathBuf,
    pub(super) limit: Duration,
}

/// How a program ended.
pub(super) enum End {
    /// Well.
    Done,
    /// Not well; how.
    Badly(String),
    /// Its time was up.
    TimedOut,
    /// Nobody wanted it any more.
    Stopped,
}

/// Whether a program may be called that.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.chars().all(plain) {
        true => Ok(()),
        false => Err(format!(
            "'{name}' is no name of a script: it has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, and begins \
             with no dot"
        )),
    }
}

/// Where the program is, if it can be run and nobody else can have changed it.
pub(crate) fn find(directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    let hint = "see that it is there, a plain file, executable, of root or the service's user, and that nobody else may write to it \
                or its directory; then resume";
    let bad = |what: String| Failure::new(what, hint);
    check_name(name).map_err(bad)?;
    let ours = |path: &Path| {
        let shown = path.display();
        let about = path.symlink_metadata().map_err(|err| bad(format!("{shown} cannot be run: {err}")))?;
        let owner = about.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(bad(format!("{shown} is refused: it belongs to user {owner}")));
        }
        match about.mode() & 0o022 {
            0 => Ok(about),
            _ => Err(bad(format!("{shown} is refused: others than its owner may write to it"))),
        }
    };
    if !ours(directory)?.is_dir() {
        return Err(bad(format!("{} is no directory", directory.display())));
    }
    let path = directory.join(name);
    let about = ours(&path)?;
    match about.is_file() && about.mode() & 0o111 != 0 {
        true => Ok(path),
        false => Err(bad(format!("{} is refused: it is no executable file", path.display()))),
    }
}

/// Runs a program until it ends, in whichever way; what it has printed last.
pub(super) fn run(script: &Script, stop: &AtomicBool) -> Result<(End, String), Failure> {
    let begin = Instant::now();
    let hint = "mend that, and resume";
    let failed =
        |what: &str, err: &io::Error| Failure::new(format!("{} {what}: {err}", script.path.display()), hint);
    let note = match lock(script, begin, stop).map_err(|err| failed("cannot be given its input", &err))? {
        Held::Ours(note) => note,
        Held::Stopped => return Ok((End::Stopped, String::new())),
        Held::Theirs => {
            let problem = format!("a try of {} before this one still runs", script.path.display());
            return Err(Failure::new(problem, "end what is left of it, and resume"));
        }
    };
    let mut running = Running::start(script, note).map_err(|err| failed("cannot be run", &err))?;
    let end = running.wait(begin + script.limit, stop).map_err(|err| failed("cannot be waited for", &err));
    let end = match end {
        Ok(Some(status)) if status.success() => Ok(End::Done),
        Ok(Some(status)) => Ok(End::Badly(how(status))),
        Ok(None) | Err(_) => {
            running.end();
            let why = if stop.load(Ordering::Relaxed) { End::Stopped } else { End::TimedOut };
            end.map(|_| why)
        }
    };
    std::fs::remove_file(&script.note).ok();
    Ok((end?, running.output()))
}

/// Removes what programs were given of which nothing runs any more: an instance that was killed has left it.
pub(crate) fn clear(notes: &Path) {
    let entries = std::fs::read_dir(notes).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        // What cannot be removed is in nobody's way.
        if File::open(&path).is_ok_and(|note| note.try_lock().is_ok()) {
            std::fs::remove_file(&path).ok();
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended in an unknown way".to_owned(),
    }
}

/// Who holds the input.
enum Held {
    Ours(File),
    /// What is left of a try before.
    Theirs,
    Stopped,
}

/// The input, once nobody else reads it any more.
fn lock(script: &Script, begin: Instant, stop: &AtomicBool) -> io::Result<Held> {
    script.note.parent().map_or(Ok(()), private_file::directory)?;
    loop {
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut note = options.open(&script.note)?;
        match note.try_lock() {
            // Removed by who held it before.
            Ok(()) if note.metadata()?.nlink() == 0 => {}
            Ok(()) => {
                note.set_len(0)?;
                note.write_all(&script.input)?;
                note.rewind()?;
                return Ok(Held::Ours(note));
            }
            Err(TryLockError::WouldBlock) if stop.load(Ordering::Relaxed) => return Ok(Held::Stopped),
            Err(TryLockError::WouldBlock) if begin.elapsed() > script.limit => return Ok(Held::Theirs),
            Err(TryLockError::WouldBlock) => thread::sleep(TICK),
            Err(TryLockError::Error(err)) => return Err(err),
        }
    }
}

/// A program that runs.
struct Running {
    child: Child,
    pid: Pid,
    /// Until all who hold its other end have closed it.
    pipe: Option<PipeReader>,
    output: Vec<u8>,
}

impl Running {
    fn start(script: &Script, note: File) -> io::Result<Running> {
        let (reader, writer) = io::pipe()?;
        fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
        let mut command = Command::new(&script.path);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .envs(script.variables.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(note)
            .stdout(writer.try_clone()?)
            .stderr(Stdio::from(writer))
            .process_group(0);
        let child = command.spawn()?;
        // The command holds the writing end as well.
        drop(command);
        Ok(Running { pid: Pid::from_child(&child), child, pipe: Some(reader), output: Vec::new() })
    }

    /// Waits for its end, until then or until nobody wants it any more. What it left running in its group ends with it.
    fn wait(&mut self, until: Instant, stop: &AtomicBool) -> io::Result<Option<ExitStatus>> {
        loop {
            self.read();
            if self.has_ended()? {
                // Not reaped yet, so that this is still its group.
                let _ = kill_process_group(self.pid, Signal::KILL);
                self.read();
                return self.child.wait().map(Some);
            }
            if Instant::now() >= until || stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            thread::sleep(TICK);
        }
    }

    /// Ends it and its group.
    fn end(&mut self) {
        // That there is nobody left to be told is as good.
        let _ = kill_process_group(self.pid, Signal::TERM);
        let ended = self.wait(Instant::now() + GRACE, &AtomicBool::new(false));
        if !matches!(ended, Ok(Some(_))) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.wait(Instant::now() + GRACE, &AtomicBool::new(false));
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
                Ok(length) => {
                    self.output.extend_from_slice(&buffer[..length]);
                    let surplus = self.output.len().saturating_sub(MOST_OUTPUT);
                    self.output.drain(..surplus);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    /// The end of what it has printed, without what would confuse a terminal.
    fn output(&self) -> String {
        let text = String::from_utf8_lossy(&self.output);
        text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
    }
}

#[cfg(test)]
mod tests;
