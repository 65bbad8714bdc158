//! Freezing on real file systems, and that nothing stays frozen.
//!
//! Everything is on loop devices of the tests' own, and thawed by a process of its own if all else fails (`bench`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod bench;
mod deaths;
mod probe;
mod storm;
mod victim;
mod which;

use std::{
    fs,
    time::{Duration, Instant},
};

use bench::{Bench, found, freeze_by_others, make, unfreeze};
use mobility_capture::{disk::Disk, freeze::FreezeError};
use mobility_tests::scratch::{eventually, try_run};
use probe::Probe;
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(10);

/// Waits until no thread of a process that was sent a signal can do anything any more.
fn wait_until_it_runs_no_more(pid: u32) {
    let until = Instant::now() + SOON;
    let tasks = format!("/proc/{pid}/task");
    let halted = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['T', 'Z', 'X']))
    };
    while !fs::read_dir(&tasks).into_iter().flatten().flatten().all(halted) {
        assert!(Instant::now() < until, "process {pid} goes on");
        std::thread::yield_now();
    }
}

/// Not a test: the guard's process, for the others.
#[test]
#[ignore = "started by other tests"]
fn role_guard() {
    let _ = mobility_capture::freeze::guard_process();
}

/// Not a test: an agent that dies, for the others.
#[test]
#[ignore = "started by other tests"]
fn role_victim() {
    victim::main();
}

#[test]
fn root_a_freeze_holds_writers_and_a_thaw_lets_them_go() {
    let Some(mut bench) = Bench::new() else { return };
    for kind in ["ext4", "xfs", "btrfs"] {
        let (disk, point) = bench.file_system(kind, kind);
        let probe = Probe::on(&point);
        assert!(probe.goes_on(SOON));
        let mut freezer = bench.freezer(&found(&[&disk]));
        freezer.sync().unwrap();
        let frozen = freezer.freeze(LONG).unwrap();
        assert!(bench.record().metadata().unwrap().len() > 0);
        assert!(probe.is_held(Duration::from_millis(20), SOON), "{kind}: a writer goes on");
        let held = frozen.thaw();
        assert!(held.intact() && held.time >= Duration::from_millis(20), "{held:?}");
        assert!(probe.goes_on(SOON), "{kind}: a writer is still held");
        assert!(!bench.record().exists());
        // Dropping is as good.
        drop(freezer.freeze(LONG).unwrap());
        assert!(probe.goes_on(SOON));
    }
}

#[test]
fn root_the_guard_thaws_at_the_limit_and_says_so() {
    let Some(mut bench) = Bench::new() else { return };
    let (disk, point) = bench.file_system("a", "ext4");
    let probe = Probe::on(&point);
    let mut freezer = bench.freezer(&found(&[&disk]));
    let limit = Duration::from_millis(100);
    let frozen = freezer.freeze(limit).unwrap();
    assert!(probe.is_held(Duration::from_millis(10), SOON));
    assert!(probe.goes_on(SOON));
    let longest = probe.longest();
    assert!(longest <= limit + Duration::from_millis(100), "{longest:?}");
    let held = frozen.thaw();
    assert!(held.overrun && !held.intact() && held.time >= limit, "{held:?}");
    // The next one is not affected.
    assert!(freezer.freeze(LONG).unwrap().thaw().intact());
}

#[test]
fn root_what_somebody_else_froze_stays_frozen() {
    let Some(mut bench) = Bench::new() else { return };
    let (first, theirs) = bench.file_system("theirs", "ext4");
    let (second, ours) = bench.file_system("ours", "xfs");
    let probe = Probe::on(&ours);
    // Ours is frozen first, theirs fails, and ours has to be let go.
    let mut freezer = bench.freezer(&found(&[&first, &second]));
    freeze_by_others(&theirs);
    let error = freezer.freeze(LONG).unwrap_err();
    assert!(matches!(&error, FreezeError::Busy { point } if *point == theirs), "{error}");
    assert!(probe.goes_on(SOON), "what we froze is let go");
    unfreeze(&theirs).expect("theirs was thawed by us");
    assert!(freezer.freeze(LONG).unwrap().thaw().intact());
    // And if somebody thaws what is ours, we say so.
    let frozen = freezer.freeze(LONG).unwrap();
    unfreeze(&ours).unwrap();
    let held = frozen.thaw();
    assert!(held.thawed_by_others && !held.intact(), "{held:?}");
}

