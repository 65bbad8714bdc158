//! What QEMU is told over its control socket: disks plugged in, taken out and grown, and the cable pulled.
//!
//! Deliberately not here: which disks those are.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use mobility_tests::scratch::eventually;
use serde_json::{Value, json};

/// How long an answer may take. A busy QEMU takes a moment.
const ANSWER: Duration = Duration::from_secs(60);

/// The control socket of a running QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects as soon as QEMU listens at `path`.
    pub(crate) fn connect(path: &Path) -> Qmp {
        let stream = eventually("QEMU's control socket", ANSWER, || UnixStream::connect(path).ok());
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut qmp = Qmp { lines: BufReader::new(stream) };
        assert!(qmp.line()["QMP"].is_object());
        qmp.tell("qmp_capabilities", &json!({}));
        qmp
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("QEMU said {line:?}: {error}"))
    }

    /// Tells QEMU to do something, and waits until it has.
    #[track_caller]
    pub(crate) fn tell(&mut self, what: &str, arguments: &Value) {
        let message = json!({ "execute": what, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{message}").unwrap();
        loop {
            let line = self.line();
            assert!(line["error"].is_null(), "{message}: {line}");
            if !line["return"].is_null() {
                return;
            }
        }
    }

    /// Waits for something to happen to the device `id`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str, id: &str) {
        loop {
            let line = self.line();
            if line["event"] == event && line["data"]["device"] == id {
                return;
            }
        }
    }
}
