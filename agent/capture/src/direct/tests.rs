//! The reader on plain files; `tests/root` has what needs block devices.

use std::{fs, os::unix::fs::FileExt, path::Path};

use mobility_format::WINDOW_BLOCKS;
use proptest::prelude::*;

use super::*;

/// A file in the temporary directory and one in memory: with and, on older kernels, without direct reads.
fn places() -> Vec<tempfile::TempDir> {
    let mut places = vec![tempfile::tempdir().unwrap()];
    places.extend(tempfile::tempdir_in("/dev/shm").ok());
    places
}

fn image(dir: &Path, content: &[u8]) -> DirectReader {
    let path = dir.join("disk.img");
    fs::write(&path, content).unwrap();
    DirectReader::open(&Disk::inspect(&path).unwrap()).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let mut content = vec![0; len];
    blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

#[test]
fn reads_what_the_file_holds_and_fills_the_last_block_with_zeros() {
    for (place, len) in
        places().iter().zip([BLOCK_SIZE * 3 + 700, 100]).chain(places().iter().zip([BLOCK_SIZE * 9, 1]))
    {
        let content = noise(len);
        let reader = image(place.path(), &content);
        let mut buf = AlignedBuf::for_window();
        let all = BlockRange::whole_disk(reader.size());
        reader.read(all, &mut buf).unwrap();
        assert_eq!(&buf[..len], content);
        assert_eq!(buf.len() as u64, all.bytes().0);
        assert!(
            buf[len..].iter().all(|&byte| byte == 0),
            "old bytes of the buffer must not pass for content"
        );
        for block in 0..all.count {
            buf.spare(BLOCK_SIZE).fill(0xaa);
            reader.read(BlockRange::new(block, 1), &mut buf).unwrap();
            let (start, end) = (block as usize * BLOCK_SIZE, len.min((block as usize + 1) * BLOCK_SIZE));
            assert_eq!(&buf[..end - start], &content[start..end]);
            assert!(buf[end - start..].iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn refuses_what_is_not_on_the_disk_or_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let reader = image(dir.path(), &noise(5 * BLOCK_SIZE));
    let mut buf = AlignedBuf::new(2 * BLOCK_SIZE);
    for range in
        [BlockRange::new(0, 3), BlockRange::new(4, 2), BlockRange::new(u64::MAX, 1), BlockRange::new(9, 0)]
    {
        let error = reader.read(range, &mut buf).unwrap_err();
        assert_eq!(error.kind, ReadErrorKind::OutOfRange, "{range}");
        assert!(buf.is_empty());
    }
    reader.read(BlockRange::new(3, 2), &mut buf).unwrap();
}

#[test]
fn a_file_that_was_cut_is_an_error_and_never_zeros() {
    for place in places() {
        let reader = image(place.path(), &noise(8 * BLOCK_SIZE));
        let file = fs::OpenOptions::new().write(true).open(place.path().join("disk.img")).unwrap();
        file.set_len(5 * BLOCK_SIZE as u64 + 100).unwrap();
        let mut buf = AlignedBuf::for_window();
        let error = reader.read(BlockRange::new(4, 4), &mut buf).unwrap_err();
        assert_eq!(error.kind, ReadErrorKind::Gone);
        assert!(buf.is_empty(), "nothing is left that could be taken for content");
        reader.read(BlockRange::new(0, 5), &mut buf).unwrap();
    }
}

#[test]
fn a_file_that_grew_reads_as_long_as_the_disk_was() {
    let dir = tempfile::tempdir().unwrap();
    let reader = image(dir.path(), &noise(BLOCK_SIZE + 10));
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("disk.img")).unwrap();
    file.write_all_at(&[7; 3 * BLOCK_SIZE], BLOCK_SIZE as u64).unwrap();
    let mut buf = AlignedBuf::for_window();
    reader.read(BlockRange::new(1, 1), &mut buf).unwrap();
    assert_eq!((&buf[..10], &buf[10..]), (&[7; 10][..], &[0; BLOCK_SIZE - 10][..]));
}

#[test]
fn several_threads_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let content = noise(64 * BLOCK_SIZE);
    let reader = image(dir.path(), &content);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (reader, content) = (&reader, &content);
            scope.spawn(move || {
                let mut buf = AlignedBuf::new(BLOCK_SIZE);
                for block in (0..64).map(|i| (i * 7 + thread * 13) % 64) {
                    reader.read(BlockRange::new(block, 1), &mut buf).unwrap();
                    assert_eq!(*buf, content[block as usize * BLOCK_SIZE..][..BLOCK_SIZE]);
                }
            });
        }
    });
}

#[test]
fn buffers_start_where_direct_reads_can_land() {
    for blocks in [1, 2, 256] {
        let mut buf = AlignedBuf::new(blocks * BLOCK_SIZE - 1);
        assert_eq!(buf.capacity(), blocks * BLOCK_SIZE);
        assert_eq!(buf.spare(1).as_ptr().addr() % BLOCK_SIZE, 0);
    }
}

#[test]
fn the_idle_class_is_taken() {
    // In a thread of its own, so that the test runner's keeps its class.
    std::thread::spawn(set_idle_io_priority).join().unwrap().unwrap();
}

proptest! {
    #[test]
    fn a_plan_reads_each_block_once_and_never_across_windows(
        runs in prop::collection::vec((0u64..5000, 1u64..700), 0..12),
    ) {
        let blocks: BlockSet = runs.iter().map(|&(start, count)| BlockRange::new(start, count)).collect();
        let plan: Vec<_> = read_plan(&blocks).collect();
        prop_assert_eq!(plan.iter().map(|read| read.count).sum::<u64>(), blocks.len());
        prop_assert_eq!(plan.iter().copied().collect::<BlockSet>(), blocks);
        for pair in plan.windows(2) {
            let joined = pair[0].end() == pair[1].start && pair[1].start.0 % WINDOW_BLOCKS != 0;
            prop_assert!(!joined, "adjacent blocks of a window in two reads");
        }
        for read in plan {
            prop_assert_eq!(read.start.window_start(), BlockIndex(read.end().0 - 1).window_start());
        }
    }

    #[test]
    fn what_is_called_a_hole_reads_as_zeros(writes in prop::collection::vec((0u64..400, 1usize..9000), 0..6), tail in 1u64..5000) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse.img");
        let file = fs::File::create(&path).unwrap();
        file.set_len(400 * BLOCK_SIZE as u64 + tail).unwrap();
        for (block, len) in writes {
            let room = (400 * BLOCK_SIZE as u64 + tail - block * BLOCK_SIZE as u64).min(len as u64);
            file.write_all_at(&vec![1; room as usize], block * BLOCK_SIZE as u64).unwrap();
        }
        let reader = DirectReader::open(&Disk::inspect(&path).unwrap()).unwrap();
        let (mut next, mut buf) = (0, AlignedBuf::new(500 * BLOCK_SIZE));
        while next < reader.size().blocks() {
            let stretch = reader.stretch_at(BlockIndex(next));
            let range = stretch.range();
            prop_assert_eq!(range.start.0, next);
            prop_assert!(range.count > 0 && range.end().0 <= reader.size().blocks());
            if let Stretch::Hole(range) = stretch {
                reader.read(range, &mut buf).unwrap();
                prop_assert!(buf.iter().all(|&byte| byte == 0));
            }
            next = range.end().0;
        }
    }
}
