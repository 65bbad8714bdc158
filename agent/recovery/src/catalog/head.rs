//! The newest manifest of a machine, as what is stored says.
//!
//! Deliberately not here: what the next one makes of it (`mobility_format::Head`), and whether it follows (`intake`).

use std::collections::BTreeMap;

use mobility_format::{Digest, DiskId, Epoch, Head, HeadDisk};

use super::Catalog;

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
        let (generation, previous) = (newest.signed.manifest.generation, newest.signed.manifest.previous);
        let (digest, disks) = (newest.signed.digest, disks.into_values().collect());
        Some(Head { generation, epoch: *epoch, digest, previous, disks })
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