#[test]
fn root_what_is_frozen_cannot_be_unmounted_and_what_is_released_can() {
    let Some(mut bench) = Bench::new() else { return };
    let (disk, point) = bench.file_system("a", "ext4");
    let path = point.to_str().unwrap();
    let mut freezer = bench.freezer(&found(&[&disk]));
    let frozen = freezer.freeze(LONG).unwrap();
    assert!(try_run("umount", &[path]).is_err());
    assert!(frozen.thaw().intact());
    freezer.release();
    try_run("umount", &[path]).unwrap();
    assert!(matches!(freezer.freeze(LONG), Err(FreezeError::Nothing)));
}

#[test]
fn root_what_froze_after_everybody_had_stopped_waiting_can_be_unmounted() {
    let Some(mut bench) = Bench::new() else { return };
    let (_, below) = bench.file_system("below", "xfs");
    let device = bench.device(&below.join("above.img"), "ext4");
    make("ext4", &[&device]);
    let above = bench.mount(&device, "above", &[]);
    let mut freezer = bench.freezer(&found(&[&Disk::inspect(&device).unwrap()]));
    fs::write(above.join("dirty"), vec![7; 1 << 20]).unwrap();
    // What is dirty can be written out only when this is thawed: until then freezing does not end.
    freeze_by_others(&below);
    let error = freezer.freeze(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, FreezeError::Limit { .. }), "{error}");
    freezer.release();
    let unmount = || try_run("umount", &[above.to_str().unwrap()]).ok();
    assert!(unmount().is_none(), "the freeze is through already");
    unfreeze(&below).unwrap();
    eventually("the guard lets go of what it froze and thawed", SOON, unmount);
    drop(freezer);
}

#[test]
fn root_without_a_guard_nothing_is_frozen_and_the_next_one_comes() {
    let Some(mut bench) = Bench::new() else { return };
    let (disk, point) = bench.file_system("a", "ext4");
    let probe = Probe::on(&point);
    let mut freezer = bench.freezer(&found(&[&disk]));
    let kill = |pid: u32, signal| kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    // Dead before: noticed, and another one started.
    let first = freezer.guard_pid().unwrap();
    kill(first, Signal::KILL);
    match freezer.freeze(LONG) {
        Ok(frozen) => drop(frozen),
        Err(error) => assert!(matches!(error, FreezeError::GuardGone { .. }), "{error}"),
    }
    assert!(freezer.freeze(LONG).unwrap().thaw().intact());
    assert_ne!(freezer.guard_pid().unwrap(), first);
    // Dead or stopped while something is frozen: the agent thaws by itself.
    for signal in [Signal::KILL, Signal::STOP] {
        let guard = freezer.guard_pid().unwrap();
        let frozen = freezer.freeze(LONG).unwrap();
        kill(guard, signal);
        // A signal takes effect when it is delivered, not when it was sent.
        wait_until_it_runs_no_more(guard);
        let begun = Instant::now();
        let held = frozen.thaw();
        assert!(!held.intact() && begun.elapsed() < SOON, "{held:?}");
        assert!(probe.goes_on(SOON), "{signal:?}");
        assert!(freezer.freeze(LONG).unwrap().thaw().intact());
    }
    // Stopped before: nothing is frozen without its answer.
    kill(freezer.guard_pid().unwrap(), Signal::STOP);
    assert!(matches!(freezer.freeze(LONG), Err(FreezeError::GuardSlow { .. })));
    assert!(probe.goes_on(SOON));
    assert!(freezer.freeze(LONG).unwrap().thaw().intact());
}

#[test]
fn root_the_guard_is_protected_and_holds_nothing_it_does_not_need() {
    let Some(mut bench) = Bench::new() else { return };
    let (disk, _) = bench.file_system("a", "ext4");
    let mut freezer = bench.freezer(&found(&[&disk]));
    let protection = freezer.protection().unwrap();
    assert!(protection.session && protection.memory && protection.real_time, "{:?}", protection.lacks());
    assert!(freezer.freeze(LONG).unwrap().thaw().intact());
    let guard = format!("/proc/{}", freezer.guard_pid().unwrap());
    // Some containers do not permit it, not even to root.
    let adjusted = fs::read_to_string(format!("{guard}/oom_score_adj")).unwrap();
    assert_eq!(adjusted.trim() == "-1000", protection.out_of_memory);
    for entry in fs::read_dir(format!("{guard}/fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let name = target.to_string_lossy().into_owned();
        let expected = ["/dev/null", "socket:", "anon_inode:"];
        assert!(expected.iter().any(|start| name.starts_with(start)), "{name}");
    }
    let status = fs::read_to_string(format!("{guard}/status")).unwrap();
    let sizes: Vec<_> =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmLck")).collect();
    println!("{protection:?}; {sizes:?}");
}
