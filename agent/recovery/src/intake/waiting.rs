//! What is in cache storage and not taken in yet.
//!
//! Deliberately not here: taking it in.

use std::collections::BTreeMap;

use mobility_format::{
    BlockRange, Digest, DiskId, Epoch, Generation,
    key::CacheKey,
    manifest::{DiskState, SignedManifest},
};

use super::{Intake, IntakeError};
use crate::storage::SMALL;

/// The most ranges that are told apart on one disk.
const MOST_RANGES: usize = 1024;

/// The most segments that the manifests of one list name together: some 64 MiB of memory.
const MOST_SEGMENTS: usize = 1 << 18;

/// What nobody can say any more of a machine's disks whether it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubted {
    /// All of every disk: something that would say more is damaged.
    Everything,
    /// These blocks, in order; at most 1024 ranges of each disk.
    Blocks(BTreeMap<DiskId, Vec<BlockRange>>),
}

impl Intake {
    /// The manifests in cache storage that follow the head link by link, at most `most` of them, oldest first; fewer where
    /// they name very many segments. Those are not looked at.
    ///
    /// # Errors
    /// When cache storage cannot be read. What is damaged or does not follow ends the list.
    pub fn waiting(&self, generation: Generation, most: usize) -> Result<Vec<SignedManifest>, IntakeError> {
        let mut waiting: Vec<SignedManifest> = Vec::new();
        let (mut epoch, mut digest) =
            self.head().map_or((Epoch(0), Digest::NONE), |head| (head.epoch, head.digest));
        let mut segments = 0;
        while waiting.len() < most && segments < MOST_SEGMENTS {
            let Some(Ok(signed)) = self.manifest_in_cache(generation, epoch.next())? else { break };
            if signed.manifest.previous != digest {
                break;
            }
            (epoch, digest) = (signed.manifest.epoch, signed.digest);
            segments += signed.manifest.disks.iter().map(|disk| disk.segments.len()).sum::<usize>();
            waiting.push(signed);
        }
        Ok(waiting)
    }

    /// The blocks that the epochs from `first` on, as far as they are in cache storage, say something about. When `first`
    /// cannot be taken in, none of them ever will be; what they hold has to be sent again.
    ///
    /// # Errors
    /// When cache storage cannot be read.
    pub fn doubted(&self, generation: Generation, first: Epoch) -> Result<Doubted, IntakeError> {
        let prefix = format!("cache/{}/{:020}", self.machine, generation.0);
        let folders = self.stores.cache().folders(&prefix)?;
        let epochs = folders.iter().filter_map(|name| name.parse().ok().map(Epoch));
        let mut blocks: BTreeMap<DiskId, Vec<BlockRange>> = BTreeMap::new();
        for epoch in epochs.filter(|epoch| *epoch >= first) {
            match self.manifest_in_cache(generation, epoch)? {
                // Segments of an epoch that was never committed: the agent has not forgotten what they hold.
                None => {}
                Some(Err(_)) => return Ok(Doubted::Everything),
                Some(Ok(signed)) => signed.manifest.disks.iter().for_each(|disk| add(&mut blocks, disk)),
            }
        }
        Ok(Doubted::Blocks(blocks))
    }

    /// The manifest of an epoch, if it is there; an error where it is not one that the machine signed for this place.
    fn manifest_in_cache(
        &self,
        generation: Generation,
        epoch: Epoch,
    ) -> Result<Option<Result<SignedManifest, ()>>, IntakeError> {
        let machine = self.machine;
        let key = CacheKey::Manifest { machine, generation, epoch };
        let bytes = match self.stores.cache().read(&key.to_string(), SMALL) {
            Err(err) if err.is_not_found() => return Ok(None),
            other => other?,
        };
        let signed = SignedManifest::parse(&bytes).ok().filter(|signed| {
            let is = &signed.manifest;
            signed.key == self.key && (is.machine, is.generation, is.epoch) == (machine, generation, epoch)
        });
        Ok(Some(signed.ok_or(())))
    }
}

/// Adds what a disk's segments cover, joins what touches, and gives up the smallest gaps where there are too many.
fn add(blocks: &mut BTreeMap<DiskId, Vec<BlockRange>>, disk: &DiskState) {
    if disk.segments.is_empty() {
        return;
    }
    let ranges = blocks.entry(disk.id).or_default();
    ranges.extend(disk.segments.iter().map(|segment| {
        BlockRange::new(segment.first_block.0, segment.end_block.0.saturating_sub(segment.first_block.0))
    }));
    ranges.sort_unstable_by_key(|range| range.start);
    join(ranges, 0);
    if ranges.len() > MOST_RANGES {
        let mut gaps: Vec<u64> = ranges.windows(2).map(|pair| pair[1].start.0 - pair[0].end().0).collect();
        gaps.sort_unstable();
        let bridged = gaps[ranges.len() - MOST_RANGES - 1];
        join(ranges, bridged);
    }
}

/// Joins ranges, which are in order, that are at most `gap` blocks apart.
fn join(ranges: &mut Vec<BlockRange>, gap: u64) {
    ranges.dedup_by(|next, kept| {
        let joins = next.start.0 <= kept.end().0.saturating_add(gap);
        if joins {
            kept.count = kept.count.max(next.end().0 - kept.start.0);
        }
        joins
    });
}

#[cfg(test)]
mod tests {
    use mobility_format::{BlockIndex, ByteCount, SessionId, manifest::SegmentRef};

    use super::*;

    fn disk(ranges: &[(u64, u64)]) -> DiskState {
        let segment = |&(first, end): &(u64, u64)| SegmentRef {
            session: SessionId([0; 8]),
            part: 0,
            digest: Digest::NONE,
            length: ByteCount(0),
            first_block: BlockIndex(first),
            end_block: BlockIndex(end),
            blocks: 1,
            slot: None,
        };
        DiskState {
            id: DiskId([1; 16]),
            name: String::new(),
            size: ByteCount(0),
            segments: ranges.iter().map(segment).collect(),
            missing: false,
            audited_blocks: 0,
            missed_blocks: 0,
        }
    }

    fn added(of: &[&[(u64, u64)]]) -> Vec<(u64, u64)> {
        let mut blocks = BTreeMap::new();
        of.iter().for_each(|ranges| add(&mut blocks, &disk(ranges)));
        blocks.into_values().flatten().map(|range| (range.start.0, range.end().0)).collect()
    }

    #[test]
    fn what_touches_is_joined() {
        assert_eq!(added(&[&[(8, 9), (0, 4), (4, 6)], &[(2, 5), (20, 30)]]), [(0, 6), (8, 9), (20, 30)]);
        assert_eq!(added(&[&[]]), []);
    }

    #[test]
    fn too_many_ranges_become_fewer_and_nothing_is_left_out() {
        let many: Vec<_> = (0..5000).map(|i| (i * 10, i * 10 + 1 + i % 7)).collect();
        let joined = added(&[&many]);
        assert!(joined.len() <= MOST_RANGES, "{}", joined.len());
        let inside = |&(first, end): &(u64, u64)| joined.iter().any(|&(a, b)| a <= first && end <= b);
        assert!(many.iter().all(inside));
    }
}
