//! Runs that the kernel skips, and completions that no program ever sees: neither costs a write.

use std::{
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use mobility_capture::ebpf::{Tracker, list_pinned};
use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet};
use mobility_tests::scratch::MIB;

use super::{
    load::Load,
    support::{Aligned, Bench, Mirror, open_direct},
};

/// Rounds of an agent's work, and which blocks of its copy are not the disk's at the end of any. Each round drains and reads in the
/// middle of the load and once more when it rests, right after: a write that was under way at the first drain, and that the
/// reader may have come before, is not covered up by a later one.
fn lost(bench: &Bench, tracker: &mut Tracker, load: &Load, rounds: u64) -> (BlockSet, bool) {
    let (mut mirror, mut missed, mut lost) = (Mirror::of(bench), false, BlockSet::new());
    for _ in 0..rounds {
        for at_rest in [false, true] {
            if at_rest {
                load.rest()
            } else {
                load.wait_for(20)
            }
            let drained = tracker.drain();
            mirror.read(&drained.touched);
            mirror.read(&drained.dirty);
            missed |= drained.issue_missed;
        }
        let now = Mirror::of(bench);
        lost.union_with(&mirror.difference(&now));
        mirror = now;
        load.resume();
    }
    load.rest();
    tracker.drain();
    (lost, missed)
}

/// Takes both copies of the completion program away: from here on there is no mark at completion, and no count. The kernel detaches
/// them some time after their pins are gone, so this waits until a write is not marked any more. Needs a disk at rest.
fn stop_seeing_completions(bench: &Bench, tracker: &mut Tracker) {
    let pins = list_pinned(&bench.pins).unwrap();
    for copy in ["link_completed_1", "link_completed_2"] {
        std::fs::remove_file(pins[0].path.join(copy)).unwrap();
    }
    let device = open_direct(&bench.device);
    loop {
        (0..3).for_each(|_| drop(tracker.drain()));
        device.write_all_at(Aligned::new(BLOCK_SIZE).bytes(), 0).unwrap();
        if tracker.dirty().is_empty() {
            break;
        }
    }
    (0..3).for_each(|_| drop(tracker.drain()));
    tracker.clear_pending();
}

#[test]
fn root_completions_that_no_program_sees_cost_no_write() {
    let Some(bench) = Bench::new(4 * MIB) else { return };
    let load = Load::on(&bench.device, 4 * MIB, 4);
    let mut tracker = bench.start();
    load.rest();
    stop_seeing_completions(&bench, &mut tracker);
    load.resume();
    let (lost, missed) = lost(&bench, &mut tracker, &load, 100);
    assert!(lost.is_empty(), "lost {lost:?}");
    assert!(!missed);
    tracker.drain();
    assert!(
        tracker.drain().dirty.is_empty(),
        "what was in flight at the last taking is reported once more, not for ever"
    );
}

/// Loop devices do what they are asked in order, so a read never overtakes a write there and the load above cannot show what
/// this does: a write that is not known to have ended is read once more.
#[test]
fn root_what_was_in_flight_at_one_drain_is_dirty_at_the_next() {
    let Some(bench) = Bench::new(4 * MIB) else { return };
    let mut tracker = bench.start();
    stop_seeing_completions(&bench, &mut tracker);
    let written = BlockSet::of(BlockRange::new(7, 3));
    open_direct(&bench.device)
        .write_all_at(Aligned::new(3 * BLOCK_SIZE).bytes(), 7 * BLOCK_SIZE as u64)
        .unwrap();
    assert_eq!(tracker.in_flight_within(&BlockSet::of(BlockRange::new(0, 1024))), written);
    let drained = tracker.drain();
    assert_eq!((drained.dirty, drained.touched), (BlockSet::new(), written.clone()));
    tracker.clear_pending();
    assert_eq!(tracker.pending(), written, "it is owed beyond a commit");
    let drained = tracker.drain();
    assert_eq!((drained.dirty, drained.touched), (written.clone(), BlockSet::new()));
    assert!(tracker.in_flight_within(&written).is_empty(), "nothing was in flight, so it has ended");
    assert!(tracker.drain().dirty.is_empty());
    tracker.clear_pending();
    assert!(tracker.pending().is_empty());
}

#[test]
fn root_one_copy_of_each_program_is_enough() {
    let Some(bench) = Bench::new(4 * MIB) else { return };
    for copy in ["1", "2"] {
        let tracker = bench.start();
        let pins = list_pinned(&bench.pins).unwrap();
        for program in ["completed", "issued"] {
            std::fs::remove_file(pins[0].path.join(format!("link_{program}_{copy}"))).unwrap();
        }
        let load = Load::on(&bench.device, 4 * MIB, 4);
        load.wait_for(2_000);
        drop(load);
        let (dirty, touched) = (tracker.dirty(), tracker.touched());
        assert!(touched.len() > 500 && dirty.len() > 500, "{} {}", touched.len(), dirty.len());
        assert!(dirty.difference(&touched).is_empty());
        tracker.remove().unwrap();
    }
}

/// Programs that idle inside themselves for long can be interrupted by another write on the same CPU. Whether they are depends on
/// the kernel and the driver (loop devices complete where they cannot be); the test says how often it happened.
#[test]
fn root_skipped_runs_cost_no_write_or_are_reported() {
    let Some(bench) = Bench::new(4 * MIB) else { return };
    let load = Load::on(&bench.device, 4 * MIB, 8);
    let (mut tracker, _) = Tracker::open_with_spin(&bench.tracked(), &bench.pins, 100_000).unwrap();
    let begun = Instant::now();
    let mut skipped = 0;
    while skipped == 0 && begun.elapsed() < Duration::from_secs(20) {
        let (lost, missed) = lost(&bench, &mut tracker, &load, 50);
        load.resume();
        let counters = tracker.counters().unwrap();
        skipped = counters.skipped_runs;
        assert!(missed == (counters.issue_misses > 0), "{counters:?}");
        assert!(lost.is_empty() || missed, "lost {lost:?} without saying so: {counters:?}");
    }
    println!("{skipped} runs skipped: {:?}", tracker.counters().unwrap());
}
