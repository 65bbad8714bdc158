//! Reads a catalog from target storage, leaving out what is damaged.
//!
//! Deliberately not here: what the catalog is asked afterwards.

use std::{collections::BTreeSet, path::Path};

use jiff::Timestamp;
use mobility_format::{
    Digest, DiskId, Epoch, MachineId,
    key::TargetKey,
    manifest::{Run, SignedManifest},
};

use super::{Catalog, Chain, Damage, Step, StepKind, Stored, StoredRun};
use crate::{
    Vault,
    keys::ObjectKey,
    records::{MachineRecord, Merge, Received, Record},
    storage::{self, Entry, StorageError},
};

pub(super) fn load(vault: &Vault, machine: MachineId) -> Result<Catalog, StorageError> {
    let mut loading = Loading {
        catalog: Catalog {
            vault: vault.clone(),
            machine,
            record: None,
            manifests: Default::default(),
            runs: Default::default(),
            merges: Default::default(),
            damage: Vec::new(),
            chains: Default::default(),
            lock: None,
        },
    };
    loading.machine_record();
    loading.manifests()?;
    loading.merged()?;
    loading.check_links();
    loading.check_merges();
    loading.link_chains();
    loading.check_runs();
    loading.catalog.damage.sort_by_key(|damage| (damage.key.last_epoch(), damage.key));
    Ok(loading.catalog)
}

struct Loading {
    catalog: Catalog,
}

impl Loading {
    fn damaged(&mut self, key: impl Into<ObjectKey>, problem: impl Into<String>) {
        self.catalog.damage.push(Damage { key: key.into(), problem: problem.into(), missing: false });
    }

    fn missing(&mut self, key: impl Into<ObjectKey>, problem: &str) {
        self.catalog.damage.push(Damage { key: key.into(), problem: problem.to_owned(), missing: true });
    }

    /// Reads an object and hands it to `parse`; what goes wrong is noted as damage.
    fn read<T>(&mut self, key: ObjectKey, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Option<T> {
        let bytes = storage::read_small(&self.catalog.vault.path_of(&key));
        match bytes.map_err(|err| format!("unreadable: {}", err.source)).and_then(|bytes| parse(&bytes)) {
            Ok(read) => Some(read),
            Err(problem) => {
                self.damaged(key, problem);
                None
            }
        }
    }

    fn machine_record(&mut self) {
        let machine = self.catalog.machine;
        let key = ObjectKey::Machine { machine };
        if !self.catalog.vault.path_of(&key).exists() {
            return self.missing(key, "missing");
        }
        self.catalog.record = self.read(key, |bytes| {
            let record = MachineRecord::parse(bytes).map_err(|err| err.to_string())?;
            expect("machine", &record.machine, &machine).map(|()| record)
        });
    }

    fn manifests(&mut self) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let dir = self.catalog.vault.target_dir(machine).join("points");
        for (name, _) in storage::list(&dir)? {
            let key = ObjectKey::parse(&format!("target/{machine}/points/{name}"));
            let Some(key @ ObjectKey::Target(TargetKey::Manifest { epoch, .. })) = key else { continue };
            let record = self.catalog.record.clone();
            let Some(signed) = self.read(key, |bytes| manifest(bytes, machine, epoch, record.as_ref()))
            else {
                continue;
            };
            let received = self.received(epoch, signed.digest, &dir.join(&name));
            self.catalog.manifests.insert(epoch, Stored { signed, received });
        }
        Ok(())
    }

