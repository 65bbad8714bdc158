//! The newest manifest of a machine: what the next one has to follow.
//!
//! Deliberately not here: whether what follows does so (`intake`).

use std::collections::BTreeMap;

use mobility_format::{ByteCount, Digest, DiskId, Epoch, Generation, manifest::SignedManifest};

use super::Catalog;

/// A disk as a machine's newest manifest, or the last one that named it, left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadDisk {
    /// Which disk.
    pub id: DiskId,
    /// What it was called.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// The last segment that the agent wrote of it, which the next must name; [`Digest::NONE`] where there is none.
    pub last_segment: Digest,
    /// Whether the newest manifest still names it.
    pub present: bool,
}

/// The newest manifest of a machine, point or checkpoint: what the next one must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its generation.
    pub generation: Generation,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its digest.
    pub digest: Digest,
    /// All disks that were ever in it or before it, by id.
    pub disks: Vec<HeadDisk>,
}

impl Head {
    /// The head once `signed`, which follows `previous`, is committed.
    #[must_use]
    pub fn after(previous: Option<&Head>, signed: &SignedManifest) -> Head {
        let manifest = &signed.manifest;
        let mut disks = previous.map_or(Vec::new(), |head| head.disks.clone());
        disks.iter_mut().for_each(|disk| disk.present = false);
        for state in &manifest.disks {
            let position = disks.binary_search_by_key(&state.id, |disk| disk.id);
            let at = position.unwrap_or_else(|at| {
                let (id, name, size) = (state.id, state.name.clone(), state.size);
                disks.insert(at, HeadDisk { id, name, size, last_segment: Digest::NONE, present: true });
                at
            });
            let disk = &mut disks[at];
            (disk.name, disk.size, disk.present) = (state.name.clone(), state.size, true);
            if let Some(last) = state.segments.last() {
                disk.last_segment = last.digest;
            }
        }
        Head { generation: manifest.generation, epoch: manifest.epoch, digest: signed.digest, disks }
    }
}

impl Catalog {
    /// The newest manifest of all.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        let (epoch, newest) = self.manifests.last_key_value()?;
        let mut disks: BTreeMap<DiskId, HeadDisk> = BTreeMap::new();
        for stored in self.manifests.values().rev() {
            let manifest = &stored.signed.manifest;
            for disk in &manifest.disks {
                disks.entry(disk.id).or_insert_with(|| HeadDisk {
                    id: disk.id,
                    name: disk.name.clone(),
                    size: disk.size,
                    last_segment: self.last_segment(disk.id, *epoch),
                    present: manifest.epoch == *epoch,
                });
            }
        }
        let (generation, digest) = (newest.signed.manifest.generation, newest.signed.digest);
        Some(Head { generation, epoch: *epoch, digest, disks: disks.into_values().collect() })
    }

    /// The last segment that the agent wrote of a disk up to the end of an epoch.
    pub(crate) fn last_segment(&self, disk: DiskId, upto: Epoch) -> Digest {
        let in_manifests = self.manifests.range(..=upto).rev().find_map(|(epoch, stored)| {
            let state = stored.signed.manifest.disk(disk)?;
            state.segments.last().map(|segment| (*epoch, segment.digest))
        });
        let in_merges = self.merges.range(..=(upto, Epoch(u64::MAX))).rev().find_map(|((last, _), merge)| {
            let merged = merge.disks.iter().find(|merged| merged.id == disk)?;
            Some((*last, merged.last_segment))
        });
        // A manifest that a merge ends with is still there and says the same.
        let newer = in_manifests.max_by_epoch(in_merges);
        newer.map_or(Digest::NONE, |(_, digest)| digest)
    }
}

trait Newer: Sized {
    fn max_by_epoch(self, other: Self) -> Self;
}

impl Newer for Option<(Epoch, Digest)> {
    fn max_by_epoch(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if b.0 > a.0 { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}
