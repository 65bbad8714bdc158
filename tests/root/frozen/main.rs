//! The agent, its guard and frozen cuts as they are in a machine: also where the file system that is frozen is the one that
//! the agent itself lives on.
//!
//! Whatever happens, `mobility_tests::pulse` thaws. Deliberately not here: freezing without an agent (`root_freeze`), what
//! the points are worth under a load (`root_truth`), and databases (`root_databases`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod kills;
mod own_root;
mod raw;
mod root_rig;
mod swap;

use std::time::Duration;

use mobility_tests::agent_process::Point;

/// How long writes may be held in these tests; the default.
const LIMIT: Duration = Duration::from_millis(300);
/// What may come on top of that.
const SLACK: Duration = Duration::from_millis(100);

/// Past the capture of output: the figures are what people want to see of a test that passes.
fn tell(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// For how long each of the points held writes, in order of time, of those that did.
fn held(points: &[Point]) -> Vec<Duration> {
    let held = |point: &Point| point.listed["cut"]["held_us"].as_u64().unwrap();
    let mut held: Vec<_> = points.iter().map(held).filter(|&us| us > 0).map(Duration::from_micros).collect();
    held.sort_unstable();
    held
}