    /// When a manifest came. Without a sound record, when its file was written: the service did that as well.
    fn received(&mut self, epoch: Epoch, manifest: Digest, path: &Path) -> Timestamp {
        let machine = self.catalog.machine;
        let key = ObjectKey::Received { machine, epoch };
        let file_time = || path.metadata().and_then(|meta| meta.modified()).ok()?.try_into().ok();
        if !self.catalog.vault.path_of(&key).exists() {
            self.missing(key, "missing");
            return file_time().unwrap_or_default();
        }
        let record = self.read(key, |bytes| {
            let record = Received::parse(bytes).map_err(|err| err.to_string())?;
            expect("machine", &record.machine, &machine)?;
            expect("epoch", &record.epoch, &epoch)?;
            expect("manifest", &record.manifest, &manifest).map(|()| record)
        });
        record.map(|record| record.received).or_else(file_time).unwrap_or_default()
    }

    fn merged(&mut self) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let dir = self.catalog.vault.target_dir(machine).join("merged");
        for (name, kind) in storage::list(&dir)? {
            if kind == Entry::Directory {
                self.runs(&dir, &name)?;
                continue;
            }
            let key = ObjectKey::parse(&format!("target/{machine}/merged/{name}"));
            let Some(key @ ObjectKey::Merge { first, last, .. }) = key else { continue };
            let merge = self.read(key, |bytes| {
                let merge = Merge::parse(bytes).map_err(|err| err.to_string())?;
                expect("machine", &merge.machine, &machine)?;
                expect("first epoch", &merge.first_epoch, &first)?;
                expect("last epoch", &merge.last_epoch, &last).map(|()| merge)
            });
            if let Some(merge) = merge {
                self.catalog.merges.insert((last, first), merge);
            }
        }
        Ok(())
    }

    fn runs(&mut self, dir: &Path, disk: &str) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        for (range, _) in storage::list(&dir.join(disk))? {
            let key = ObjectKey::parse(&format!("target/{machine}/merged/{disk}/{range}/run"));
            let Some(key @ ObjectKey::Target(TargetKey::Run { disk, first, last, .. })) = key else {
                continue;
            };
            if !self.catalog.vault.path_of(&key).exists() {
                continue;
            }
            let run = self.read(key, |bytes| {
                let run = Run::parse(bytes).map_err(|err| err.to_string())?;
                expect("machine", &run.machine, &machine)?;
                expect("disk", &run.disk, &disk)?;
                expect("first epoch", &run.first_epoch, &first)?;
                expect("last epoch", &run.last_epoch, &last)?;
                Ok(StoredRun { run, digest: Digest::of(bytes) })
            });
            if let Some(run) = run {
                self.catalog.runs.insert((disk, last, first), run);
            }
        }
        Ok(())
    }

    /// A manifest that the next one does not name has been put in the place of another.
    fn check_links(&mut self) {
        let machine = self.catalog.machine;
        let pairs = self.catalog.manifests.iter().zip(self.catalog.manifests.iter().skip(1));
        let replaced = pairs.filter(|((epoch, this), (next, successor))| {
            epoch.next() == **next && successor.signed.manifest.previous != this.signed.digest
        });
        for epoch in replaced.map(|((epoch, _), _)| *epoch).collect::<Vec<_>>() {
            self.catalog.manifests.remove(&epoch);
            let problem = "exchanged: the manifest of the next epoch names another by its digest";
            self.damaged(TargetKey::Manifest { machine, epoch }, problem);
        }
    }

    /// What a merge names must be there and be what it names, unless a wider merge has taken its place.
    fn check_merges(&mut self) {
        let machine = self.catalog.machine;
        let merges: Vec<_> = self.catalog.merges.values().cloned().collect();
        for merge in &merges {
            let (first, last) = (merge.first_epoch, merge.last_epoch);
            let wider =
                |other: &Merge| other != merge && other.first_epoch <= first && other.last_epoch >= last;
            if merges.iter().any(wider) {
                continue;
            }
            for disk in &merge.disks {
                let key = TargetKey::Run { machine, disk: disk.id, first, last };
                match self.catalog.runs.get(&(disk.id, last, first)) {
                    Some(run) if run.digest == disk.run => {}
                    Some(_) => {
                        self.catalog.runs.remove(&(disk.id, last, first));
                        self.damaged(key, "exchanged: the record of the merge names another by its digest");
                    }
                    None => self.missing_unless_damaged(key.into()),
                }
            }
            let manifest = TargetKey::Manifest { machine, epoch: last };
            match self.catalog.manifests.get(&last) {
                Some(stored) if stored.signed.digest == merge.manifest => {}
                Some(_) => {
                    self.catalog.manifests.remove(&last);
                    self.damaged(manifest, "exchanged: the record of a merge names another by its digest");
                }
                None => self.missing_unless_damaged(manifest.into()),
            }
        }
    }

    fn missing_unless_damaged(&mut self, key: ObjectKey) {
        if self.catalog.damage.iter().all(|damage| damage.key != key) {
            self.missing(key, "missing");
        }
    }

    fn link_chains(&mut self) {
        self.catalog.link_chains();
        let chains = std::mem::take(&mut self.catalog.chains);
        for (disk, chain) in &chains {
            self.explain_gap(*disk, chain);
        }
        self.catalog.chains = chains;
    }

    /// A run that readers rely on without its inputs must have the record of its merge beside it.
    fn check_runs(&mut self) {
        let mut without = BTreeSet::new();
        for (&disk, chain) in &self.catalog.chains {
            let steps = chain.steps_to(self.catalog.manifests.keys().copied());
            for step in steps.into_iter().filter(|step| step.kind == StepKind::Run) {
                let covers = |&(last, first): &(Epoch, Epoch)| first <= step.first && last >= step.last;
                if !self.catalog.merges.keys().any(covers) && !self.has_inputs(disk, step) {
                    without.insert((step.first, step.last));
                }
            }
        }
        let machine = self.catalog.machine;
        for (first, last) in without {
            self.missing_unless_damaged(ObjectKey::Merge { machine, first, last });
        }
    }

    /// Whether a run could still be made again.
    fn has_inputs(&self, disk: DiskId, run: Step) -> bool {
        let inside = |step: &Step| step != &run && step.first >= run.first && step.last <= run.last;
        let before = Epoch(run.first.0 - 1);
        let inputs = self.catalog.steps(disk).into_iter().filter(inside).collect();
        Chain::link(before, inputs).reaches(run.last)
    }

    /// Where a manifest of the disk cannot be reached and no damage is known that explains it, something is missing.
    fn explain_gap(&mut self, disk: DiskId, chain: &Chain) {
        let of_disk =
            self.catalog.manifests.iter().filter(|(_, stored)| stored.signed.manifest.disk(disk).is_some());
        let Some((&epoch, _)) = of_disk.into_iter().find(|(epoch, _)| !chain.reaches(**epoch)) else {
            return;
        };
        let reached = chain.reached_before(epoch);
        let explains = |damage: &Damage| {
            self.catalog.matters(damage, disk, epoch)
                && damage.key.last_epoch().is_some_and(|last| last > reached)
        };
        if !self.catalog.damage.iter().any(explains) {
            let machine = self.catalog.machine;
            let key = TargetKey::Manifest { machine, epoch: reached.next() };
            self.missing(key, "missing, and its epoch was not merged");
        }
    }
}

fn manifest(
    bytes: &[u8],
    machine: MachineId,
    epoch: Epoch,
    record: Option<&MachineRecord>,
) -> Result<SignedManifest, String> {
    let signed = SignedManifest::parse(bytes).map_err(|err| err.to_string())?;
    expect("machine", &signed.manifest.machine, &machine)?;
    expect("epoch", &signed.manifest.epoch, &epoch)?;
    match record {
        Some(record) if record.key != signed.key => {
            Err("forged: signed with a key that is not the machine's".to_owned())
        }
        _ => Ok(signed),
    }
}

fn expect<T: PartialEq + std::fmt::Display>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("another object is in its place: {what} is {found}, expected {expected}"))
}
