//! What one seed is about: how large, how fast, and which faults at which rates.
//!
//! Every seed switches most faults off and some of them far up (swarm testing): what hides under a mix of everything shows
//! where there is only one thing. Deliberately not here: when a fault strikes.

use std::time::Duration;

use mobility_engine::{CutPolicy, Limits, Tracking};
use mobility_format::{BLOCK_SIZE, ByteCount};
use mobility_tests::dice::Dice;

use crate::mutant::Mutant;

/// Chances are in a thousand; pauses are means, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mutant: Option<Mutant>,
    pub(crate) limits: Limits,
    pub(crate) disks: Vec<(u64, Tracking)>,
    pub(crate) writers: usize,
    /// How long a writer thinks between two writes.
    pub(crate) think: u64,
    /// How long a write takes on the device.
    pub(crate) write: u64,
    pub(crate) slow_writes: u64,
    pub(crate) write_blocks: u64,
    /// Whether two writes to one block may be in flight at once.
    pub(crate) overlap: bool,
    pub(crate) discards: u64,
    /// How long a read of one block takes.
    pub(crate) read: u64,
    /// How long the shell lets what is in flight at a cut end.
    pub(crate) settle: u64,
    pub(crate) answer: u64,
    pub(crate) lost_completions: u64,
    pub(crate) missed_completions: u64,
    pub(crate) missed_issues: u64,
    pub(crate) passthrough: u64,
    pub(crate) blind: u64,
    pub(crate) upload_faults: u64,
    pub(crate) commit_faults: u64,
    pub(crate) corruption: u64,
    pub(crate) outages: Option<u64>,
    pub(crate) kills: Option<u64>,
    pub(crate) reboots: u64,
    pub(crate) detachments: Option<u64>,
    pub(crate) growth: Option<u64>,
    pub(crate) read_faults: Option<u64>,
    pub(crate) wishes: Option<u64>,
    pub(crate) busy: u64,
}

const SECOND: u64 = 1_000_000;

impl Plan {
    pub(crate) fn draw(rng: &mut Dice) -> Plan {
        let mut plan = Plan::quiet(rng);
        if rng.per_mille(150) {
            // Tracker faults that are beyond what the engine can know are made alone.
            match rng.index(2) {
                0 => {
                    plan.lost_completions = rng.within(5, 200);
                    plan.kills = rng.per_mille(300).then(|| rng.magnitude(SECOND / 10, 30 * SECOND));
                    plan.overlap = rng.per_mille(300);
                }
                _ => plan.blind = rng.within(1, 20),
            }
            return plan;
        }
        let mut sometimes = |chance, high| if rng.per_mille(chance) { rng.magnitude(1, high) } else { 0 };
        plan.missed_completions = sometimes(150, 200);
        plan.missed_issues = sometimes(100, 20);
        plan.passthrough = sometimes(80, 10);
        plan.upload_faults = sometimes(400, 600);
        plan.commit_faults = sometimes(350, 600);
        plan.corruption = sometimes(100, 50);
        plan.reboots = sometimes(400, 600);
        let mut every = |chance, low, high| rng.per_mille(chance).then(|| rng.magnitude(low, high));
        plan.outages = every(250, SECOND, 60 * SECOND);
        plan.kills = every(400, SECOND / 10, 30 * SECOND);
        plan.detachments = every(200, 2 * SECOND, 30 * SECOND);
        plan.growth = every(150, 2 * SECOND, 30 * SECOND);
        plan.read_faults = every(200, SECOND, 30 * SECOND);
        plan.wishes = every(200, SECOND / 2, 10 * SECOND);
        plan.overlap = rng.per_mille(200);
        plan
    }

    fn quiet(rng: &mut Dice) -> Plan {
        let disks = rng.within(1, 3);
        Plan {
            mutant: None,
            limits: limits(rng),
            disks: (0..disks)
                .map(|_| {
                    let tracking = if rng.per_mille(800) { Tracking::Continuous } else { Tracking::Polling };
                    (rng.magnitude(40, 700), tracking)
                })
                .collect(),
            writers: rng.within(1, 5) as usize,
            think: rng.magnitude(500, 2 * SECOND),
            write: rng.magnitude(50, 20_000),
            slow_writes: if rng.per_mille(300) { rng.within(1, 100) } else { 0 },
            write_blocks: rng.magnitude(1, 12),
            overlap: false,
            discards: if rng.per_mille(300) { rng.within(1, 200) } else { 0 },
            read: rng.magnitude(2, 500),
            settle: rng.magnitude(1_000, 200_000),
            answer: rng.magnitude(20, 50_000),
            lost_completions: 0,
            missed_completions: 0,
            missed_issues: 0,
            passthrough: 0,
            blind: 0,
            upload_faults: 0,
            commit_faults: 0,
            corruption: 0,
            outages: None,
            kills: None,
            reboots: 0,
            detachments: None,
            growth: None,
            read_faults: None,
            wishes: None,
            busy: rng.within(10, 60) * SECOND,
        }
    }

    /// Whether every write is marked, or what was missed is counted.
    pub(crate) fn tracker_is_sound(&self) -> bool {
        self.lost_completions + self.missed_completions + self.missed_issues + self.passthrough + self.blind
            == 0
    }

    /// Whether nothing goes wrong that could keep a point from being made or from being consistent.
    pub(crate) fn calm(&self) -> bool {
        let storage =
            self.upload_faults + self.commit_faults + self.corruption == 0 && self.outages.is_none();
        let agent = self.kills.is_none() && self.detachments.is_none() && self.read_faults.is_none();
        storage && agent && self.tracker_is_sound() && self.growth.is_none()
    }
}

fn limits(rng: &mut Dice) -> Limits {
    let blocks = |count: u64| ByteCount(count * BLOCK_SIZE as u64);
    let mut millis = |low, high| Duration::from_millis(rng.magnitude(low, high));
    let (interval, try_delay) = (millis(300, 8_000), millis(1, 100));
    let (retry_first, retry_last) = (millis(20, 500), millis(1_000, 10_000));
    let (audit_round, audit_pause) = (millis(500, 600_000), millis(10, 500));
    Limits {
        interval,
        cut_bytes: blocks(rng.magnitude(4, 200)),
        checkpoint_bytes: blocks(rng.magnitude(20, 3_000)),
        cut_aim: blocks(rng.magnitude(1, 200)),
        passes: rng.within(1, 8) as u32,
        tries: rng.within(1, 5) as u32,
        try_delay,
        uploads: rng.within(1, 3) as usize,
        segments: rng.within(1, 4) as usize,
        retry_first,
        retry_last,
        upload_rate: rng.per_mille(150).then(|| blocks(rng.within(50, 5_000))),
        audit_round,
        audit_pause,
        cut_policy: [CutPolicy::Auto, CutPolicy::Auto, CutPolicy::Optimistic, CutPolicy::Freeze]
            [rng.index(4)],
        freeze_bytes: blocks(rng.magnitude(200, 1_000)),
        application_interval: rng.per_mille(300).then(|| Duration::from_millis(rng.magnitude(2_000, 60_000))),
        ..Limits::default()
    }
}
