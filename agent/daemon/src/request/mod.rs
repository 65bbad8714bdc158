//! Asking the running agent for a point: one file with the question, one with the answer, in a directory of the agent's
//! runtime directory that only its user may enter. There is no socket to ask at, so there is none to attack.
//!
//! ```text
//! <runtime>/<machine>.requests/<id>.json           written by who asks, removed by the agent with its answer
//!                              <id>.answer.json    written by the agent, removed by who asked
//!                              .<name>.new         either, unfinished
//! ```
//!
//! A question stays until it is answered, so it outlives an agent that is killed meanwhile. Both sides watch the directory;
//! nobody polls. Deliberately not here: the command that asks (`point`), and how a point is made.

#[cfg(test)]
mod tests;
mod watch;

use std::{
    fmt, fs, io,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::Timestamp;
use mobility_format::{
    Digest, Epoch, Generation, MachineId,
    manifest::{Consistency, CutMethod},
};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use watch::watch;

use crate::identity;

/// The version of both files.
const VERSION: u32 = 1;
/// The longest file, in bytes.
const MAX_LEN: u64 = 4 << 10;
const ANSWER: &str = ".answer.json";
const REQUEST: &str = ".json";

/// Which request: drawn at random by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId([u8; 16]);

impl RequestId {
    /// One that nobody else has.
    pub(crate) fn draw() -> anyhow::Result<RequestId> {
        Ok(RequestId(identity::random()?))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RequestId {
    type Err = ();

    fn from_str(text: &str) -> Result<RequestId, ()> {
        // Ids of machines are written the same way.
        text.parse::<MachineId>().map(|id| RequestId(id.0)).map_err(|_| ())
    }
}

/// A request for a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Which one.
    pub(crate) id: RequestId,
    /// Whether applications shall be made ready for it.
    pub(crate) application: bool,
}

/// A request as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    version: u32,
    application: bool,
    /// When nobody waits for it any more.
    expires: Timestamp,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// A point was made. It may be less consistent than what was asked for.
    Made(Made),
    /// None was made.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A point that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Its name, as `recovery-service points` has it.
    pub(crate) id: String,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its generation.
    pub(crate) generation: Generation,
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// What moment it shows.
    pub(crate) time: Timestamp,
    /// How consistent it is.
    pub(crate) consistency: Consistency,
    /// How its cut was made.
    pub(crate) method: CutMethod,
    /// Why it is no better, if it is less than what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// Why nothing can be asked or answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Somebody else could put files there.
    #[error("{} {reason}; no request is taken", path.display())]
    Unsafe { path: PathBuf, reason: &'static str },
    /// Changes cannot be watched.
    #[error(
        "{} cannot be watched for requests and answers: {source}; more watches may be allowed with the sysctls fs.inotify.max_user_instances and fs.inotify.max_user_watches",
        path.display()
    )]
    Watch { path: PathBuf, source: notify::Error },
}

/// The directory of a machine's requests.
pub(crate) fn dir(runtime_dir: &Path, machine: MachineId) -> PathBuf {
    runtime_dir.join(format!("{machine}.requests"))
}

fn question_path(dir: &Path, id: &RequestId) -> PathBuf {
    dir.join(format!("{id}{REQUEST}"))
}

fn answer_path(dir: &Path, id: &RequestId) -> PathBuf {
    dir.join(format!("{id}{ANSWER}"))
}

/// Puts a request where the agent finds it.
pub(crate) fn ask(dir: &Path, request: &Request, expires: Timestamp) -> Result<(), RequestError> {
    let question = Question { version: VERSION, application: request.application, expires };
    replace(&question_path(dir, &request.id), &question)
}

/// The answer to a request, if it is there.
pub(crate) fn answered(dir: &Path, id: &RequestId) -> Result<Option<Answer>, RequestError> {
    let path = answer_path(dir, id);
    match read(&path) {
        Ok(answer) => Ok(Some(answer)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RequestError::File { path, source }),
    }
}

/// Removes whatever there is of a request.
pub(crate) fn forget(dir: &Path, id: &RequestId) {
    // What cannot be removed is removed by the agent, later.
    let _ = fs::remove_file(question_path(dir, id));
    let _ = fs::remove_file(answer_path(dir, id));
}

/// Answers a request, unless nobody waits for it any more.
pub(crate) fn answer(dir: &Path, id: &RequestId, answer: &Answer) -> Result<(), RequestError> {
    let question = question_path(dir, id);
    if !question.exists() {
        return Ok(());
    }
    replace(&answer_path(dir, id), answer)?;
    match fs::remove_file(&question) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(RequestError::File { path: question, source: err })
        }
        _ => Ok(()),
    }
}

/// Writes a file so that it is there as a whole or not at all.
fn replace<T: Serialize>(path: &Path, content: &T) -> Result<(), RequestError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let bytes = serde_json::to_vec(content)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&unfinished)?;
        file.write_all(&bytes)?;
        fs::rename(&unfinished, path)
    };
    write().map_err(|source| RequestError::File { path: path.to_owned(), source })
}

/// Reads a file that nobody but root and our own user can have written.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.mode() & 0o022 != 0 {
        return Err(refuse("is not a regular file that only its owner can write"));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&meta.uid()) {
        return Err(refuse("belongs neither to root nor to the user of this process"));
    }
    let mut bytes = Vec::new();
    if file.take(MAX_LEN + 1).read_to_end(&mut bytes)? as u64 > MAX_LEN {
        return Err(refuse("is longer than 4096 bytes"));
    }
    Ok(serde_json::from_slice(&bytes)?)
}
