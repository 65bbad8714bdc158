//! A disk that grows while it is written to: the tracker for the new size takes over from the old one without a gap.

use std::fs::OpenOptions;

use mobility_capture::ebpf::{Continuity, list_pinned};
use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet, ByteCount};
use mobility_tests::scratch::{MIB, run};

use super::{
    load::Load,
    support::{Aligned, Bench, Mirror, open_direct},
};

#[test]
fn root_a_take_over_under_load_loses_nothing() {
    // The old end lies within a block.
    let mut size = 8 * MIB + 512;
    let Some(bench) = Bench::new(size) else { return };
    let mut tracker = bench.start();
    let mut mirror = Mirror::of(&bench);
    for _ in 0..10 {
        let load = Load::on(&bench.device, size / BLOCK_SIZE as u64 * BLOCK_SIZE as u64, 4);
        load.wait_for(500);
        let drained = tracker.drain();
        mirror.read(&drained.dirty);
        mirror.read(&drained.touched);
        let old = size;
        size += MIB + 512;
        OpenOptions::new().write(true).open(bench.file()).unwrap().set_len(size).unwrap();
        run("losetup", &["--set-capacity", bench.path()]);
        tracker.resize(ByteCount(size)).unwrap();
        load.wait_for(500);
        drop(load);
        let drained = tracker.drain();
        assert!(!drained.issue_missed && !drained.passthrough && !drained.out_of_range, "{drained:?}");
        let start = old / BLOCK_SIZE as u64;
        let new = BlockSet::of(BlockRange::new(start, ByteCount(size).blocks() - start));
        assert!(new.difference(&drained.dirty).is_empty(), "the new range is dirty");
        mirror = mirror.grown(&bench);
        mirror.read(&drained.dirty);
        mirror.read(&drained.touched);
        let lost = mirror.difference(&Mirror::of(&bench));
        assert!(lost.is_empty(), "lost {lost:?}");
    }
    drop(tracker);
    assert_eq!(bench.open().1, Continuity::Continued);
    assert_eq!(list_pinned(&bench.pins).unwrap().len(), 1, "the old ones are gone");
}

#[test]
fn root_writes_beyond_the_known_end_are_reported() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    let mut tracker = bench.start();
    OpenOptions::new().write(true).open(bench.file()).unwrap().set_len(16 * MIB).unwrap();
    run("losetup", &["--set-capacity", bench.path()]);
    use std::os::unix::fs::FileExt;
    open_direct(&bench.device)
        .write_all_at(Aligned::new(2 * BLOCK_SIZE).bytes(), 8 * MIB - BLOCK_SIZE as u64)
        .unwrap();
    let drained = tracker.drain();
    assert!(drained.out_of_range);
    assert_eq!(
        drained.dirty,
        BlockSet::of(BlockRange::new(2047, 1)),
        "what is within the known disk is marked"
    );
    assert!(!tracker.drain().out_of_range, "once");
}
