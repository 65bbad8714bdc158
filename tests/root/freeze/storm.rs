//! The freeze safety storm: an agent that is killed, stopped or starved at every step of a frozen cut, again and again, and
//! three writers that must never wait longer than the limit and 100 ms.
//!
//! `MOBILITY_FREEZES=1000` for the full number.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

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

/// The storm: file systems, a writer on each, and what has been seen.
struct Storm {
    // Before the bench, which unmounts what they write to.
    probes: Vec<Probe>,
    bench: Bench,
    set: Vec<(Disk, PathBuf)>,
    dice: Dice,
    pauses: Vec<Duration>,
    /// Pauses beyond what is allowed, in words.
    too_long: Vec<String>,
}

impl Storm {
    fn plan(&mut self, place: Place, harm: Harm) -> Plan {
        let end = match harm {
            Harm::Killed => End::Killed,
            Harm::GroupKilled => End::GroupKilled,
            Harm::Stopped | Harm::Paused => End::Stopped,
            Harm::Starved => End::None,
        };
        Plan {
            disks: self.set.iter().map(|(disk, _)| disk.path.clone()).collect(),
            record: self.bench.record(),
            place,
            end,
            limit: LIMIT,
            cut: Duration::from_micros(self.dice.magnitude(100, 20_000)),
            group: None,
        }
    }

    /// Does it once. Whether all writers went on in time.
    fn once(&mut self, place: Place, harm: Harm, case: &str) -> bool {
        self.bench.renew_safety();
        let plan = self.plan(place, harm);
        let _forgotten: Vec<_> = self.probes.iter().map(Probe::longest).collect();
        one(&plan, harm, &self.probes, &mut self.dice);
        let seen = self.too_long.len();
        for (probe, kind) in self.probes.iter().zip(KINDS) {
            assert!(probe.goes_on(SOON), "{case}: {kind} stays frozen");
            let pause = probe.longest();
            if pause > LIMIT + MARGIN {
                self.too_long.push(format!("{case}: {kind} was held for {pause:?}"));
            }
            self.pauses.push(pause);
        }
        self.too_long.len() == seen
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A writer also waits for its disk, frozen or not, and on a machine that does something else as well now and then for
/// longer than the margin. A guard that is late is late again: so what took too long is done twice more, and is
/// wrong if it takes too long each time, or if it happens often.
#[test]
fn root_freeze_safety_storm() {
    let Some(mut bench) = Bench::new() else { return };
    let set: Vec<(Disk, _)> = KINDS.iter().map(|kind| bench.file_system(kind, kind)).collect();
    let probes: Vec<_> = set.iter().map(|(_, point)| Probe::on(point)).collect();
    let (count, seed) = (number("MOBILITY_FREEZES", 60) as usize, number("MOBILITY_SEED", 1));
    let dice = Dice::new(seed);
    let mut storm = Storm { bench, set, probes, dice, pauses: Vec::new(), too_long: Vec::new() };
    let places = Place::all(KINDS.len());
    let mut always = Vec::new();
    let mut frozen_harms = 0;
    for round in 0..count {
        let place = places[round % places.len()];
        let harm = HARMS[round / places.len() % HARMS.len()];
        let case = format!("seed {seed}, round {round}: {harm:?} at {place:?}");
        if !(0..3).any(|_| storm.once(place, harm, &case)) {
            always.push(case);
        }
        frozen_harms += usize::from(matches!(place, Place::At(Step::Frozen(_)) | Place::MidCut));
    }
    let Storm { set, mut pauses, too_long, .. } = storm;
    pauses.sort();
    println!(
        "{count} freezes, {frozen_harms} of them harmed while frozen: a writer's longest pause p50 {:?}, p99 {:?}, \
         max {:?}; {} of {} beyond the limit and its margin",
        percentile(&pauses, 50),
        percentile(&pauses, 99),
        percentile(&pauses, 100),
        too_long.len(),
        pauses.len(),
    );
    assert!(always.is_empty(), "each time too long: {always:?}\n{}", too_long.join("\n"));
    assert!(too_long.len() * 10 <= pauses.len(), "too often too long:\n{}", too_long.join("\n"));
    assert!(set.iter().all(|(_, point)| unfreeze(point).is_err()), "something was still frozen");
}
