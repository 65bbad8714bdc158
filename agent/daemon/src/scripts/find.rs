//! Which files of a directory are scripts, and whether it is safe to run them.
//!
//! They run with the agent's rights, so whoever may change one of them, its directory or a directory above may do what
//! the agent may. Nobody but root and the agent's own user may be among those. Deliberately not here: running them.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::ScriptError;

/// The most scripts that a directory may hold.
pub(super) const MAX_SCRIPTS: usize = 64;
/// The most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 1024;

/// A script that may be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// Its name in the directory, which is also its place in the order.
    pub(super) name: OsString,
    /// What is run, as it was found: a link is not followed, so that a script knows itself by its name.
    pub(super) path: PathBuf,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The scripts in their order.
    pub(super) scripts: Vec<Script>,
    /// Files that are left alone, and why.
    pub(super) ignored: Vec<(PathBuf, &'static str)>,
}

/// The scripts of `dir`. A directory that is not there holds none.
pub(super) fn find(dir: &Path) -> Result<Found, ScriptError> {
    let unreadable = |source: io::Error| ScriptError::Directory { dir: dir.to_owned(), source };
    let real = match fs::canonicalize(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        real => real.map_err(unreadable)?,
    };
    check_whole(&real)?;
    let mut found = Found::default();
    for (count, entry) in fs::read_dir(&real).map_err(unreadable)?.enumerate() {
        if count == MAX_ENTRIES {
            return Err(ScriptError::TooMany { dir: dir.to_owned(), most: MAX_ENTRIES });
        }
        let (name, path) = entry.map(|entry| (entry.file_name(), entry.path())).map_err(unreadable)?;
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            // Gone since, or a link to nothing.
            Err(_) => {
                found.ignored.push((path, "it is not there"));
                continue;
            }
        };
        if let Some(why) = no_script(&name, &meta) {
            found.ignored.push((path, why));
            continue;
        }
        let target =
            fs::canonicalize(&path).map_err(|source| ScriptError::Start { script: name.clone(), source })?;
        check_whole(&target)?;
        found.scripts.push(Script { name, path });
    }
    if found.scripts.len() > MAX_SCRIPTS {
        return Err(ScriptError::TooMany { dir: dir.to_owned(), most: MAX_SCRIPTS });
    }
    found.scripts.sort_by(|a, b| a.name.cmp(&b.name));
    found.ignored.sort();
    Ok(found)
}

/// Why a file is no script, if it is none.
fn no_script(name: &OsStr, meta: &Metadata) -> Option<&'static str> {
    // What an earlier agent held is noted by name.
    let Some(name) = name.to_str().map(str::as_bytes) else { return Some("its name is not text") };
    let left = [&b".dpkg-"[..], b".rpm"].into_iter().any(|mark| {
        let at = name.iter().rposition(|byte| *byte == b'.');
        at.is_some_and(|at| name[at..].starts_with(mark))
    });
    if name.starts_with(b".") || name.ends_with(b"~") || left {
        return Some("its name is that of a hidden file, a copy or something that a package left");
    }
    if !meta.is_file() {
        return Some("it is not a regular file");
    }
    (meta.mode() & 0o111 == 0).then_some("it is not executable")
}

/// Checks a path without links, and everything above it.
fn check_whole(path: &Path) -> Result<(), ScriptError> {
    for (above, path) in path.ancestors().enumerate() {
        let unsafe_because = |reason: String| ScriptError::Unsafe { path: path.to_owned(), reason };
        let meta = fs::metadata(path).map_err(|err| unsafe_because(format!("cannot be looked at: {err}")))?;
        let own = rustix::process::geteuid().as_raw();
        if meta.uid() != 0 && meta.uid() != own {
            return Err(unsafe_because(format!(
                "belongs to user {}, who could change what runs with the rights of user {own}; give it to root",
                meta.uid()
            )));
        }
        // In a sticky directory, such as /tmp, only the owner of a file may put another into its place.
        let sticky = above > 0 && meta.is_dir() && meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && !sticky {
            return Err(unsafe_because(format!(
                "can be written by others than its owner; run `chmod go-w {}`",
                path.display()
            )));
        }
    }
    Ok(())
}
