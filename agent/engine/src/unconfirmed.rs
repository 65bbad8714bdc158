//! What was committed and may still be refused: a commit is durable in cache storage before the recovery service has taken it
//! into target storage, and what was damaged on its way is found out only there.
//!
//! Nothing of it survives a kill; the next run is told by the head that it is not what it remembers, and compares. Memory is
//! bounded by the disk: epochs that wait for long are put together. Deliberately not here: who is asked for the head.

use std::collections::VecDeque;

use mobility_format::{BlockSet, Epoch};

/// So many groups of epochs are kept apart.
const GROUPS: usize = 8;

/// The blocks of a disk in commits that were not taken in yet, by the last epoch of their group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unconfirmed(VecDeque<(Epoch, BlockSet)>);

impl Unconfirmed {
    pub(crate) fn committed(&mut self, epoch: Epoch, blocks: BlockSet) {
        if blocks.is_empty() {
            return;
        }
        self.0.push_back((epoch, blocks));
        if self.0.len() > GROUPS {
            // The newest two: what is oldest is confirmed first.
            let (last, newer) = self.0.pop_back().unwrap_or_default();
            if let Some((epoch, blocks)) = self.0.back_mut() {
                *epoch = last;
                blocks.union_with(&newer);
            }
        }
    }

    pub(crate) fn taken_in(&mut self, epoch: Epoch) {
        while self.0.front().is_some_and(|(last, _)| *last <= epoch) {
            self.0.pop_front();
        }
    }

    /// Nothing after `head` counts: the blocks that were in it.
    pub(crate) fn take_after(&mut self, head: Epoch) -> BlockSet {
        self.taken_in(head);
        self.0.drain(..).fold(BlockSet::new(), |mut all, (_, blocks)| {
            all.union_with(&blocks);
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::BlockIndex;

    use super::*;

    fn one(block: u64) -> BlockSet {
        [BlockIndex(block)].into_iter().collect()
    }

    #[test]
    fn what_was_taken_in_is_not_owed_again_and_everything_else_is() {
        let mut unconfirmed = Unconfirmed::default();
        (1..=4).for_each(|epoch| unconfirmed.committed(Epoch(epoch), one(epoch)));
        unconfirmed.taken_in(Epoch(1));
        assert_eq!(unconfirmed.take_after(Epoch(2)), one(3).union(&one(4)));
        assert!(unconfirmed.take_after(Epoch(0)).is_empty(), "it is owed now");
    }

    #[test]
    fn epochs_without_end_take_no_memory_without_end() {
        let mut unconfirmed = Unconfirmed::default();
        (1..=1000).for_each(|epoch| unconfirmed.committed(Epoch(epoch), one(epoch % 16)));
        assert_eq!(unconfirmed.0.len(), GROUPS);
        unconfirmed.taken_in(Epoch(3));
        let owed = unconfirmed.take_after(Epoch(3));
        assert_eq!(owed.len(), 16, "all that epochs after the third have written");
    }
}
