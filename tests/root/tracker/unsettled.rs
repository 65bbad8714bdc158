//! A tracker that starts while writes are in flight has not seen them being issued. Until they must have ended, every process that
//! takes it up is told so.
//!
//! A write is kept in flight by freezing the file system that holds the loop device's file: one of the test's own, which is
//! thawed by a program of its own after some seconds, whatever becomes of the test.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command},
    thread,
    time::Duration,
};

use mobility_capture::ebpf::{Continuity, Tracker};
use mobility_format::BLOCK_SIZE;
use mobility_tests::scratch::{LoopDevice, MIB, Mounted, Scratch, eventually, root_with, run, try_run};

use super::support::{Aligned, Bench, open_direct};

/// A frozen file system.
struct Frozen<'a> {
    point: &'a Path,
    at_the_latest: Child,
}

impl<'a> Frozen<'a> {
    fn new(point: &'a Path) -> Self {
        let thaw = "sleep 20; exec fsfreeze --unfreeze \"$0\"";
        let at_the_latest = Command::new("sh").args(["-c", thaw]).arg(point).spawn().unwrap();
        let frozen = Frozen { point, at_the_latest };
        run("fsfreeze", &["--freeze", point.to_str().unwrap()]);
        frozen
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = try_run("fsfreeze", &["--unfreeze", self.point.to_str().unwrap()]);
        let _ = self.at_the_latest.kill();
        let _ = self.at_the_latest.wait();
    }
}

fn open_again(bench: &Bench) -> Tracker {
    let (tracker, continuity) = bench.open();
    assert_eq!(continuity, Continuity::Continued);
    tracker
}

#[test]
fn root_whoever_takes_up_a_tracker_that_was_never_idle_is_told() {
    let Some(()) = root_with(&["mkfs.ext4", "fsfreeze"]) else { return };
    let scratch = Scratch::new();
    let outer = LoopDevice::new(scratch.path("outer.img"), 64 * MIB);
    let mounted = Mounted::fresh(scratch.path("mounted"), Path::new(outer.name()), "ext4");
    let Some(bench) = Bench::over(mounted.point(), 4 * MIB) else { return };
    let in_flight = || {
        let device = bench.device.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(format!("/sys/block/{device}/inflight")).unwrap();
        text.split_ascii_whitespace().nth(1).unwrap() != "0"
    };
    let device = open_direct(&bench.device);
    thread::scope(|scope| {
        let frozen = Frozen::new(mounted.point());
        scope.spawn(|| device.write_all_at(Aligned::new(BLOCK_SIZE).bytes(), 0).unwrap());
        eventually("a write in flight", Duration::from_secs(10), || in_flight().then_some(()));
        let mut first = bench.start();
        assert!(!first.drain().issue_missed, "whoever starts a tracker knows");
        first.mark_verified().unwrap();
        drop(first);
        for _ in 0..2 {
            let mut next = open_again(&bench);
            assert!(next.drain().issue_missed, "it may be in flight still");
            assert!(!next.drain().issue_missed, "once for each process");
        }
        assert!(in_flight(), "else this test shows nothing");
        drop(frozen);
    });
    let mut late = open_again(&bench);
    assert!(late.drain().issue_missed, "it may have ended since the last drain");
    drop(late);
    let mut settled = open_again(&bench);
    assert!(!settled.drain().issue_missed, "a drain has seen the disk idle");
}
