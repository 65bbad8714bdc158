//! Real databases on protected disks: every point that claims to be consistent is restored, and the database itself says
//! what it is worth.
//!
//! PostgreSQL under `pgbench` has its tables on one disk and its log of changes on another, SQLite writes to both. Each
//! restored point must start by the databases' own recovery, be whole, hold every transaction that was acknowledged before its
//! `t0`, and none that was sent after it. `MOBILITY_LONG=1` runs the durations of the full demonstration. Deliberately not here: other
//! applications and file systems (`root_e2e`), and how scripts are called (`root_applications`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod application;
mod rig;

use std::time::{Duration, Instant};

use mobility_tests::{
    agent_process::{Agent, Point},
    load::fio,
    load_postgresql::Writers,
    load_sqlite::Database,
    scratch::long,
};

use rig::Rig;

/// How long each half of the load lasts.
fn half() -> Duration {
    if long() { Duration::from_secs(150) } else { Duration::from_secs(9) }
}

/// How many points are restored at most.
fn most_restored() -> usize {
    if long() { usize::MAX } else { 6 }
}

/// Past the capture of output: the figures are what people want to see of a test that passes.
fn tell(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[test]
fn root_databases_survive_at_every_point() {
    databases("ext4", "xfs");
    if long() {
        databases("xfs", "ext4");
    }
}

fn databases(tables: &str, log_of_changes: &str) {
    let Some(mut rig) = Rig::new(tables, Some(log_of_changes), &["--cut", "auto", "--interval", "2s"]) else {
        return;
    };
    let mut agent = rig.start();
    let writers = Writers::start(rig.server(), 4, Duration::from_millis(10));
    let places = rig.places();
    let sqlite: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(i, place)| Database::start(place, "wal", 0.02, rig.scratch.path(&format!("sqlite-{i}.log"))))
        .collect();

    let bench = rig.server().bench(Some(60));
    during(&mut agent, half());
    drop(bench);
    let calm = rig.setup.points().len();
    let busy = (rig.server().bench(None), fio(&places[0], "storm", None));
    during(&mut agent, half());
    drop(busy);

    let sqlite: Vec<_> = sqlite.into_iter().map(Database::stop).collect();
    let ledger = writers.stop();
    rig.stop_server();
    agent.wait_for_points(1);
    agent.terminate();
    rig.unmount();

    let points = rig.setup.points();
    let consistent: Vec<_> = points.iter().filter(|point| point.is_consistent()).cloned().collect();
    tell(&format!("tables on {tables}, log on {log_of_changes}:\n{}", rig::figures(&points, calm)));
    let chosen = rig::spread(&consistent, most_restored());
    let epochs: Vec<_> = chosen.iter().map(|point| point.listed["epoch"].to_string()).collect();
    tell(&format!("restored: {} of {}, epochs {}", chosen.len(), consistent.len(), epochs.join(" ")));
    let mut last = Vec::new();
    for point in &chosen {
        let begin = Instant::now();
        let found = rig.check(point, &ledger, &sqlite);
        tell(&format!("{} {found:?} in {:?}", point.id, begin.elapsed()));
        assert!(last.iter().zip(&found).all(|(before, now)| before <= now), "{point:?}: rows vanish");
        last = found;
    }
    let written: Vec<_> =
        ledger.acknowledged().into_iter().chain(sqlite.iter().map(|rows| rows.acknowledged.len())).collect();
    let all_there = last.iter().zip(&written).all(|(present, written)| present >= written);
    assert!(all_there, "the last point, made after everything, has {last:?} of {written:?}");
    assert!(written.iter().all(|&rows| rows > 20), "the databases were hardly written: {written:?}");
    let share = consistent.len() * 100 / points.len();
    assert!(share >= 60, "only {share}% of the points are consistent");
}

/// Lets the load go on.
fn during(agent: &mut Agent, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        agent.wait_for_points(1);
    }
}

/// Since and until when something is in a point.
fn instant(point: &Point) -> jiff::Timestamp {
    point.cut("t0").as_str().unwrap().parse().unwrap()
}
