//! Everything that can go wrong between the agent, the service and the store, with all three of them real: a bad
//! line, answers that are wrong, late, cut short, given twice or never; a store that is away, that wants to be left
//! alone, that says that it has what it has not; clocks that are wrong by a day.
//!
//! After each fault replication goes on by itself, and in the end every crash-consistent point that was made
//! meanwhile shows one instant of the disk, and the last one is the disk. The disk is a file that is scanned, or one that the kernel tracks.
//! Deliberately not here: a service or an agent that is killed (`service`, `root/service.rs`), and stores that fail
//! behind the service (`stores`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod clocks;
mod front;
mod line;
mod rig;
#[allow(dead_code, reason = "what `link` wants of it besides")]
#[path = "../link/server.rs"]
mod server;

use std::time::{Duration, Instant};

use mobility_tests::agent_process::{SOON, protected};
use mobility_tests::scratch::eventually;

use crate::{
    front::Mischief,
    line::Trouble,
    rig::{Rig, newest_epoch},
};

const SEED: u64 = 20_261_126;
/// How long it may take, on a machine that is busy with other things, until what was written after a fault is in
/// target storage.
const RECOVERY: Duration = Duration::from_secs(30);

const fn storm(status: u16, retry_after: Option<u64>, uploads: bool) -> Mischief {
    Mischief::Storm { status, retry_after, uploads }
}

/// What is wrong, in words, at the line, and before the service; and how often at least.
fn faults() -> [(&'static str, Trouble, Mischief, u64); 11] {
    let line = Trouble::default();
    let (ms, second) = (Duration::from_millis, Duration::from_secs(1));
    [
        ("latency", Trouble { latency: ms(60), ..line }, Mischief::None, 30),
        ("stalls", Trouble { stalls: 100, stall: second, ..line }, Mischief::None, 3),
        ("resets", Trouble { breaks_within: Some(100_000), ..line }, Mischief::None, 6),
        ("nobody gets through", Trouble { cut: true, ..line }, Mischief::None, 4),
        ("429 to all", line, storm(429, None, false), 6),
        ("503 to all, with a wish", line, storm(503, Some(1), false), 4),
        ("storage is away", line, storm(503, None, true), 5),
        ("429 to uploads, with a wish", line, storm(429, Some(1), true), 3),
        ("answers are cut short", line, Mischief::Truncates, 4),
        ("answers are lost", line, Mischief::LosesAnswers, 4),
        ("requests come twice", line, Mischief::Repeats, 15),
    ]
}

#[test]
fn whatever_goes_wrong_on_the_way_is_over_when_it_is_over() {
    goes_on_after_each_fault(&Rig::new(SEED));
}

/// Where no second scan proves a point: what the tracker marks while nothing can be sent is all that there is.
#[test]
fn root_a_tracked_disk_comes_through_the_same() {
    let Some(rig) = Rig::tracked(SEED + 3) else { return };
    goes_on_after_each_fault(&rig);
}

fn goes_on_after_each_fault(rig: &Rig) {
    let mut agent = rig.setup.start();
    let generation = agent.wait_for("protection", protected)["generation"].clone();
    let writer = rig.write();
    for (name, trouble, mischief, harm) in faults() {
        let before = rig.line.harm();
        rig.line.set(trouble);
        rig.front.set(mischief);
        let suffered = || (rig.line.harm() - before + rig.front.harm() >= harm).then_some(());
        eventually(name, SOON, suffered);
        rig.line.set(Trouble::default());
        rig.front.set(Mischief::None);
        let over = Instant::now();
        agent.wait_for_points(1);
        let epoch = newest_epoch(&agent.wait_for("no outage", |status| status["outage"].is_null()));
        rig.taken_in(epoch);
        let took = over.elapsed();
        println!("{name}: a new point {took:?} after the end");
        assert!(took < RECOVERY, "{name}: a new point only {took:?} after the end\n{}", rig.setup.log_tail());
    }
    assert_eq!(agent.status().unwrap()["generation"], generation, "a resync\n{}", rig.setup.log_tail());
    assert!(writer.stop() > 10);
    rig.settle(&mut agent);
    agent.terminate();
    rig.demand_truth(12);
}

#[test]
fn what_a_store_says_it_has_and_has_not_is_sent_again() {
    let rig = Rig::new(SEED + 1);
    let mut agent = rig.setup.start();
    let generation = agent.wait_for("protection", protected)["generation"].clone();
    let writer = rig.write();

    // The service looks at each commit, and says that there is none: the manifest is put again.
    rig.front.set(Mischief::LosesManifests);
    eventually("manifests that are lost", SOON, || (rig.front.harm() >= 3).then_some(()));
    rig.front.set(Mischief::None);
    let epoch = newest_epoch(&agent.wait_for_points(2));
    rig.taken_in(epoch);
    assert_eq!(agent.status().unwrap()["generation"], generation, "a resync\n{}", rig.setup.log_tail());

    // A segment is missed only when its epoch is taken in.
    rig.front.set(Mischief::LosesSegments);
    eventually("segments that are lost", SOON, || (rig.front.harm() >= 2).then_some(()));
    rig.front.set(Mischief::None);
    agent.wait_for("a resync", |status| status["generation"] != generation);
    agent.wait_for("its end", protected);
    assert!(writer.stop() > 5);
    rig.settle(&mut agent);
    let events = rig.service.admin(&["event", "list"]).to_string();
    assert!(events.contains("epoch-refused"), "{events}");
    agent.terminate();
    rig.demand_truth(3);
}

#[test]
fn a_store_that_wants_to_be_left_alone_is() {
    const WISH: u64 = 4;
    let rig = Rig::new(SEED + 2);
    let mut agent = rig.setup.start();
    agent.wait_for("protection", protected);
    let writer = rig.write();
    // First without a wish: the agent comes back by its own waits.
    rig.front.set(storm(503, None, true));
    let comes = |count: usize| move |rig: &Rig| (rig.front.uploads().len() >= count).then_some(());
    eventually("uploads that fail", SOON, || comes(6)(&rig));
    rig.front.set(storm(503, Some(WISH), true));
    eventually("uploads that fail, with a wish", SOON, || comes(4)(&rig));
    let came = rig.front.uploads();
    rig.front.set(Mischief::None);
    // Two may have been under way when the wish came. After that there is one try, and a wait.
    let waits: Vec<Duration> = came.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let short = waits.iter().filter(|wait| wait.as_secs_f64() < WISH as f64 - 0.2).count();
    assert!(short <= 1, "{waits:?}\n{}", rig.setup.log_tail());
    let long = waits.iter().filter(|wait| wait.as_secs_f64() > WISH as f64 * 1.1 + 2.0).count();
    assert_eq!(long, 0, "{waits:?}");
    assert!(writer.stop() > 0);
    rig.settle(&mut agent);
    agent.terminate();
    rig.demand_truth(2);
}
