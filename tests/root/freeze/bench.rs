//! File systems that may be frozen, on loop devices over files in memory, and three ways in which they are thawed again
//! whatever a test does: a process of its own that thaws after a time, and the bench's end, before anything is unmounted.

use std::{
    env,
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mobility_capture::{
    disk::Disk,
    freeze::{FileSystems, Freezer, GuardProgram, file_systems},
};
use mobility_tests::scratch::{MIB, root_with, run, try_run};

/// How long anything can stay frozen here if all else fails.
const SAFETY_SECONDS: u32 = 20;

/// What thaws after a time, also when this process is gone.
pub(crate) struct Safety(Child);

impl Safety {
    fn over(points: &[PathBuf]) -> Safety {
        let script = r#"sleep "$0"; for point; do fsfreeze --unfreeze "$point"; done"#;
        let child = Command::new("sh")
            .args(["-c", script, &SAFETY_SECONDS.to_string()])
            .args(points)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Safety(child)
    }
}

impl Drop for Safety {
    fn drop(&mut self) {
        // The shell and the `sleep` that it waits for.
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    devices: Vec<PathBuf>,
    pub(crate) mounts: Vec<PathBuf>,
    safety: Option<Safety>,
}

impl Bench {
    /// Nothing yet, or nothing at all where the machine cannot do this.
    #[track_caller]
    pub(crate) fn new() -> Option<Bench> {
        root_with(&["fsfreeze", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"])?;
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("mobility-freeze-").tempdir_in(parent).unwrap();
        Some(Bench { dir, devices: Vec::new(), mounts: Vec::new(), safety: None })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A loop device over `file`, which is made as large as that kind of file system needs.
    pub(crate) fn device(&mut self, file: &Path, kind: &str) -> PathBuf {
        let size = match kind {
            "xfs" => 304 * MIB,
            "btrfs" => 128 * MIB,
            _ => 32 * MIB,
        };
        OpenOptions::new().create(true).truncate(true).write(true).open(file).unwrap().set_len(size).unwrap();
        let device: PathBuf =
            run("losetup", &["--find", "--show", "--partscan", file.to_str().unwrap()]).into();
        self.devices.push(device.clone());
        device
    }

    /// A new file system on a device of its own, mounted under its name.
    pub(crate) fn file_system(&mut self, name: &str, kind: &str) -> (Disk, PathBuf) {
        let device = self.device(&self.path(&format!("{name}.img")), kind);
        make(kind, &[&device]);
        let point = self.mount(&device, name, &[]);
        (Disk::inspect(&device).unwrap(), point)
    }

    pub(crate) fn mount(&mut self, what: &Path, name: &str, options: &[&str]) -> PathBuf {
        let point = self.path(name);
        fs::create_dir_all(&point).unwrap();
        let mut arguments = options.to_vec();
        arguments.extend([what.to_str().unwrap(), point.to_str().unwrap()]);
        run("mount", &arguments);
        self.mounts.push(point.clone());
        self.renew_safety();
        point
    }

    /// Starts the time anew after which everything is thawed.
    pub(crate) fn renew_safety(&mut self) {
        self.safety = Some(Safety::over(&self.mounts));
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.path("frozen")
    }

    pub(crate) fn freezer(&self, found: &FileSystems) -> Freezer {
        let mut freezer = Freezer::new(guard(), &self.record()).unwrap();
        freezer.hold(&found.to_freeze).unwrap();
        freezer
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for _ in 0..2 {
            self.mounts.iter().for_each(|point| drop(unfreeze(point)));
        }
        for point in self.mounts.iter().rev() {
            let _ = try_run("umount", &[point.to_str().unwrap()])
                .or_else(|_| try_run("umount", &["--lazy", point.to_str().unwrap()]));
        }
        for device in self.devices.iter().rev() {
            let _ = try_run("losetup", &["--detach", device.to_str().unwrap()]);
        }
    }
}

pub(crate) fn make(kind: &str, devices: &[&Path]) {
    // Small file systems of ext4 have small blocks otherwise, and large ones have not.
    let options: &[&str] = if kind == "ext4" { &["-q", "-F", "-b", "4096"] } else { &["-q", "-f"] };
    let devices = devices.iter().map(|device| device.to_str().unwrap());
    run(&format!("mkfs.{kind}"), &options.iter().copied().chain(devices).collect::<Vec<_>>());
}

/// Thaws as somebody else would; an error where it is not frozen.
pub(crate) fn unfreeze(point: &Path) -> Result<String, String> {
    try_run("fsfreeze", &["--unfreeze", point.to_str().unwrap()])
}

/// Freezes as somebody else would.
pub(crate) fn freeze_by_others(point: &Path) {
    run("fsfreeze", &["--freeze", point.to_str().unwrap()]);
}

pub(crate) fn found(disks: &[&Disk]) -> FileSystems {
    file_systems(disks)
}

pub(crate) fn points(found: &FileSystems) -> Vec<&Path> {
    found.to_freeze.iter().map(|each| each.point.as_path()).collect()
}

/// The guard: this very program, in the role of one.
pub(crate) fn guard() -> GuardProgram {
    GuardProgram::new(env::current_exe().unwrap(), ["role_guard", "--exact", "--ignored", "--nocapture"])
}
