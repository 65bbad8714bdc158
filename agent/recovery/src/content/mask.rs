//! A set of blocks of one window, as 256 bits.
//!
//! Deliberately not here: sets over a whole disk (`mobility_format::BlockSet`).

use mobility_format::{BlockIndex, BlockRange, WINDOW_BLOCKS};

const BITS: u32 = WINDOW_BLOCKS as u32;

/// Which blocks of a window. Bit 0 is the window's first block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask([u64; 4]);

impl Mask {
    pub(crate) const FULL: Mask = Mask([u64::MAX; 4]);

    /// The part of `range` that lies in the window from `window`.
    pub(crate) fn of(window: BlockIndex, range: BlockRange) -> Mask {
        let inside = range.intersection(BlockRange { start: window, count: WINDOW_BLOCKS });
        let start = inside.start.0.saturating_sub(window.0);
        Mask::below(start + inside.count) - Mask::below(start)
    }

    /// The first `count` blocks.
    pub(crate) fn below(count: u64) -> Mask {
        let word = |index: u64| match count.saturating_sub(64 * index) {
            bits @ 0..64 => (1 << bits) - 1,
            _ => u64::MAX,
        };
        Mask([word(0), word(1), word(2), word(3)])
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == [0; 4]
    }

    pub(crate) fn count(self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The runs of adjacent blocks, as first block and number, counted from the window's start.
    pub(crate) fn runs(self) -> impl Iterator<Item = (u64, u64)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true)?;
            let end = self.next(start, false).unwrap_or(BITS);
            at = end;
            Some((u64::from(start), u64::from(end - start)))
        })
    }

    /// The first block from `at` on that is or is not in the set.
    fn next(self, at: u32, member: bool) -> Option<u32> {
        let flip = if member { 0 } else { u64::MAX };
        (at / 64..4).find_map(|index| {
            let from = if index == at / 64 { u64::MAX << (at % 64) } else { u64::MAX };
            let word = (self.0[index as usize] ^ flip) & from;
            (word != 0).then(|| index * 64 + word.trailing_zeros())
        })
    }
}

impl std::ops::BitOr for Mask {
    type Output = Mask;
    fn bitor(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }
}

impl std::ops::BitAnd for Mask {
    type Output = Mask;
    fn bitand(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
}

impl std::ops::Sub for Mask {
    type Output = Mask;
    fn sub(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_plain_sets(window in 0u64..3, ranges in prop::collection::vec((0u64..900, 0u64..300), 0..5)) {
            let window = BlockIndex(window * WINDOW_BLOCKS);
            let mut mask = Mask::default();
            let mut model = [false; WINDOW_BLOCKS as usize];
            for (start, count) in ranges {
                mask = mask | Mask::of(window, BlockRange::new(start, count));
                for (i, member) in model.iter_mut().enumerate() {
                    *member |= (start..start + count).contains(&(window.0 + i as u64));
                }
            }
            let mut from_runs = [false; WINDOW_BLOCKS as usize];
            for (start, count) in mask.runs() {
                prop_assert!(start == 0 || !from_runs[start as usize - 1], "runs touch");
                from_runs[start as usize..(start + count) as usize].fill(true);
            }
            prop_assert_eq!(from_runs, model);
            prop_assert_eq!(mask.count(), model.iter().filter(|m| **m).count() as u64);
            prop_assert_eq!((Mask::FULL - mask).count() + mask.count(), WINDOW_BLOCKS);
        }
    }
}
