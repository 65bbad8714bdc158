//! The freeze safety storm: an agent that is killed, stopped or starved at every step of a frozen cut, again and again, and
//! three writers that must never wait longer than the limit and 100 ms.
//!
//! `MOBILITY_FREEZES=1000` for the full number.

use std::time::{Duration, Instant};

use mobility_capture::{disk::Disk, freeze::Step};
use mobility_tests::dice::Dice;
use rustix::process::Signal;

use crate::{
    SOON,
    bench::{Bench, unfreeze},
    probe::Probe,
    victim::{End, Place, Plan, signal, wait_stopped_or_gone},
};

const LIMIT: Duration = Duration::from_millis(100);
/// What P4 allows beyond the limit.
const MARGIN: Duration = Duration::from_millis(100);
const KINDS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// What is done to an agent.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Killed,
    GroupKilled,
    Stopped,
    /// Stopped until after the limit, then let on.
    Paused,
    /// Stopped and let on in quick succession, as by a host that has no processor left.
    Starved,
}

const HARMS: [Harm; 5] = [Harm::Killed, Harm::GroupKilled, Harm::Stopped, Harm::Paused, Harm::Starved];

fn one(plan: &Plan, harm: Harm, probes: &[Probe], dice: &mut Dice) {
    let mut child = plan.start();
    if let Harm::Starved = harm {
        let until = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            signal(&child, Signal::STOP);
            std::thread::sleep(Duration::from_micros(dice.magnitude(100, 50_000)));
            signal(&child, Signal::CONT);
            std::thread::sleep(Duration::from_micros(dice.magnitude(100, 5_000)));
        }
    } else if !wait_stopped_or_gone(&mut child) {
        let beyond = Instant::now() + LIMIT + Duration::from_millis(20);
        while Instant::now() < beyond {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(probes.iter().all(|probe| probe.goes_on(Duration::from_secs(5))), "held beyond the limit");
        signal(&child, if let Harm::Paused = harm { Signal::CONT } else { Signal::KILL });
    }
    let until = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            signal(&child, Signal::KILL);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn percentile(sorted: &[Duration], of_hundred: usize) -> Duration {
    sorted[(sorted.len() - 1) * of_hundred / 100]
}

#[test]
fn root_freeze_safety_storm() {
    let Some(mut bench) = Bench::new() else { return };
    let set: Vec<(Disk, _)> = KINDS.iter().map(|kind| bench.file_system(kind, kind)).collect();
    let probes: Vec<_> = set.iter().map(|(_, point)| Probe::on(point)).collect();
    let count: usize =
        std::env::var("MOBILITY_FREEZES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let seed = std::env::var("MOBILITY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut dice = Dice::new(seed);
    let places = Place::all(KINDS.len());
    let (mut pauses, mut frozen_harms) = (Vec::new(), 0);
    let mut too_long = Vec::new();
    for round in 0..count {
        bench.renew_safety();
        let place = places[round % places.len()];
        let harm = HARMS[round / places.len() % HARMS.len()];
        let end = match harm {
            Harm::Killed => End::Killed,
            Harm::GroupKilled => End::GroupKilled,
            Harm::Stopped | Harm::Paused => End::Stopped,
            Harm::Starved => End::None,
        };
        let plan = Plan {
            disks: set.iter().map(|(disk, _)| disk.path.clone()).collect(),
            record: bench.record(),
            place,
            end,
            limit: LIMIT,
            cut: Duration::from_micros(dice.magnitude(100, 20_000)),
            group: None,
        };
        let _forgotten: Vec<_> = probes.iter().map(Probe::longest).collect();
        one(&plan, harm, &probes, &mut dice);
        let case = format!("seed {seed}, round {round}: {harm:?} at {place:?}");
        for (probe, kind) in probes.iter().zip(KINDS) {
            assert!(probe.goes_on(SOON), "{case}: {kind} stays frozen");
            let pause = probe.longest();
            if pause > LIMIT + MARGIN {
                too_long.push(format!("{case}: {kind} was held for {pause:?}"));
            }
            pauses.push(pause);
        }
        frozen_harms += usize::from(matches!(place, Place::At(Step::Frozen(_)) | Place::MidCut));
    }
    pauses.sort();
    println!(
        "{count} freezes, {frozen_harms} of them harmed while frozen: a writer's longest pause p50 {:?}, p99 {:?}, max {:?}",
        percentile(&pauses, 50),
        percentile(&pauses, 99),
        percentile(&pauses, 100),
    );
    assert!(too_long.is_empty(), "{} too long:\n{}", too_long.len(), too_long.join("\n"));
    assert!(set.iter().all(|(_, point)| unfreeze(point).is_err()), "something was still frozen");
}
