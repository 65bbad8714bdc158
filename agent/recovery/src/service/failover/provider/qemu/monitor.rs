//! QEMU's monitor: the socket by which a running machine is steered.
//!
//! Deliberately not here: what becomes of QEMU's process.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

/// The socket, in the machine's directory.
pub(super) const SOCKET: &str = "monitor";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line that is read.
const LONGEST: u64 = 1 << 20;
/// Events that may come before an answer.
const EVENTS: usize = 100;

/// Ends QEMU.
pub(super) fn quit(directory: &Path) -> io::Result<()> {
    // By the directory's descriptor, for a socket's name may not be long.
    let directory = File::open(directory)?;
    let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(&stream);
    for command in ["qmp_capabilities", "quit"] {
        (&stream).write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
        answer(&mut lines)?;
    }
    Ok(())
}

/// Waits for the answer to what was said.
fn answer(lines: &mut impl BufRead) -> io::Result<()> {
    for _ in 0..EVENTS {
        let mut line = String::new();
        if lines.take(LONGEST).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let said: serde_json::Value = serde_json::from_str(&line)?;
        if said.get("return").is_some() {
            return Ok(());
        }
        if let Some(error) = said.get("error") {
            return Err(io::Error::other(error.to_string()));
        }
    }
    Err(io::Error::other("it says other things without end"))
}
