//! A process of guestfish: it runs an appliance, a small machine of its own, in which the restored disks are looked into. Neither the
//! service nor the kernel of its host ever interprets what is on them.
//!
//! It is told one command at a time. Everything has an end: an answer has so many lines, and all of it so much time. It works in a
//! directory of its own, and whatever works there is of this process: that is how what a killed service left is found and ended.
//! Deliberately not here: what it is told (`guest`).

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The program.
pub(super) const PROGRAM: &str = "guestfish";
/// How long all of it may take: a processor that is emulated makes a first file system in minutes.
pub(super) const LIMIT: Duration = Duration::from_secs(20 * 60);
/// How often is looked whether to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take to end.
const END: Duration = Duration::from_secs(20);
/// The most lines of an answer, and bytes of a line.
const MOST_LINES: usize = 50_000;
const LONGEST_LINE: u64 = 16 << 10;
/// How a line begins that says what went wrong.
const ERROR: &str = "libguestfs: error: ";

/// It answers no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It was told to stop.
    Stopped,
    /// It took too long.
    Late,
    /// It ended; what it said last.
    Ended(String),
}

/// What came of a command: the lines that it printed, or what went wrong.
pub(super) type Answer = Result<Vec<String>, String>;

/// A running process.
pub(super) struct Guestfish<'a> {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    directory: PathBuf,
    asked: u64,
    end: Instant,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Guestfish<'a> {
    /// Starts it in a directory that is emptied before, and removed with everything in it at the end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(
        directory: &Path,
        emulated: bool,
        stop: &'a dyn Fn() -> bool,
    ) -> io::Result<Guestfish<'a>> {
        clean(directory)?;
        fs::create_dir_all(directory)?;
        let (reader, writer) = io::pipe()?;
        // Without a buffer, for each answer is waited for.
        let mut command = Command::new("stdbuf");
        command.args(["-o0", PROGRAM]);
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        command.process_group(0).current_dir(directory);
        command.env("TMPDIR", directory).env("LC_ALL", "C");
        if std::env::var_os("LIBGUESTFS_BACKEND").is_none() {
            command.env("LIBGUESTFS_BACKEND", "direct");
        }
        if emulated {
            command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
        }
        let mut child = command.spawn()?;
        let (tell, lines) = sync_channel(256);
        thread::spawn(move || read_lines(reader, &tell));
        let (input, end) = (child.stdin.take(), Instant::now() + LIMIT);
        Ok(Guestfish { child, input, lines, directory: directory.to_owned(), asked: 0, end, stop })
    }

    /// Where files can be put that it is to read, or that it writes.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has it do something, and waits for what comes of it.
    pub(super) fn ask(&mut self, command: &str) -> Result<Answer, Broken> {
        self.asked += 1;
        let mark = format!("--- end of answer {} ---", self.asked);
        // Nobody's to choose: a line's end would begin another command.
        let command = command.replace(['\n', '\r'], " ");
        let said = self
            .input
            .as_mut()
            .map(|input| input.write_all(format!("-{command}\necho \"{mark}\"\n").as_bytes()));
        let mut answer = Vec::new();
        if !matches!(said, Some(Ok(()))) {
            return Err(self.ended(&answer));
        }
        let mut error = None;
        loop {
            if (self.stop)() {
                return Err(Broken::Stopped);
            }
            if Instant::now() > self.end {
                return Err(Broken::Late);
            }
            match self.lines.recv_timeout(LOOK) {
                Ok(line) if line == mark => break,
                Ok(line) => {
                    if let Some((_, problem)) = line.split_once(ERROR).filter(|(before, _)| is_prefix(before))
                    {
                        error.get_or_insert(problem.to_owned());
                    }
                    if answer.len() < MOST_LINES {
                        answer.push(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(&answer)),
            }
        }
        Ok(match error {
            Some(problem) => Err(problem),
            None => Ok(answer),
        })
    }

    fn ended(&mut self, answer: &[String]) -> Broken {
        Broken::Ended(answer.last().cloned().unwrap_or_else(|| "it said nothing".to_owned()))
    }
}

/// Whether it is what guestfish puts before an error.
fn is_prefix(text: &str) -> bool {
    text.is_empty() || (text.starts_with("*stdin*:") && text.ends_with(": "))
}

fn read_lines(from: io::PipeReader, tell: &SyncSender<String>) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                if tell.send(line).is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for Guestfish<'_> {
    fn drop(&mut self) {
        // At the end of its input it ends, if it is not at something that takes long.
        self.input = None;
        let begin = Instant::now();
        let patience = if (self.stop)() || begin > self.end { Duration::ZERO } else { END };
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < patience {
            // What it still says is in its way.
            while self.lines.try_recv().is_ok() {}
            thread::sleep(LOOK);
        }
        let cleaned = clean(&self.directory);
        self.child.kill().ok();
        self.child.wait().ok();
        if let Err(err) = cleaned {
            tracing::warn!("what guestfish left in {} stays: {err}", self.directory.display());
        }
    }
}

/// Ends every process that works in the directory, and removes it with what they made elsewhere.
///
/// # Errors
/// When something stays.
pub(in super::super) fn clean(directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let here = directory.canonicalize()?;
    let begin = Instant::now();
    let mut sockets = Vec::new();
    loop {
        let there = working_in(&here);
        if there.is_empty() {
            break;
        }
        for pid in there {
            sockets.extend(socket_directory(pid));
            // Gone meanwhile is as good.
            kill_process(pid, Signal::KILL).ok();
        }
        if begin.elapsed() > END {
            return Err(io::Error::other("processes that work there do not end"));
        }
        thread::sleep(LOOK / 4);
    }
    for made in sockets {
        fs::remove_dir_all(made).or_else(absent)?;
    }
    fs::remove_dir_all(directory).or_else(absent)
}

fn absent(err: io::Error) -> io::Result<()> {
    if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) }
}

/// The processes that work in a directory, without those that have ended and wait to be heard of.
fn working_in(directory: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == directory))
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Where the appliance's sockets are: not where it was told, since their names may not be long.
fn socket_directory(pid: Pid) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let (_, path) = line.split_once("path=")?;
    let directory = Path::new(path.split([',', '\0']).next()?).parent()?.to_owned();
    let is_its = directory.file_name()?.to_str()?.starts_with("libguestfs");
    is_its.then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_works_in_a_directory_is_ended_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        let mut sleeping = Command::new("sleep").arg("600").current_dir(&there).spawn().unwrap();
        let mut other = Command::new("sleep").arg("600").current_dir(dir.path()).spawn().unwrap();
        let reaped = thread::spawn(move || sleeping.wait().unwrap());
        clean(&there).unwrap();
        assert!(!there.exists() && !reaped.join().unwrap().success());
        assert_eq!(other.try_wait().unwrap(), None, "one that works elsewhere was ended");
        other.kill().unwrap();
        other.wait().unwrap();
        clean(&there).unwrap();
    }

    #[test]
    fn an_error_is_told_from_what_a_command_prints() {
        assert!(is_prefix("*stdin*:12: ") && is_prefix(""));
        assert!(!is_prefix("/srv/") && !is_prefix("*stdin*:12"));
    }
}
