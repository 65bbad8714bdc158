//! Agents that die while something is frozen, and what an agent after them finds.

use std::{fs, path::PathBuf, process::Child, time::Duration};

use mobility_capture::freeze::{LeftoverOutcome, thaw_leftovers};
use mobility_tests::requirement::Requirement;
use rustix::process::Signal;

use crate::{
    LONG, SOON,
    bench::{Bench, found, freeze_by_others, unfreeze},
    probe::Probe,
    victim::{End, Place, Plan, signal, wait_stopped_or_gone},
    wait_until_it_runs_no_more,
};

const LIMIT: Duration = Duration::from_millis(500);

struct Scene {
    // Before the bench, which unmounts what they write to.
    probes: Vec<Probe>,
    bench: Bench,
    plan: Plan,
}

fn scene(end: End) -> Option<Scene> {
    let mut bench = Bench::new()?;
    let set: Vec<_> = ["ext4", "btrfs"].iter().map(|kind| bench.file_system(kind, kind)).collect();
    let probes = set.iter().map(|(_, point)| Probe::on(point)).collect();
    let plan = Plan {
        disks: set.into_iter().map(|(disk, _)| disk.path).collect(),
        record: bench.record(),
        place: Place::MidCut,
        end,
        limit: LIMIT,
        cut: Duration::from_millis(30),
        group: None,
    };
    Some(Scene { probes, bench, plan })
}

impl Scene {
    /// All writers were held, and none for longer than `most`.
    fn check(&self, most: Duration) {
        for probe in &self.probes {
            assert!(probe.goes_on(SOON), "still frozen");
            let pause = probe.longest();
            assert!(pause >= Duration::from_millis(20), "was not frozen: {pause:?}");
            assert!(pause <= most + Duration::from_millis(100), "held for {pause:?}");
        }
    }
}

fn end(mut child: Child) {
    signal(&child, Signal::KILL);
    let _ = child.wait();
}

#[test]
fn root_a_killed_agent_leaves_nothing_frozen() {
    for how in [End::Killed, End::GroupKilled] {
        let Some(scene) = scene(how) else { return };
        let mut child = scene.plan.start();
        assert!(wait_stopped_or_gone(&mut child));
        // Long before the limit: the guard sees that it is gone.
        scene.check(LIMIT / 2);
    }
}

#[test]
fn root_a_stopped_agent_leaves_nothing_frozen_beyond_the_limit() {
    let Some(scene) = scene(End::Stopped) else { return };
    let mut child = scene.plan.start();
    assert!(!wait_stopped_or_gone(&mut child));
    scene.check(LIMIT);
    end(child);
}

#[test]
fn root_an_agent_out_of_memory_leaves_nothing_frozen() {
    const ROOT: &str = "/sys/fs/cgroup";
    let Some(mut scene) = scene(End::OutOfMemory) else { return };
    let name = format!("mobility-freeze-{}", std::process::id());
    let (old, new) = (format!("{ROOT}/memory/{name}"), format!("{ROOT}/{name}"));
    let made = [(old, "memory.limit_in_bytes"), (new, "memory.max")].into_iter().find_map(|(dir, limit)| {
        let dir = PathBuf::from(dir);
        fs::create_dir(&dir).ok()?;
        match fs::write(dir.join(limit), "134217728") {
            Ok(()) => Some(dir),
            Err(_) => fs::remove_dir(&dir).ok().and(None),
        }
    });
    let found = made.ok_or_else(|| "no memory cgroup can be made".to_owned());
    let Some(group) = Requirement::Root.or_skip(found) else { return };
    scene.plan.group = Some(group.clone());
    let mut child = scene.plan.start();
    let gone = wait_stopped_or_gone(&mut child);
    end(child);
    let until = std::time::Instant::now() + SOON;
    while fs::remove_dir(&group).is_err() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(gone);
    scene.check(LIMIT);
}

#[test]
fn root_what_agent_and_guard_left_is_thawed_at_the_next_start() {
    let Some(mut bench) = Bench::new() else { return };
    let (disk, point) = bench.file_system("a", "ext4");
    let (other, other_point) = bench.file_system("b", "btrfs");
    let mut freezer = bench.freezer(&found(&[&disk, &other]));
    let frozen = freezer.freeze(LONG).unwrap();
    let copy = bench.path("copy");
    fs::copy(bench.record(), &copy).unwrap();
    assert!(frozen.thaw().intact());
    // As if both had died: the record is there, and one of the two is frozen.
    freeze_by_others(&other_point);
    let leftovers = thaw_leftovers(&copy);
    assert_eq!(leftovers.len(), 2);
    for leftover in &leftovers {
        let thawed = matches!(leftover.outcome, LeftoverOutcome::Thawed);
        let not_frozen = matches!(leftover.outcome, LeftoverOutcome::NotFrozen);
        assert!(if leftover.point == point { not_frozen } else { thawed }, "{leftover:?}");
    }
    assert!(unfreeze(&other_point).is_err(), "it was thawed");
    assert!(!copy.exists());
    drop(freezer);
}

#[test]
fn root_the_guard_empties_the_record_of_what_it_thawed() {
    let Some(scene) = scene(End::Killed) else { return };
    let mut child = scene.plan.start();
    assert!(wait_stopped_or_gone(&mut child));
    scene.check(LIMIT);
    let record = scene.bench.record();
    let until = std::time::Instant::now() + SOON;
    while record.metadata().unwrap().len() > 0 {
        assert!(std::time::Instant::now() < until, "the record still names what is thawed");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Somebody else's freeze since is nobody's leftover.
    freeze_by_others(&scene.bench.mounts[0]);
    assert!(thaw_leftovers(&record).is_empty());
    unfreeze(&scene.bench.mounts[0]).unwrap();
}

/// A mutant: with its guard removed an agent that is stopped holds for as long as it is stopped, and that is noticed.
#[test]
fn root_a_stopped_agent_without_its_guard_is_caught_holding_too_long() {
    const LATE: Duration = Duration::from_secs(3);
    let Some(mut scene) = scene(End::Stopped) else { return };
    // So long that the guard can be removed before its time has come, also on a machine that is busy.
    scene.plan.limit = LATE;
    let mut child = scene.plan.start();
    assert!(!wait_stopped_or_gone(&mut child));
    // The agent thaws when its guard is gone: as long as one of its threads still runs.
    wait_until_it_runs_no_more(child.id());
    for guard in children(&child) {
        rustix::process::kill_process(guard, Signal::KILL).unwrap();
    }
    let too_long = LATE + Duration::from_millis(100);
    for probe in &scene.probes {
        assert!(
            probe.is_held(too_long, too_long + SOON),
            "it was not held beyond the limit: what thawed it?"
        );
    }
    end(child);
}

fn children(of: &Child) -> Vec<rustix::process::Pid> {
    let (tasks, mut children) = (format!("/proc/{}/task", of.id()), Vec::new());
    for task in fs::read_dir(tasks).unwrap() {
        let list = fs::read_to_string(task.unwrap().path().join("children")).unwrap();
        children.extend(list.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    assert!(!children.is_empty(), "the guard is no child of the agent");
    children.into_iter().map(|pid| rustix::process::Pid::from_raw(pid).unwrap()).collect()
}
