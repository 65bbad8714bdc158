//! Blocks that conflict in cut after cut: a journal's head, a superblock, the page of a database that every commit writes.
//!
//! Copying them ahead of a cut is in vain, for they are written again before it; they are left to the cut, which reads
//! them before everything else. Deliberately not here: what a conflict is (`cut`).

use std::collections::VecDeque;

use mobility_format::BlockSet;

/// How many cuts are remembered.
const CUTS: usize = 8;
/// The most blocks that are remembered of a cut, so that one over a disk that is written everywhere stays cheap.
const MOST: u64 = 1024;

/// What conflicted in the last cuts of a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hot {
    cuts: VecDeque<BlockSet>,
}

impl Hot {
    /// A cut has ended, after conflicts on these blocks.
    pub(crate) fn cut(&mut self, conflicts: &BlockSet) {
        if self.cuts.len() == CUTS {
            self.cuts.pop_front();
        }
        self.cuts.push_back(conflicts.clone().take_first(MOST));
    }

    /// The blocks that conflicted in more than one of them.
    pub(crate) fn blocks(&self) -> BlockSet {
        let (mut once, mut again) = (BlockSet::new(), BlockSet::new());
        for cut in &self.cuts {
            again.union_with(&once.intersection(cut));
            once.union_with(cut);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::BlockIndex;

    use super::*;

    fn set(blocks: &[u64]) -> BlockSet {
        blocks.iter().map(|&b| BlockIndex(b)).collect()
    }

    #[test]
    fn a_block_is_hot_from_its_second_conflict_until_it_has_not_conflicted_for_long() {
        let mut hot = Hot::default();
        hot.cut(&set(&[1, 2]));
        assert!(hot.blocks().is_empty());
        hot.cut(&set(&[2, 3]));
        assert_eq!(hot.blocks(), set(&[2]));
        (0..CUTS - 1).for_each(|_| hot.cut(&set(&[])));
        assert!(hot.blocks().is_empty());
    }
}
