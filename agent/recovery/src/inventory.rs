//! What lies in a machine's target storage, and what of it is needed.
//!
//! Deliberately not here: checking or removing any of it.

use std::collections::BTreeSet;

use mobility_format::{DiskId, Epoch, key::TargetKey};

use crate::{
    Catalog,
    catalog::{Step, StepKind},
    keys::ObjectKey,
    storage::{Listed, StorageError, is_unfinished},
};

/// An object and how long it is.
pub(crate) struct Object {
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
}

/// All objects of a machine.
pub(crate) struct Inventory {
    /// Sorted by key.
    pub(crate) objects: Vec<Object>,
    /// What was begun and never got its name.
    pub(crate) unfinished: Vec<Listed>,
    /// What is no object of ours.
    pub(crate) foreign: Vec<String>,
}

impl Inventory {
    /// Lists what the machine has.
    pub(crate) fn of(catalog: &Catalog) -> Result<Inventory, StorageError> {
        let mut all = Inventory { objects: Vec::new(), unfinished: Vec::new(), foreign: Vec::new() };
        let top = format!("target/{}", catalog.machine);
        let locks = LOCKS.map(|name| format!("{top}/{name}"));
        catalog.stores.target().list(&top, &mut |listed| {
            if is_unfinished(&listed.key) {
                all.unfinished.push(listed);
            } else if let Some(key) = ObjectKey::parse(&listed.key) {
                all.objects.push(Object { key, size: listed.size });
            } else if !locks.contains(&listed.key) {
                all.foreign.push(listed.key);
            }
        })?;
        all.objects.sort_by_key(|object| object.key);
        Ok(all)
    }
}

/// The files that are there to be locked.
const LOCKS: [&str; 3] = ["lock", "intake.lock", "prune.lock"];

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
