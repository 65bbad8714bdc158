//! Stands for systemd where units are started and stopped: listens on a socket of its own, speaks as much D-Bus as it is asked, starts and
//! stops nothing, and remembers what it was asked.
//!
//! The agent's own tests take in this file as well, so it needs nothing but the standard library and `tempfile`. Deliberately not here:
//! whether systemd does what it is asked (`tests/vm`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use tempfile::TempDir;

/// What it was asked: the method, and the values as they came.
pub type Asked = (String, Vec<u8>);

#[derive(Debug, Default)]
struct Manner {
    /// How often something is still being stopped.
    busy: usize,
    /// What is refused.
    refused: Option<String>,
    asked: Vec<Asked>,
}

/// The stand-in.
#[derive(Debug)]
pub struct StandIn {
    path: PathBuf,
    manner: Arc<Mutex<Manner>>,
    _dir: TempDir,
}

impl Default for StandIn {
    fn default() -> StandIn {
        StandIn::new()
    }
}

impl StandIn {
    /// Listens until the test ends. One unit is being stopped when it is looked for the first time.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn new() -> StandIn {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let manner = Arc::new(Mutex::new(Manner { busy: 1, ..Manner::default() }));
        let shared = manner.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let manner = shared.clone();
                // The other side has gone when it has asked all that it wanted.
                thread::spawn(move || serve(stream, &manner));
            }
        });
        StandIn { path, manner, _dir: dir }
    }

    /// For as many looks something is being stopped.
    #[must_use]
    pub fn busy_for(self, looks: usize) -> StandIn {
        self.manner.lock().unwrap().busy = looks;
        self
    }

    /// This method is refused.
    #[must_use]
    pub fn refusing(self, method: &str) -> StandIn {
        self.manner.lock().unwrap().refused = Some(method.to_owned());
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was asked until now.
    ///
    /// # Panics
    /// When it panicked.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.manner.lock().unwrap().asked.clone()
    }

    /// Whether it was asked this, with this among the values.
    #[must_use]
    pub fn was_asked(&self, method: &str, value: &str) -> bool {
        self.times_asked(method, value) > 0
    }

    /// How often it was asked this, with this among the values.
    #[must_use]
    pub fn times_asked(&self, method: &str, value: &str) -> usize {
        let has = |values: &[u8]| values.windows(value.len()).any(|part| part == value.as_bytes());
        self.asked().iter().filter(|(asked, values)| asked == method && has(values)).count()
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn serve(mut stream: UnixStream, manner: &Mutex<Manner>) -> Option<()> {
    let mut said = Vec::new();
    let mut line = |stream: &mut UnixStream, end: &[u8]| -> Option<()> {
        said.clear();
        while !said.ends_with(end) {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            said.push(byte[0]);
        }
        Some(())
    };
    line(&mut stream, b"\r\n")?;
    stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").ok()?;
    line(&mut stream, b"BEGIN\r\n")?;
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head).ok()?;
        assert_eq!((head[0], head[1], head[3]), (b'l', 1, 1), "not a call");
        let fields = number(&head, 12);
        let mut rest = vec![0; fields.next_multiple_of(8) + number(&head, 4)];
        stream.read_exact(&mut rest).ok()?;
        let member = member(&rest[..fields]);
        let values = rest[fields.next_multiple_of(8)..].to_vec();
        let answer = {
            let mut manner = manner.lock().unwrap();
            manner.asked.push((member.clone(), values.clone()));
            answer(&mut manner, &member, &values)
        };
        // Something that nobody waits for comes first.
        stream.write_all(&message(4, 0, &[])).ok()?;
        let (kind, body) = answer;
        stream.write_all(&message(kind, number(&head, 8), &body)).ok()?;
    }
}

/// The method that is called.
fn member(fields: &[u8]) -> String {
    let mut at = 0_usize;
    loop {
        at = at.next_multiple_of(8);
        let (field, kind) = (fields[at], fields[at + 2]);
        at += 4;
        if kind == b'g' {
            at += usize::from(fields[at]) + 2;
            continue;
        }
        let length = number(fields, at);
        if field == 3 {
            return String::from_utf8(fields[at + 4..at + 4 + length].to_vec()).unwrap();
        }
        at += 4 + length + 1;
    }
}

/// A message's kind and body.
fn answer(manner: &mut Manner, method: &str, values: &[u8]) -> (u8, Vec<u8>) {
    let mut body = Vec::new();
    if manner.refused.as_deref() == Some(method) {
        text(&mut body, "the unit is transient");
        return (3, body);
    }
    let of_scopes = values.windows(7).any(|part| part == b"*.scope");
    match method {
        "ListUnitsByPatterns" => {
            let names: &[&str] =
                if of_scopes { &["init.scope", "session-1.scope"] } else { &["kept.service"] };
            array(&mut body, names, |body, name| {
                for part in [name, "described", "loaded", "active", "running", "", "/a/unit"] {
                    text(body, part);
                }
                word(body, 0);
                for part in ["", "/"] {
                    text(body, part);
                }
            });
        }
        "ListJobs" => {
            let busy = manner.busy > 0;
            manner.busy = manner.busy.saturating_sub(1);
            let names: &[&str] = if busy { &["slow.service"] } else { &[] };
            array(&mut body, names, |body, name| {
                word(body, 7);
                for part in [name, "stop", "running", "/a/job", "/a/unit"] {
                    text(body, part);
                }
            });
        }
        "AddDependencyUnitFiles" => array(&mut body, &[], |_, _| {}),
        "Reload" => {}
        _ => text(&mut body, "/a/job"),
    }
    (2, body)
}

fn word(body: &mut Vec<u8>, value: usize) {
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(u32::try_from(value).unwrap().to_le_bytes());
}

fn text(body: &mut Vec<u8>, text: &str) {
    word(body, text.len());
    body.extend(text.as_bytes());
    body.push(0);
}

/// An array of structures.
fn array(body: &mut Vec<u8>, names: &[&str], one: impl Fn(&mut Vec<u8>, &str)) {
    word(body, 0);
    let length = body.len() - 4;
    body.resize(body.len().next_multiple_of(8), 0);
    let begin = body.len();
    for name in names {
        body.resize(body.len().next_multiple_of(8), 0);
        one(body, name);
    }
    let written = u32::try_from(body.len() - begin).unwrap();
    body[length..length + 4].copy_from_slice(&written.to_le_bytes());
}

fn message(kind: u8, answers: usize, body: &[u8]) -> Vec<u8> {
    let mut message = vec![b'l', kind, 1, 1];
    word(&mut message, body.len());
    word(&mut message, 1);
    word(&mut message, 8);
    message.extend([5, 1, b'u', 0]);
    word(&mut message, answers);
    message.extend(body);
    message
}
