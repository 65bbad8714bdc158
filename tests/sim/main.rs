//! The seeded simulation of the engine: model disks with writers, model trackers, a model shell and a model service, in
//! virtual time, with faults at every step.
//!
//! One seed is one machine's life of some minutes: it is used while everything goes wrong that its plan says, then all is
//! healed and the writers stop, and then the next recovery point must equal the disks. `SIM_SEED=n` replays one seed and
//! prints its last steps, `SIM_SEEDS=k` says how many to run,
//! `SIM_FIRST=n` from which on. Deliberately not here: what the kernel does. Each promise
//! that is simulated here has a test on real devices too.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod agent;
mod checks;
mod cut_job;
mod device;
mod faults;
mod flights;
mod jobs;
mod life;
mod mutant;
mod plan;
mod requests;
mod service;
mod tracker;
mod world;

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::mutant::Mutant;

/// As many as take less than a minute on two cores.
const SEEDS: u64 = 800;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Runs seeds on all cores until one fails; calls `each` with every result.
fn run_seeds(
    seeds: std::ops::Range<u64>,
    mutant: Option<Mutant>,
    each: impl Fn(life::Life) + Sync,
) -> Option<u64> {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let work = || {
        while failed.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let life = life::live(seed, mutant, false);
            if life.failure.is_some() {
                let mut failed = failed.lock().unwrap();
                *failed = Some(failed.map_or(seed, |other: u64| other.min(seed)));
            }
            each(life);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    failed.into_inner().unwrap()
}

fn report(seed: u64, mutant: Option<Mutant>) -> String {
    let life = life::live(seed, mutant, true);
    format!("{}\nSIM_SEED={seed}: {}", life.trace.join("\n"), life.failure.unwrap_or_default())
}

const MARKS: &[&str] = &[
    "audit found a missed block",
    "blocks not read",
    "checkpoint",
    "checkpoint during initial replication",
    "commit refused",
    "commit retried",
    "commit superseded",
    "completion lost",
    "completion missed",
    "cut conflict",
    "cut consistent",
    "cut missed",
    "cut too much",
    "cut unread",
    "cut unsettled",
    "disk back",
    "disk gone",
    "disk grown",
    "fuzzy point",
    "initial replication",
    "killed",
    "new generation",
    "outage",
    "passthrough",
    "point",
    "rebooted",
    "resync",
    "stopped after a point",
    "stopped at once",
    "storage failed",
    "storage full",
    "storage gone",
    "storage wishes to be left alone",
    "storage read-only",
    "suspects",
    "tracking went on",
];

#[test]
fn no_schedule_loses_a_write_or_makes_a_wrong_point() {
    if let Some(seed) = number("SIM_SEED") {
        let report = report(seed, None);
        println!("{report}");
        assert!(life::live(seed, None, false).failure.is_none(), "see above");
        return;
    }
    let (reached, virtual_time) = (Mutex::new(BTreeSet::new()), AtomicU64::new(0));
    let first = number("SIM_FIRST").unwrap_or(0);
    let failed = run_seeds(first..first + number("SIM_SEEDS").unwrap_or(SEEDS), None, |life| {
        virtual_time.fetch_add(life.microseconds, Ordering::Relaxed);
        reached.lock().unwrap().extend(life.marks);
    });
    println!("{:.1} virtual hours", virtual_time.into_inner() as f64 / 3.6e9);
    if let Some(seed) = failed {
        panic!("{}", report(seed, None));
    }
    if number("SIM_SEEDS").is_some_and(|seeds| seeds < SEEDS) {
        return;
    }
    let reached = reached.into_inner().unwrap();
    let missing: Vec<_> = MARKS.iter().filter(|mark| !reached.contains(*mark)).collect();
    assert!(missing.is_empty(), "no seed has reached: {missing:?}");
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in 0..5 {
        let (one, other) = (life::live(seed, None, false), life::live(seed, None, true));
        assert_eq!((one.steps, one.microseconds, one.marks), (other.steps, other.microseconds, other.marks));
    }
}

/// How many seeds a mutant may survive. Whoever makes such a mistake finds out in one run of CI.
const PATIENCE: u64 = 500;

#[test]
fn every_mutant_is_caught() {
    let survivors: Vec<_> = mutant::ALL
        .iter()
        .filter(|&&mutant| {
            let caught = run_seeds(0..PATIENCE, Some(mutant), |_| {});
            println!("{mutant:?}: seed {caught:?}");
            caught.is_none()
        })
        .collect();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
