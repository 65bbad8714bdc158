//! Swap on a protected disk: it is written all the time under memory pressure, and no point is worse for it, because nobody
//! reads it after a restart. Deliberately not here: that its blocks do not conflict. Such writes meet a cut's reads too seldom
//! to be waited for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mobility_tests::{
    agent_process::Setup,
    load::{Process, scribble},
    requirement::Requirement,
    scratch::{LoopDevice, MIB, Scratch, root_with, run, try_run},
};

use crate::tell;

/// What the hog may have in memory, and what it uses.
const MEMORY: u64 = 40 * MIB;
const USED: u64 = 80 * MIB;

/// Uses memory that it does not have; not faster than that can be written, or the kernel ends it.
const HOG: &str = r"
import os, random, sys, time
open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))
size = int(sys.argv[2])
memory = bytearray(size)
while True:
    for _ in range(16):
        at = random.randrange(size // 4096) * 4096
        memory[at:at + 8] = os.urandom(8)
    time.sleep(0.002)
";

/// Swap on a device, until dropped, or until this process is gone.
struct Swap {
    device: PathBuf,
    watcher: Child,
}

impl Swap {
    fn on(device: &Path) -> Result<Swap, String> {
        let name = device.to_str().unwrap();
        run("mkswap", &[name]);
        try_run("swapon", &[name])?;
        let watcher = Command::new("sh")
            .args(["-c", "read -r _; exec swapoff \"$0\"", name])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Ok(Swap { device: device.to_owned(), watcher })
    }

    /// Pages written to swap since the machine started.
    fn written() -> u64 {
        let all = fs::read_to_string("/proc/vmstat").unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix("pswpout ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
        let _ = try_run("swapoff", &[self.device.to_str().unwrap()]);
    }
}

/// A group of processes with little memory.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Group, String> {
        let name = format!("mobility-swap-{}", std::process::id());
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        let made = kinds.into_iter().find_map(|(root, limit)| {
            let group = Group(Path::new(root).join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), MEMORY.to_string()).ok()?;
            Some(group)
        });
        made.ok_or_else(|| "no memory cgroup can be made".to_owned())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty a moment after its last process is gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn root_swap_on_a_protected_disk_makes_no_point_worse() {
    let Some(()) = root_with(&["mkswap", "swapon", "swapoff", "python3"]) else { return };
    let Some(group) = Requirement::Root.or_skip(Group::new()) else { return };
    let scratch = Scratch::new();
    let disks = ["data.img", "swap.img"].map(|name| LoopDevice::new(scratch.path(name), 128 * MIB));
    let devices: [&Path; 2] = disks.each_ref().map(|disk| disk.device.as_path());
    let Some(swap) = Requirement::Root.or_skip(Swap::on(devices[1])) else { return };
    let setup = Setup::new(&scratch, &devices).flags(&["--cut", "optimistic"]);
    let mut agent = setup.start();
    agent.wait_until_protected();
    let calm = setup.points().len();

    let before = Swap::written();
    let mut hog = Command::new("python3");
    hog.args(["-c", HOG]).arg(&group.0).arg(USED.to_string()).current_dir("/");
    let mut hog = Process::start(&mut hog);
    let writer = scribble(devices[0], 0, 128 * MIB, 7, Duration::from_millis(5));
    agent.wait_for_points(6);
    assert!(hog.is_running(), "the hog has ended");
    let pages = Swap::written() - before;
    drop(hog);
    let _ = writer.stop();
    drop(swap);
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &disks.each_ref().map(|disk| disk.file.as_path()));

    let points = setup.points().split_off(calm);
    let crash = points.iter().filter(|point| point.is_crash()).count();
    let tries: Vec<_> = points.iter().map(|point| point.cut("tries").as_u64().unwrap()).collect();
    tell(&format!(
        "swap: {pages} pages written, {} points, {crash} crash-consistent, tries {tries:?}",
        points.len()
    ));
    assert!(pages > 500, "the swap was hardly used: {pages} pages");
    let fuzzy: Vec<_> = points.iter().filter(|point| !point.is_crash()).collect();
    assert!(fuzzy.is_empty(), "{fuzzy:?}\n{}", setup.log_tail());
}
