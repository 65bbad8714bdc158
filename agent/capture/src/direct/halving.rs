//! Finds out which blocks of a range cannot be read, by halving it.

use std::io;

use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet};

use super::ReadErrorKind;

/// Blocks that a medium does not give back, and what the system said of the first of them.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) blocks: BlockSet,
    pub(super) source: io::Error,
}

/// Fills `bytes` with `range` by calling `read`, once where all goes well, and on ever smaller parts where the medium
/// fails: at most `2 * range.count` times. Any other failure ends it, as it would for every part.
pub(super) fn read_halving(
    range: BlockRange,
    bytes: &mut [u8],
    read: &mut impl FnMut(BlockRange, &mut [u8]) -> io::Result<()>,
    unreadable: &mut Option<Unreadable>,
) -> io::Result<()> {
    let Err(source) = read(range, bytes) else { return Ok(()) };
    if ReadErrorKind::of(&source) != ReadErrorKind::Unreadable {
        return Err(source);
    }
    if range.count > 1 {
        let half = range.count / 2;
        let (first, second) = bytes.split_at_mut(half as usize * BLOCK_SIZE);
        read_halving(BlockRange { start: range.start, count: half }, first, read, unreadable)?;
        let rest = BlockRange::new(range.start.0 + half, range.count - half);
        return read_halving(rest, second, read, unreadable);
    }
    unreadable.get_or_insert(Unreadable { blocks: BlockSet::new(), source }).blocks.insert_range(range);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_exactly_the_bad_blocks_and_reads_all_others(
            start in 0u64..1000, count in 1u64..=256, bad in prop::collection::btree_set(0u64..1256, 0..40), all in prop::bool::weighted(0.05),
        ) {
            let range = BlockRange::new(start, count);
            let is_bad = |block: &u64| all || bad.contains(block);
            let mut reads = 0;
            let mut bytes = vec![0; range.bytes().0 as usize];
            let mut unreadable = None;
            read_halving(range, &mut bytes, &mut |part, out: &mut [u8]| {
                reads += 1;
                assert_eq!(out.len() as u64, part.bytes().0);
                if (part.start.0..part.end().0).any(|block| is_bad(&block)) {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                for (block, out) in (part.start.0..).zip(out.chunks_exact_mut(BLOCK_SIZE)) {
                    out.fill((block % 251) as u8 + 1);
                }
                Ok(())
            }, &mut unreadable).unwrap();

            let expected: BlockSet = (start..start + count).filter(is_bad).map(mobility_format::BlockIndex).collect();
            let found = unreadable.map(|unreadable| unreadable.blocks).unwrap_or_default();
            prop_assert_eq!(&found, &expected);
            prop_assert!(reads <= 2 * count);
            for (block, bytes) in (start..).zip(bytes.chunks_exact(BLOCK_SIZE)).filter(|(block, _)| !is_bad(block)) {
                prop_assert!(bytes.iter().all(|&byte| byte == (block % 251) as u8 + 1), "block {}", block);
            }
        }
    }

    #[test]
    fn a_disk_that_is_gone_is_not_asked_block_by_block() {
        let mut reads = 0;
        let outcome = read_halving(
            BlockRange::new(0, 256),
            &mut vec![0; 256 * BLOCK_SIZE],
            &mut |_, _| {
                reads += 1;
                Err(io::Error::from_raw_os_error(libc::ENXIO))
            },
            &mut None,
        );
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::ENXIO));
        assert_eq!(reads, 1);
    }
}
