//! The keys under which objects live in cache and target storage. Numbers are padded so that names sort in order.
//!
//! A key says where an object belongs; what is inside says the same, and a reader compares. Deliberately not here: the
//! storage itself.

use std::fmt;

use crate::{Digest, DiskId, Epoch, Generation, MachineId, SessionId};

/// An object in cache storage, where the agent may only create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKey {
    /// `cache/<machine>/<generation>/<epoch>/<disk>-<session>-<part>.seg`
    Segment {
        /// Whose.
        machine: MachineId,
        /// In which generation.
        generation: Generation,
        /// In which epoch.
        epoch: Epoch,
        /// Of which disk.
        disk: DiskId,
        /// By which run of the agent.
        session: SessionId,
        /// Its number within disk, epoch and session.
        part: u32,
    },
    /// `cache/<machine>/<generation>/slots/<slot>.seg`: a segment in a place that the recovery service has granted before
    /// anybody knew what would go there. The manifest names the slot.
    Slot {
        /// Whose.
        machine: MachineId,
        /// In which generation.
        generation: Generation,
        /// Which place.
        slot: u64,
    },
    /// `cache/<machine>/<generation>/<epoch>/point`: the manifest that commits the epoch.
    Manifest {
        /// Whose.
        machine: MachineId,
        /// In which generation.
        generation: Generation,
        /// Which epoch it commits.
        epoch: Epoch,
    },
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheKey::Segment { machine, generation, epoch, disk, session, part } => {
                write!(
                    f,
                    "{}/{disk}-{session}-{part:08}.seg",
                    cache_epoch_prefix(*machine, *generation, *epoch)
                )
            }
            CacheKey::Slot { machine, generation, slot } => {
                write!(f, "cache/{machine}/{:020}/slots/{slot:020}.seg", generation.0)
            }
            CacheKey::Manifest { machine, generation, epoch } => {
                write!(f, "{}/point", cache_epoch_prefix(*machine, *generation, *epoch))
            }
        }
    }
}

/// What all cache keys of an epoch start with.
#[must_use]
pub fn cache_epoch_prefix(machine: MachineId, generation: Generation, epoch: Epoch) -> String {
    format!("cache/{machine}/{:020}/{:020}", generation.0, epoch.0)
}

/// An object in target storage, where only the recovery service writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKey {
    /// `target/<machine>/points/<epoch>.point`: a manifest, byte for byte as the agent signed it.
    Manifest {
        /// Whose.
        machine: MachineId,
        /// Which epoch it commits.
        epoch: Epoch,
    },
    /// `target/<machine>/segments/<epoch>/<disk>-<session>-<part>.seg`: a segment as the agent wrote it.
    Segment {
        /// Whose.
        machine: MachineId,
        /// In which epoch.
        epoch: Epoch,
        /// Of which disk.
        disk: DiskId,
        /// By which run of the agent.
        session: SessionId,
        /// Its number within disk, epoch and session.
        part: u32,
    },
    /// `target/<machine>/merged/<disk>/<first>-<last>/run`: what commits a merge.
    Run {
        /// Whose.
        machine: MachineId,
        /// Of which disk.
        disk: DiskId,
        /// The first epoch merged.
        first: Epoch,
        /// The last epoch merged.
        last: Epoch,
    },
    /// `target/<machine>/merged/<disk>/<first>-<last>/<digest>.seg`: a merged segment. The digest in the name makes
    /// what an interrupted merge left behind harmless to the next try.
    MergedSegment {
        /// Whose.
        machine: MachineId,
        /// Of which disk.
        disk: DiskId,
        /// The first epoch merged.
        first: Epoch,
        /// The last epoch merged.
        last: Epoch,
        /// The segment's digest.
        digest: Digest,
    },
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetKey::Manifest { machine, epoch } => {
                write!(f, "target/{machine}/points/{:020}.point", epoch.0)
            }
            TargetKey::Segment { machine, epoch, disk, session, part } => {
                write!(f, "target/{machine}/segments/{:020}/{disk}-{session}-{part:08}.seg", epoch.0)
            }
            TargetKey::Run { machine, disk, first, last } => {
                write!(f, "target/{machine}/merged/{disk}/{:020}-{:020}/run", first.0, last.0)
            }
            TargetKey::MergedSegment { machine, disk, first, last, digest } => {
                write!(f, "target/{machine}/merged/{disk}/{:020}-{:020}/{digest}.seg", first.0, last.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_in_the_order_of_their_numbers() {
        let key =
            |epoch| CacheKey::Manifest { machine: MachineId([1; 16]), generation: Generation(1), epoch };
        let mut names: Vec<_> = [9, 10, 1, u64::MAX].map(|e| key(Epoch(e)).to_string()).into();
        names.sort();
        assert_eq!(names, [1, 9, 10, u64::MAX].map(|e| key(Epoch(e)).to_string()));
    }
}
