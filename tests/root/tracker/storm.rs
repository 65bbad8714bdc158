//! Starts under saturating load, and nothing that was written is lost.
//!
//! Each start is an agent's whole life in small: a tracker is started while writers run at full speed, the disk is copied,
//! then whatever the tracker reports is copied again, pass after pass; at the end the copy must be the disk. The disk is small
//! and the load heavy, so blocks are written again while an earlier write to them is being read: the cases in which one
//! completion mark covers up the loss of another.
//!
//! `MOBILITY_STARTS` says how many starts (100 unless set); `tests/root/start-storm.sh` runs five thousand.

use std::{env, time::Instant};

use mobility_format::BlockSet;
use mobility_tests::scratch::MIB;

use super::{
    load::Load,
    support::{Bench, Mirror},
};

const SIZE: u64 = 8 * MIB;
const PASSES: u64 = 8;

#[derive(Default)]
struct Found {
    writes: u64,
    reported: u64,
    /// Blocks that had been written and had no completion mark when all writers rested.
    unmarked: u64,
    lost: u64,
}

#[test]
fn root_nothing_is_lost_over_many_starts_under_load() {
    let Some(bench) = Bench::new(SIZE) else { return };
    let starts: u64 =
        env::var("MOBILITY_STARTS").map_or(100, |n| n.parse().expect("MOBILITY_STARTS is a number"));
    let load = Load::on(&bench.device, SIZE, 4);
    let (begun, mut all) = (Instant::now(), Found::default());
    for start in 0..starts {
        let found = one_start(&bench, &load);
        all.writes += found.writes;
        all.reported += found.reported;
        all.unmarked += found.unmarked;
        all.lost += found.lost;
        if found.lost > 0 {
            println!("start {start}: {} blocks lost", found.lost);
        }
        if start % 500 == 499 {
            println!(
                "{} starts so far: {} writes, {} unmarked, {} lost",
                start + 1,
                all.writes,
                all.unmarked,
                all.lost
            );
        }
    }
    println!(
        "{starts} starts in {:.0} s: {} writes while tracked, {} blocks reported, {} blocks without a completion mark at rest, \
         {} blocks lost",
        begun.elapsed().as_secs_f64(),
        all.writes,
        all.reported,
        all.unmarked,
        all.lost
    );
    assert_eq!(all.lost, 0);
}

fn one_start(bench: &Bench, load: &Load) -> Found {
    let mut tracker = bench.start();
    let before = load.writes();
    let mut found = Found::default();
    let mut mirror = Mirror::of(bench);
    for _ in 0..PASSES {
        load.wait_for(64);
        let drained = tracker.drain();
        let mut report = drained.dirty;
        report.union_with(&drained.touched);
        found.reported += report.len();
        mirror.read(&report);
    }
    load.rest();
    found.writes = load.writes() - before;
    let mut last = BlockSet::new();
    let drained = tracker.drain();
    found.unmarked = drained.touched.difference(&drained.dirty).len();
    last.union_with(&drained.dirty);
    last.union_with(&drained.touched);
    mirror.read(&last);
    found.lost = mirror.difference(&Mirror::of(bench)).len();
    assert!(!drained.issue_missed && !drained.passthrough && !drained.out_of_range, "{drained:?}");
    tracker.remove().unwrap();
    load.resume();
    found
}
