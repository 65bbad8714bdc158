//! Commands that the guest runs for a test, and what it printed: the host's side of `guest/shell.sh`.
//!
//! Deliberately not here: whether the guest is up. A question to one that is not is asked again, by whoever waits for it.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mobility_tests::scratch::eventually;

/// What the guest's own limit is given beyond, since its clock and the host's are not the same.
const GRACE: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its exit code; 124 if it took too long.
    pub(crate) code: i32,
    /// What it printed, to either side.
    pub(crate) printed: String,
}

/// The line to the guest.
#[derive(Debug)]
pub(crate) struct Shell {
    lines: BufReader<UnixStream>,
    asked: u64,
}

impl Shell {
    pub(crate) fn connect(path: &Path) -> Shell {
        let stream =
            eventually("the guest's line", Duration::from_secs(60), || UnixStream::connect(path).ok());
        Shell::over(stream)
    }

    /// The same where the line is there already.
    pub(crate) fn over(stream: UnixStream) -> Shell {
        Shell { lines: BufReader::new(stream), asked: 0 }
    }

    /// Has the guest run `command`; nothing if no answer came within `limit` and a grace.
    pub(crate) fn ask(&mut self, command: &str, limit: Duration) -> Option<Answer> {
        self.ask_within(command, limit, limit + GRACE)
    }

    /// The same with the host's patience apart from the guest's limit.
    pub(crate) fn ask_within(
        &mut self,
        command: &str,
        limit: Duration,
        patience: Duration,
    ) -> Option<Answer> {
        self.asked += 1;
        let (id, seconds) = (self.asked, limit.as_secs());
        writeln!(self.lines.get_mut(), "{id} {seconds} {}", STANDARD.encode(command)).ok()?;
        let end = Instant::now() + patience;
        // A line may arrive in pieces.
        let mut line = Vec::new();
        loop {
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.lines.get_mut().set_read_timeout(Some(left)).unwrap();
            match self.lines.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => match answer(&line, id) {
                    Some(answer) => return Some(answer),
                    // Of an earlier question, or of one that a reboot cut in half.
                    None => line.clear(),
                },
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }
}

fn answer(line: &[u8], id: u64) -> Option<Answer> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    if words.next()?.parse() != Ok(id) {
        return None;
    }
    let code = words.next()?.parse().ok()?;
    let printed = STANDARD.decode(words.next().unwrap_or_default()).ok()?;
    Some(Answer { code, printed: String::from_utf8_lossy(&printed).into_owned() })
}
