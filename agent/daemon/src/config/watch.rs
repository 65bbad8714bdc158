//! Notices that a configuration fragment was changed.
//!
//! Directories are watched, not files: an editor replaces a file and leaves a watch of it looking at nothing. Where a
//! directory is not there yet, the nearest one above it is watched. Deliberately not here: reading them again.

use std::path::{Path, PathBuf};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::DIRECTORIES;

/// Calls `changed` whenever a fragment below `root` may have changed, as long as the returned watcher lives.
pub(crate) fn watch(root: &Path, changed: impl Fn() + Send + 'static) -> notify::Result<RecommendedWatcher> {
    let directories: Vec<PathBuf> = DIRECTORIES.iter().map(|directory| root.join(directory)).collect();
    let watched = directories.clone();
    let concerns = move |event: &Event| {
        !matches!(event.kind, EventKind::Access(_))
            && event.paths.iter().any(|path| {
                watched.iter().any(|directory| directory.starts_with(path) || path.starts_with(directory))
            })
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.as_ref().is_ok_and(&concerns) {
            changed();
        }
    })?;
    for directory in directories {
        if let Some(there) = directory.ancestors().find(|path| path.is_dir()) {
            watcher.watch(there, RecursiveMode::NonRecursive)?;
        }
    }
    Ok(watcher)
}
