//! What lies in a machine's target storage, and what of it is needed.
//!
//! Deliberately not here: checking or removing any of it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use mobility_format::{DiskId, Epoch, key::TargetKey};

use crate::{
    Catalog,
    catalog::{Step, StepKind},
    keys::ObjectKey,
    storage::{self, Entry, StorageError, TEMPORARY},
};

/// An object and where it is.
pub(crate) struct Object {
    pub(crate) key: ObjectKey,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

/// All files of a machine.
pub(crate) struct Inventory {
    pub(crate) objects: Vec<Object>,
    /// What was begun and never got its name.
    pub(crate) unfinished: Vec<PathBuf>,
    /// What is no object of ours.
    pub(crate) foreign: Vec<PathBuf>,
}

impl Inventory {
    /// Walks through the machine's directory.
    pub(crate) fn of(catalog: &Catalog) -> Result<Inventory, StorageError> {
        let mut all = Inventory { objects: Vec::new(), unfinished: Vec::new(), foreign: Vec::new() };
        let top = catalog.vault.target_dir(catalog.machine);
        let mut dirs = vec![top.clone()];
        while let Some(dir) = dirs.pop() {
            for (name, kind) in storage::list(&dir)? {
                let path = dir.join(&name);
                if kind == Entry::Directory {
                    dirs.push(path);
                } else if name.starts_with(TEMPORARY) {
                    all.unfinished.push(path);
                } else if let Some(key) = key_of(catalog.vault.root(), &path) {
                    let size = path.symlink_metadata().map_or(0, |meta| meta.len());
                    all.objects.push(Object { key, path, size });
                } else if dir != top || !LOCKS.contains(&name.as_str()) {
                    all.foreign.push(path);
                }
            }
        }
        all.objects.sort_by_key(|object| object.key);
        Ok(all)
    }
}

/// The files that are there to be locked.
const LOCKS: [&str; 3] = ["lock", "intake.lock", "prune.lock"];

fn key_of(root: &Path, path: &Path) -> Option<ObjectKey> {
    ObjectKey::parse(path.strip_prefix(root).ok()?.to_str()?)
}

/// What the manifests that there are need, as far as they are intact.
pub(crate) fn needed(catalog: &Catalog) -> BTreeSet<ObjectKey> {
    let machine = catalog.machine;
    let mut needed = BTreeSet::new();
    for &epoch in catalog.manifests.keys() {
        needed.insert(TargetKey::Manifest { machine, epoch }.into());
        needed.insert(ObjectKey::Received { machine, epoch });
    }
    for (disk, chain) in &catalog.chains {
        let steps: BTreeSet<Step> = chain.steps_to(catalog.manifests.keys().copied());
        for step in steps {
            needed.extend(objects_of(catalog, *disk, step).into_iter().map(|(key, _)| key));
        }
    }
    for &(last, first) in catalog.merges.keys() {
        let wider = |&(l, f): &(Epoch, Epoch)| (l, f) != (last, first) && f <= first && l >= last;
        if !catalog.merges.keys().any(wider) {
            needed.insert(ObjectKey::Merge { machine, first, last });
        }
    }
    needed
}

/// The objects that hold a step's content, as far as they are there.
pub(crate) fn objects_of(catalog: &Catalog, disk: DiskId, step: Step) -> Vec<(ObjectKey, u64)> {
    let (_, segments) = catalog.step_content(disk, step);
    let mut keys: Vec<_> = segments.iter().map(|source| (source.key(), source.named.length.0)).collect();
    if step.kind == StepKind::Run {
        let run = TargetKey::Run { machine: catalog.machine, disk, first: step.first, last: step.last };
        keys.push((run.into(), 0));
    }
    keys
}
