//! The truth test: not one crash-consistent point may be wrong, whatever the load.
//!
//! Chains of writers keep a verifiable order across several disks, raw ones and files on file systems, while several
//! agents protect the same disks, each with a vault of its own, and make a point a second. Every crash-consistent
//! point is restored by `recovery-service` and checked: it must show one instant, and that must be its `t0`. Why the check is
//! right stands at the top of `mobility_tests::load_ordered`. Agents that are broken on purpose show that it would notice.
//!
//! `MOBILITY_LONG=1` runs two minutes of each load instead of seconds: thousands of points, in an hour. `MOBILITY_EVIDENCE` names a
//! directory for what is left of a wrong point. Deliberately not here: databases and whole file systems (`root_e2e`), freezing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod loads;
mod mutants;
mod rig;

use std::time::Duration;

use loads::{Load, on_files, raw};
use mobility_tests::scratch::{long, root_with};
use rig::Rig;

/// How many agents protect the same disks.
const AGENTS: usize = 3;
/// How many points of each agent are checked unless the run is a long one: mounting copies takes its time.
const FEW: usize = 15;

/// Past the capture of output: the figures are what people want to see of a test that passes.
pub(crate) fn tell(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Runs each load, and checks each point.
fn sweep(loads: &[Load]) {
    let time = Duration::from_secs(if long() { 120 } else { 6 });
    let mut all = 0;
    for (load, seed) in loads.iter().zip(1..) {
        let mut rig = Rig::new(load, seed, AGENTS, None);
        let run = rig.run(time);
        let checked = run.check(if long() { usize::MAX } else { FEW });
        if let Some(why) = &checked.wrong {
            panic!("{}, seed {seed}: {why}", load.name);
        }
        let share = checked.crash as f64 / checked.points.max(1) as f64;
        tell(&format!("{}: {}", load.name, checked.told(&run)));
        assert!(checked.points >= AGENTS, "{}: hardly any points", load.name);
        assert!(
            share >= load.share,
            "{}: {share:.2} of the points are crash-consistent, not {}\n{}",
            load.name,
            load.share,
            run.log_tail()
        );
        all += checked.crash;
    }
    tell(&format!("{all} crash-consistent points, all of them right"));
}

#[test]
fn root_every_point_of_raw_disks_is_one_instant() {
    let Some(()) = root_with(&["blkdiscard"]) else { return };
    sweep(&raw());
}

#[test]
fn root_every_point_of_raw_disks_and_three_file_systems_is_one_instant() {
    let Some(()) = root_with(&["blkdiscard", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"]) else { return };
    sweep(&on_files());
}
