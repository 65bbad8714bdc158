//! Agents whose cuts are wrong on purpose: the truth test must find a wrong point soon, or it proves nothing.
//!
//! Each has the load at which it is nearly certain to be wrong. What they break is `agent/daemon/src/broken.rs`'s;
//! only debug builds can be broken.

use std::time::{Duration, Instant};

use mobility_tests::scratch::root_with;

use crate::{
    AGENTS,
    loads::{IDLE, Load},
    rig::Rig,
    tell,
};

/// How often it may be tried, each time with another seed.
const ROUNDS: u64 = 4;

fn must_be_caught(broken: &str, load: &Load) {
    let Some(()) = root_with(&["blkdiscard"]) else { return };
    let (begin, mut right) = (Instant::now(), 0);
    for seed in 1..=ROUNDS {
        let run = Rig::new(load, seed, AGENTS, Some(broken)).run(Duration::from_secs(8));
        let checked = run.check(usize::MAX);
        if let Some(why) = checked.wrong {
            let (points, took) = (right + checked.crash, begin.elapsed());
            return tell(&format!("{broken}: point {points} is wrong, after {took:.0?}: {why}"));
        }
        right += checked.crash;
    }
    panic!("an agent that is broken by {broken} made {right} points that all look right");
}

/// Much is dirty at each cut, and much of it is written again while it is read.
const BUSY: Load = Load {
    name: "16 writers of 4 KiB, as much as goes",
    chains: 16,
    slots: 32,
    discard_every: 0,
    per_second: None,
    ..IDLE
};

#[test]
fn root_a_cut_without_validation_is_caught() {
    must_be_caught("no-validation", &BUSY);
}

#[test]
fn root_a_cut_that_looks_at_the_wrong_bitmap_is_caught() {
    must_be_caught("wrong-bitmap", &BUSY);
}

#[test]
fn root_a_cut_that_drains_after_reading_is_caught() {
    must_be_caught("drain-after-read", &BUSY);
}
