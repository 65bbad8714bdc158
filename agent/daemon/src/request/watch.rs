//! The agent's side: what is asked for is found, checked and handed on, once.
//!
//! The directory is listed as a whole whenever something in it has changed: an event that was lost costs nothing as long as
//! another follows, and the first listing finds what was asked while no agent ran. Deliberately not here: answering what
//! was handed on.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{ANSWER, Answer, Question, REQUEST, Request, RequestError, RequestId, VERSION, answer, read};
use crate::clock;

/// The most requests that may wait at once.
pub(super) const MAX_WAITING: usize = 64;
/// The most files that are looked at in one go.
const MAX_LISTED: usize = 1024;
/// After which time an answer that nobody has taken, and anything unfinished, is removed.
pub(super) const STALE: Duration = Duration::from_secs(3600);

/// Calls `send` for each request in `dir`, which is made if it is not there, as long as the returned watcher lives.
pub(crate) fn watch(
    dir: &Path,
    send: impl Fn(Request) + Send + 'static,
) -> Result<RecommendedWatcher, RequestError> {
    prepare(dir)?;
    let intake = Arc::new(Mutex::new(Intake::new(dir, send)));
    let watching = Arc::clone(&intake);
    let failed = |source| RequestError::Watch { path: dir.to_owned(), source };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may stand for events that were lost.
        if event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            return;
        }
        watching.lock().unwrap_or_else(PoisonError::into_inner).look();
    })
    .map_err(failed)?;
    watcher.watch(dir, RecursiveMode::NonRecursive).map_err(failed)?;
    intake.lock().unwrap_or_else(PoisonError::into_inner).look();
    Ok(watcher)
}

/// Makes the directory, or sees to it that one which is there is as safe as one that we made.
fn prepare(dir: &Path) -> Result<(), RequestError> {
    let fail = |source| RequestError::File { path: dir.to_owned(), source };
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(fail)?,
    }
    let meta = fs::symlink_metadata(dir).map_err(fail)?;
    let refuse = |reason| Err(RequestError::Unsafe { path: dir.to_owned(), reason });
    if !meta.is_dir() {
        return refuse("is not a directory");
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    if meta.mode() & 0o777 != 0o700 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(fail)?;
    }
    Ok(())
}

/// What is asked for, and which of it was handed on.
pub(super) struct Intake<S> {
    dir: PathBuf,
    send: S,
    waiting: BTreeSet<RequestId>,
}

impl<S: Fn(Request)> Intake<S> {
    pub(super) fn new(dir: &Path, send: S) -> Intake<S> {
        Intake { dir: dir.to_owned(), send, waiting: BTreeSet::new() }
    }

    /// Hands on what is new, and clears away what is old.
    pub(super) fn look(&mut self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries.flatten().take(MAX_LISTED) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let id = |end| name.strip_suffix(end).and_then(|id| id.parse::<RequestId>().ok());
            match (id(ANSWER), id(REQUEST)) {
                (None, Some(id)) => drop(asked.insert(id)),
                (Some(id), _) if !is_stale(&entry) => drop(answered.insert(id)),
                _ if is_stale(&entry) => drop(fs::remove_file(entry.path())),
                _ => {}
            }
        }
        self.waiting.retain(|id| asked.contains(id));
        for id in asked {
            if answered.contains(&id) {
                // Its agent was killed between the two steps of answering.
                let _ = fs::remove_file(super::question_path(&self.dir, &id));
            } else if !self.waiting.contains(&id) {
                self.take(id);
            }
        }
    }

    fn take(&mut self, id: RequestId) {
        let question: io::Result<Question> = read(&super::question_path(&self.dir, &id));
        let refusal = match question {
            // Who asked has given up.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return,
            Err(err) => format!("the request {err}"),
            Ok(question) if question.version != VERSION => {
                format!("the request is of version {}; the agent knows {VERSION}", question.version)
            }
            Ok(question) if question.expires < clock::wall() => {
                let _ = fs::remove_file(super::question_path(&self.dir, &id));
                return;
            }
            Ok(_) if self.waiting.len() >= MAX_WAITING => {
                format!("{MAX_WAITING} requests are waiting already; ask again later")
            }
            Ok(question) => {
                self.waiting.insert(id);
                return (self.send)(Request { id, application: question.application });
            }
        };
        if let Err(err) = answer(&self.dir, &id, &Answer::Failed { reason: refusal }) {
            tracing::warn!("a request cannot be answered: {err}");
        }
    }
}

fn is_stale(entry: &fs::DirEntry) -> bool {
    let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > STALE)
}
