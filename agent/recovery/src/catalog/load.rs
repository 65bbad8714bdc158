//! Reads a catalog from target storage, leaving out what is damaged.
//!
//! Deliberately not here: what the catalog is asked afterwards.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mobility_format::{
    Digest, DiskId, Epoch, MachineId,
    key::TargetKey,
    manifest::{Run, SignedManifest},
};

use super::{Catalog, Chain, Damage, Step, StepKind, Stored, StoredRun};
use crate::{
    keys::ObjectKey,
    records::{MachineRecord, Merge, Received, Record},
    storage::{SMALL, StorageError, StorageErrorKind, Stores},
};

pub(super) fn load(stores: &Stores, machine: MachineId) -> Result<Catalog, StorageError> {
    let mut loading = Loading {
        catalog: Catalog {
            stores: stores.clone(),
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
    loading.machine_record()?;
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

    /// What lies below a part of the machine's target storage and is an object of ours, with the time it was written.
    fn listed(&self, below: &str) -> Result<BTreeMap<ObjectKey, Timestamp>, StorageError> {
        let mut keys = BTreeMap::new();
        let prefix = format!("target/{}/{below}", self.catalog.machine);
        self.catalog.stores.target().list(&prefix, &mut |listed| {
            keys.extend(ObjectKey::parse(&listed.key).map(|key| (key, listed.modified)));
        })?;
        Ok(keys)
    }

    /// Reads objects and hands each to `parse`, then to `take`; what goes wrong with one is noted as damage. What cannot be
    /// reached is no damage.
    fn read_each<T>(
        &mut self,
        keys: &[ObjectKey],
        parse: impl Fn(&Loading, ObjectKey, &[u8]) -> Result<T, String>,
        mut take: impl FnMut(&mut Loading, ObjectKey, T),
    ) -> Result<(), StorageError> {
        let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let stores = self.catalog.stores.clone();
        let mut failed = None;
        stores.target().read_each(&names, SMALL, &mut |position, bytes| {
            let key = keys[position];
            let read = match bytes {
                Err(err) if may_be_well(err.kind()) => {
                    failed.get_or_insert(err);
                    return;
                }
                Err(err) if err.is_not_found() => Err(None),
                Err(err) => Err(Some(format!("unreadable: {}", err.source))),
                Ok(bytes) => parse(self, key, &bytes).map_err(Some),
            };
            match read {
                Ok(read) => take(self, key, read),
                Err(Some(problem)) => self.damaged(key, problem),
                Err(None) => self.missing(key, "missing"),
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn machine_record(&mut self) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let parse = |_: &Loading, _, bytes: &[u8]| {
            let record = MachineRecord::parse(bytes).map_err(|err| err.to_string())?;
            expect("machine", &record.machine, &machine).map(|()| record)
        };
        self.read_each(&[ObjectKey::Machine { machine }], parse, |loading, _, record| {
            loading.catalog.record = Some(record);
        })
    }

    fn manifests(&mut self) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let listed = self.listed("points")?;
        let of_manifest = |key: &ObjectKey| matches!(key, ObjectKey::Target(TargetKey::Manifest { .. }));
        let manifests: Vec<ObjectKey> = listed.keys().copied().filter(of_manifest).collect();
        let parse = |loading: &Loading, key: ObjectKey, bytes: &[u8]| {
            let epoch = key.last_epoch().unwrap_or_default();
            manifest(bytes, machine, epoch, loading.catalog.record.as_ref())
        };
        self.read_each(&manifests, parse, |loading, key, signed| {
            // Without a sound record of when it came, when it was written: the service did that as well.
            let received = listed.get(&key).copied().unwrap_or_default();
            loading.catalog.manifests.insert(signed.manifest.epoch, Stored { signed, received });
        })?;
        self.received(&listed)
    }

    /// When the manifests came.
    fn received(&mut self, listed: &BTreeMap<ObjectKey, Timestamp>) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let keys = self.catalog.manifests.keys().map(|&epoch| ObjectKey::Received { machine, epoch });
        let (there, absent): (Vec<_>, Vec<_>) = keys.partition(|key| listed.contains_key(key));
        absent.into_iter().for_each(|key| self.missing(key, "missing"));
        let parse = |loading: &Loading, key: ObjectKey, bytes: &[u8]| {
            let epoch = key.last_epoch().unwrap_or_default();
            let record = Received::parse(bytes).map_err(|err| err.to_string())?;
            expect("machine", &record.machine, &machine)?;
            expect("epoch", &record.epoch, &epoch)?;
            let manifest = loading.catalog.manifests.get(&epoch).map_or(Digest::NONE, |m| m.signed.digest);
            expect("manifest", &record.manifest, &manifest).map(|()| record)
        };
        self.read_each(&there, parse, |loading, _, record| {
            if let Some(stored) = loading.catalog.manifests.get_mut(&record.epoch) {
                stored.received = record.received;
            }
        })
    }

    fn merged(&mut self) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let keys = self.listed("merged")?.into_keys();
        let of_run = |key: &ObjectKey| matches!(key, ObjectKey::Target(TargetKey::Run { .. }));
        let (runs, others): (Vec<_>, Vec<_>) = keys.partition(of_run);
        let of_merge = |key: &ObjectKey| matches!(key, ObjectKey::Merge { .. });
        let merges: Vec<_> = others.into_iter().filter(of_merge).collect();
        self.runs(&runs)?;
        let parse = |_: &Loading, key, bytes: &[u8]| {
            let merge = Merge::parse(bytes).map_err(|err| err.to_string())?;
            expect("machine", &merge.machine, &machine)?;
            let ObjectKey::Merge { first, last, .. } = key else { return Ok(merge) };
            expect("first epoch", &merge.first_epoch, &first)?;
            expect("last epoch", &merge.last_epoch, &last).map(|()| merge)
        };
        self.read_each(&merges, parse, |loading, _, merge| {
            loading.catalog.merges.insert((merge.last_epoch, merge.first_epoch), merge);
        })
    }

    fn runs(&mut self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let machine = self.catalog.machine;
        let parse = |_: &Loading, key, bytes: &[u8]| {
            let run = Run::parse(bytes).map_err(|err| err.to_string())?;
            expect("machine", &run.machine, &machine)?;
            if let ObjectKey::Target(TargetKey::Run { disk, first, last, .. }) = key {
                expect("disk", &run.disk, &disk)?;
                expect("first epoch", &run.first_epoch, &first)?;
                expect("last epoch", &run.last_epoch, &last)?;
            }
            Ok(StoredRun { run, digest: Digest::of(bytes) })
        };
        self.read_each(keys, parse, |loading, _, stored| {
            let of = (stored.run.disk, stored.run.last_epoch, stored.run.first_epoch);
            loading.catalog.runs.insert(of, stored);
        })
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

/// Whether an object that could not be read for this reason may be well all the same.
fn may_be_well(kind: StorageErrorKind) -> bool {
    matches!(kind, StorageErrorKind::Unavailable | StorageErrorKind::Refused)
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
