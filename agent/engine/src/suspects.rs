//! Blocks to which a write was issued and whose completion has not been seen.
//!
//! Nearly always such a write is simply in flight. But a completion mark can be lost, and then nobody would ever read the
//! block: so a suspect is owed, and read in every pass, until its completion shows up, or a moment was seen in which the
//! disk had nothing in flight (then one more read is enough), or it is older than any write can be.
//!
//! A completion that shows up may be that of another write to the same block. Normally that does not matter, for this
//! one's will show up too; only when completions are known to have been missed, everything that was touched lately is owed
//! again. Deliberately not here: the set of blocks that are known to be dirty.

use std::{collections::VecDeque, time::Duration};

use mobility_format::BlockSet;

use crate::{Drained, Time};

/// Older than any write in flight: twice the block layer's default request time-out of 30 s.
pub(crate) const OLDEST: Duration = Duration::from_secs(60);
/// How many batches are kept apart by age; beyond that neighbours are joined under the younger
/// one's age, so that none is let go too early.
const BATCHES: usize = 64;

#[derive(Clone, Debug, Default)]
struct Aged(VecDeque<(Time, BlockSet)>);

impl Aged {
    fn push(&mut self, now: Time, blocks: BlockSet) {
        if blocks.is_empty() {
            return;
        }
        let full = self.0.len() >= BATCHES;
        match self.0.back_mut() {
            Some((at, last)) if *at == now || full => {
                *at = now;
                last.union_with(&blocks);
            }
            _ => self.0.push_back((now, blocks)),
        }
    }

    fn all(&self) -> BlockSet {
        self.0.iter().fold(BlockSet::new(), |mut all, (_, blocks)| {
            all.union_with(blocks);
            all
        })
    }

    /// Takes out the blocks that are in `seen`.
    fn extract(&mut self, seen: &BlockSet) -> BlockSet {
        let mut out = BlockSet::new();
        self.0.retain_mut(|(_, blocks)| {
            out.union_with(&blocks.intersection(seen));
            blocks.subtract(seen);
            !blocks.is_empty()
        });
        out
    }

    fn expire(&mut self, now: Time) -> BlockSet {
        let mut out = BlockSet::new();
        while self.0.front().is_some_and(|(at, _)| now.since(*at) > OLDEST) {
            if let Some((_, blocks)) = self.0.pop_front() {
                out.union_with(&blocks);
            }
        }
        out
    }

    fn take(&mut self) -> BlockSet {
        let all = self.all();
        self.0.clear();
        all
    }
}

/// The suspects of one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspects {
    open: Aged,
    /// Touched and seen to complete; but another write to the same block may have been in flight then.
    settled: Aged,
    /// What was settled when the last drain saw an idle moment: the counts of what was missed may have been read before.
    fading: BlockSet,
}

impl Suspects {
    /// What has to be read in every pass.
    pub(crate) fn open(&self) -> BlockSet {
        self.open.all()
    }

    /// What completions may have been missed of, beside those that are open.
    pub(crate) fn lately(&self) -> BlockSet {
        let mut lately = self.settled.all();
        lately.union_with(&self.fading);
        lately
    }

    /// Takes in what was drained. Returns the blocks that are owed because of it, beside those drained as dirty.
    pub(crate) fn absorb(&mut self, now: Time, drained: &Drained) -> BlockSet {
        let mut owed = self.open.expire(now);
        self.settled.expire(now);
        let mut settled = self.open.extract(&drained.dirty);
        settled.union_with(&drained.touched.intersection(&drained.dirty));
        self.settled.push(now, settled);
        self.open.push(now, drained.touched.difference(&drained.dirty));
        let fading = std::mem::take(&mut self.fading);
        if drained.completion_missed {
            owed.union_with(&self.settled.all());
            owed.union_with(&self.open.all());
            owed.union_with(&fading);
        }
        if drained.idle {
            owed.union_with(&self.open.take());
            self.fading = self.settled.take();
        }
        owed
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::BlockIndex;

    use super::*;

    fn set(blocks: &[u64]) -> BlockSet {
        blocks.iter().map(|&b| BlockIndex(b)).collect()
    }

    fn drained(dirty: &[u64], touched: &[u64]) -> Drained {
        Drained { dirty: set(dirty), touched: set(touched), ..Drained::default() }
    }

    #[test]
    fn a_lost_completion_stays_owed_until_the_disk_was_idle() {
        let mut suspects = Suspects::default();
        assert!(suspects.absorb(Time(0), &drained(&[1], &[1, 2])).is_empty());
        assert_eq!(suspects.open(), set(&[2]));
        suspects.absorb(Time(10), &drained(&[], &[]));
        assert_eq!(suspects.open(), set(&[2]), "still not seen");
        let owed = suspects.absorb(Time(20), &Drained { idle: true, ..drained(&[], &[]) });
        assert_eq!((owed, suspects.open()), (set(&[2]), set(&[])), "one more read, then it is settled");
    }

    #[test]
    fn a_completion_that_shows_up_clears_it() {
        let mut suspects = Suspects::default();
        suspects.absorb(Time(0), &drained(&[], &[5]));
        assert!(suspects.absorb(Time(10), &drained(&[5], &[])).is_empty());
        assert!(suspects.open().is_empty());
    }

    #[test]
    fn missed_completions_bring_back_what_another_write_had_cleared() {
        let mut suspects = Suspects::default();
        suspects.absorb(Time(0), &drained(&[], &[5]));
        suspects.absorb(Time(10), &drained(&[5], &[]));
        let owed = suspects.absorb(Time(20), &Drained { completion_missed: true, ..drained(&[], &[7]) });
        assert_eq!(owed, set(&[5, 7]));
    }

    #[test]
    fn missed_completions_bring_back_a_block_that_was_written_twice_in_one_drain() {
        let mut suspects = Suspects::default();
        assert!(suspects.absorb(Time(0), &drained(&[5], &[5])).is_empty());
        let owed = suspects.absorb(Time(10), &Drained { completion_missed: true, ..drained(&[], &[]) });
        assert_eq!(owed, set(&[5]), "the second write may have been in flight, and its completion missed");
    }

    #[test]
    fn age_ends_it_with_one_more_read() {
        let mut suspects = Suspects::default();
        suspects.absorb(Time(0), &drained(&[], &[5]));
        assert_eq!(suspects.absorb(Time(60_001), &drained(&[], &[])), set(&[5]));
        assert!(suspects.open().is_empty());
    }
}
