//! Other programs, run to their end or to the end of the time there is.
//!
//! What they print stays in memory: some of it is secret, and a guest agent keeps what a handler prints. Each has a process
//! group of its own, so that its children end with it when its time is up, and so that it does not end half way when the guest
//! agent kills the handler's group. Deliberately not here: what the outcomes mean.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process_group},
};

use crate::failure::{Cause, Failure};

/// The most that is kept of what a program prints, on each of its outputs.
const MOST_KEPT: usize = 4 << 20;
/// How often it is looked whether it has ended.
const STEP: Duration = Duration::from_millis(15);
/// How long a program that was killed may take to go.
const GOING: Duration = Duration::from_secs(5);

/// What came of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code; nothing when a signal ended it, for instance because its time was up.
    pub(crate) code: Option<i32>,
    /// Whether its time was up.
    pub(crate) late: bool,
    /// What it printed.
    pub(crate) output: Vec<u8>,
    /// What it printed as errors.
    pub(crate) errors: String,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Why it failed, in a line.
    pub(crate) fn reason(&self) -> String {
        let said = self.errors.trim();
        let said: String =
            said.lines().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("; ");
        match (self.late, self.code) {
            (true, _) => format!("it did not end in time. {said}"),
            (false, Some(code)) => format!("exit code {code}. {said}"),
            (false, None) => format!("a signal ended it. {said}"),
        }
    }
}

/// Runs `command` with `input` as its standard input, until `end` at most.
pub(crate) fn run(mut command: Command, input: &[u8], end: Instant) -> Result<Outcome, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Cause::Missing, format!("there is no {name} on this machine"))
        }
        _ => Failure::other(&name, err),
    })?;
    follow(child, input, end).map_err(|err| Failure::other(name, err))
}

fn follow(mut child: Child, mut input: &[u8], end: Instant) -> io::Result<Outcome> {
    let mut stdin = child.stdin.take().map(OwnedFd::from).map(ready).transpose()?;
    let mut outputs = [
        (child.stdout.take().map(OwnedFd::from).map(ready).transpose()?, Vec::new()),
        (child.stderr.take().map(OwnedFd::from).map(ready).transpose()?, Vec::new()),
    ];
    let (mut late, mut give_up) = (false, None);
    let status = loop {
        // First whether it has ended, then what it has printed until then.
        let status = child.try_wait()?;
        if stdin.as_mut().is_some_and(|pipe| feed(pipe, &mut input)) {
            stdin = None;
        }
        let mut moved = false;
        for (pipe, kept) in &mut outputs {
            moved |= pipe.as_mut().is_some_and(|pipe| drain(pipe, kept));
        }
        if status.is_some() || give_up.is_some_and(|time| Instant::now() > time) {
            break status;
        }
        if !late && Instant::now() >= end {
            (late, give_up) = (true, Some(Instant::now() + GOING));
            if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
                // It may have ended just now.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        if !moved {
            thread::sleep(STEP);
        }
    };
    let [(_, output), (_, errors)] = outputs;
    let errors = String::from_utf8_lossy(&errors).into_owned();
    Ok(Outcome { code: status.and_then(|status| status.code()).filter(|_| !late), late, output, errors })
}

/// A pipe that does not keep us waiting.
fn ready(pipe: OwnedFd) -> io::Result<File> {
    let flags = fcntl_getfl(&pipe)?;
    fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
    Ok(pipe.into())
}

/// Gives what fits. Whether that is all, or nobody wants more.
fn feed(pipe: &mut File, input: &mut &[u8]) -> bool {
    while !input.is_empty() {
        match pipe.write(input) {
            Ok(written) => *input = &input[written..],
            Err(err) => return err.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Takes what there is. Whether there was any.
fn drain(pipe: &mut File, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16 << 10];
    let mut any = false;
    // Bounded, so that who prints without end is still looked at.
    for _ in 0..64 {
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                any = true;
                let room = MOST_KEPT - kept.len();
                kept.extend_from_slice(&buffer[..read.min(room)]);
            }
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8], limit: u64) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, input, Instant::now() + Duration::from_millis(limit)).unwrap()
    }

    #[test]
    fn what_goes_in_and_out_is_whole() {
        let input: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let outcome = shell("cat; echo wrong >&2; exit 3", &input, 60_000);
        assert_eq!((outcome.code, outcome.late), (Some(3), false));
        assert!(outcome.output == input && outcome.reason() == "exit code 3. wrong", "{}", outcome.reason());
        // Nobody reads it.
        assert!(shell("exec true", &input, 60_000).succeeded());
    }

    #[test]
    fn who_does_not_end_is_ended_with_its_children() {
        let begin = Instant::now();
        let outcome = shell("sleep 600 & echo $!; sleep 600", b"", 300);
        assert!(outcome.late && outcome.code.is_none() && begin.elapsed() < Duration::from_secs(20));
        let grandchild: i32 = String::from_utf8(outcome.output).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(begin.elapsed() < Duration::from_secs(20), "{}", state());
            thread::sleep(STEP);
        }
    }

    #[test]
    fn who_leaves_a_child_behind_has_ended_all_the_same() {
        let begin = Instant::now();
        let outcome = shell("sleep 20 & echo done", b"", 15_000);
        assert!(
            outcome.succeeded() && outcome.output == b"done\n" && begin.elapsed() < Duration::from_secs(10)
        );
    }

    #[test]
    fn what_is_printed_without_end_is_bounded_in_memory_and_time() {
        let outcome = shell("yes", b"", 500);
        assert!(outcome.late && outcome.output.len() <= MOST_KEPT);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let failure = run(Command::new("no-such-program"), b"", Instant::now()).unwrap_err();
        assert!(failure.cause == Cause::Missing && failure.message.contains("no-such-program"));
    }
}
