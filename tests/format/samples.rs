//! Content from a seed: blocks and segments. The same seed gives the same bytes for ever.

use mobility_format::{
    BLOCK_SIZE, BlockRange, BlockSet, WINDOW_BLOCKS,
    segment::{ExtentEncoder, SegmentHeader, SegmentSummary, SegmentWriter, is_zero},
};
use mobility_tests::dice::Dice;

/// Fills `bytes` with one of three kinds of content: zeros, text-like, noise.
pub(crate) fn fill(dice: &mut Dice, bytes: &mut [u8]) {
    match dice.below(3) {
        0 => bytes.fill(0),
        1 => {
            let word = dice.number();
            bytes.chunks_mut(8).enumerate().for_each(|(i, c)| {
                c.copy_from_slice(&(word ^ (i as u64 / 7)).to_le_bytes()[..c.len()]);
            });
        }
        _ => bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&dice.number().to_le_bytes()[..c.len()])),
    }
}

/// A segment of up to twenty extents of all kinds, written out of order.
pub(crate) fn segment(dice: &mut Dice, header: SegmentHeader) -> (Vec<u8>, SegmentSummary) {
    let mut writer = SegmentWriter::new(Vec::new(), header).unwrap();
    let mut encoder = ExtentEncoder::new().unwrap();
    for window in (0..dice.below(20)).rev() {
        let first = dice.below(WINDOW_BLOCKS);
        let range = BlockRange::new(window * WINDOW_BLOCKS + first, 1 + dice.below(WINDOW_BLOCKS - first));
        let mut plain = vec![0; range.bytes().0 as usize];
        fill(dice, &mut plain);
        if is_zero(&plain) {
            writer.append_zero(range).unwrap();
        } else {
            writer.append(&encoder.encode(range, &plain).unwrap()).unwrap();
        }
    }
    // Longer than any stored extent may be, and at the end of the largest disk there can be.
    writer.append_zero(BlockRange::new((1 << 52) - 5000, 5000)).unwrap();
    writer.finish().unwrap()
}

/// A segment that holds the blocks `set` of a disk whose content is `image`.
pub(crate) fn segment_of(image: &[u8], set: &BlockSet, header: SegmentHeader) -> (Vec<u8>, SegmentSummary) {
    let mut writer = SegmentWriter::new(Vec::new(), header).unwrap();
    let mut encoder = ExtentEncoder::new().unwrap();
    for mut run in set.runs() {
        while run.count > 0 {
            let border = run.start.window_start().0 + WINDOW_BLOCKS;
            let range = BlockRange { start: run.start, count: run.count.min(border - run.start.0) };
            let plain = blocks_of(image, range);
            if is_zero(&plain) {
                writer.append_zero(range).unwrap();
            } else {
                writer.append(&encoder.encode(range, &plain).unwrap()).unwrap();
            }
            run = BlockRange { start: range.end(), count: run.count - range.count };
        }
    }
    writer.finish().unwrap()
}

/// The blocks `range` of `image`, filled up with zeros behind its end.
fn blocks_of(image: &[u8], range: BlockRange) -> Vec<u8> {
    let start = range.start.byte_offset() as usize;
    let end = (start + range.count as usize * BLOCK_SIZE).min(image.len());
    let mut plain = image[start..end].to_vec();
    plain.resize(range.count as usize * BLOCK_SIZE, 0);
    plain
}
