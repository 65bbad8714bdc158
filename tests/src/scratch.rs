//! What a test makes on the machine and takes away again, also when it fails: a directory, loop devices, mounts, and the
//! trackers that agents left pinned.
//!
//! Declare the [`Scratch`] first: what is declared last is taken away first. Deliberately not here: agents
//! (`agent_process`) and what writes to disks (`load`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::requirement::Requirement;

/// One MiB.
pub const MIB: u64 = 1 << 20;

/// Where agents pin their trackers.
const PINS: &str = "/sys/fs/bpf/mobility-agent";

/// Whether the durations of the full demonstration were asked for, with `MOBILITY_LONG=1`, rather than those of CI.
#[must_use]
pub fn long() -> bool {
    std::env::var("MOBILITY_LONG").as_deref() == Ok("1")
}

/// Runs a program to its end and gives back what it printed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|error| panic!("{error}"))
}

/// As [`run`], for what may fail.
///
/// # Errors
/// What it said when it failed.
pub fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(printed),
        false => Err(format!(
            "{program} {arguments:?}: {}\n{printed}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Whether this is root with loop devices, and has these programs; the test is skipped or fails where it is not.
#[must_use]
#[track_caller]
pub fn root_with(programs: &[&str]) -> Option<()> {
    let find = || {
        if !rustix::process::geteuid().is_root() {
            return Err("this is not root".to_owned());
        }
        try_run("losetup", &["--find"]).map_err(|error| format!("no loop device can be had: {error}"))?;
        for program in programs {
            let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir: PathBuf| dir.join(program).exists());
            if !on_path {
                return Err(format!("there is no {program} (packaging/install-build-deps.sh)"));
            }
        }
        Ok(())
    };
    Requirement::Root.or_skip(find())
}

/// A directory of a test's own.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new one, below the directory for temporary files.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it makes something")]
    pub fn new() -> Scratch {
        Scratch(tempfile::Builder::new().prefix("mobility-test-").tempdir().unwrap())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The machines that agents have been here, by what they left in vaults and runtime directories.
    fn machines(&self) -> Vec<String> {
        let names = |dir: PathBuf| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let of = |top: &String| {
            let top = self.path(top);
            let here = [names(top.join("target")), names(top.join("cache")), names(top)].concat();
            here.into_iter().map(|name| name.split('.').next().unwrap_or_default().to_owned())
        };
        let id = |name: &String| name.len() == 32 && name.bytes().all(|c| c.is_ascii_hexdigit());
        names(self.dir().to_owned()).iter().flat_map(of).filter(id).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for machine in self.machines() {
            let _ = fs::remove_dir_all(Path::new(PINS).join(machine));
        }
    }
}

/// A loop device over a file of a test's own. Reads and writes go past the page cache of the file system below, as those
/// of a real disk do.
#[derive(Debug)]
pub struct LoopDevice {
    /// The device.
    pub device: PathBuf,
    /// The file behind it.
    pub file: PathBuf,
}

impl LoopDevice {
    /// A device over `file`, which is made with `size` bytes.
    ///
    /// # Panics
    /// When it cannot be had.
    #[must_use]
    pub fn new(file: PathBuf, size: u64) -> LoopDevice {
        File::create(&file).unwrap().set_len(size).unwrap();
        LoopDevice::over(file)
    }

    /// A device over a file that there is.
    ///
    /// # Panics
    /// When it cannot be had.
    #[must_use]
    pub fn over(file: PathBuf) -> LoopDevice {
        let arguments = ["--find", "--show", "--direct-io=on", file.to_str().unwrap()];
        LoopDevice { device: run("losetup", &arguments).into(), file }
    }

    /// The device's path, for a command line.
    #[must_use]
    pub fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// Makes it larger while it is in use.
    ///
    /// # Panics
    /// When that fails.
    pub fn grow(&self, size: u64) {
        OpenOptions::new().write(true).open(&self.file).unwrap().set_len(size).unwrap();
        run("losetup", &["--set-capacity", self.name()]);
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Whoever still has it open keeps it until they end.
        let _ = try_run("losetup", &["--detach", self.name()]);
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Makes a file system on the device and mounts it.
    ///
    /// # Panics
    /// When either fails.
    #[must_use]
    pub fn fresh(point: PathBuf, device: &Path, kind: &str) -> Mounted {
        run(&format!("mkfs.{kind}"), &["-q", device.to_str().unwrap()]);
        Mounted::existing(point, device, kind).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Mounts what is on the device.
    ///
    /// # Errors
    /// What `mount` said.
    pub fn existing(point: PathBuf, device: &Path, kind: &str) -> Result<Mounted, String> {
        fs::create_dir_all(&point).map_err(|error| error.to_string())?;
        try_run("mount", &["-t", kind, device.to_str().unwrap(), point.to_str().unwrap()])?;
        Ok(Mounted(point))
    }

    /// A file system in memory.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn in_memory(point: PathBuf, size: u64) -> Mounted {
        fs::create_dir_all(&point).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "test", point.to_str().unwrap()]);
        Mounted(point)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.0
    }

    /// Mounts it anew with other options, such as `ro`.
    ///
    /// # Panics
    /// When that fails.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.0.to_str().unwrap()]);
    }

    /// Unmounts it.
    ///
    /// # Panics
    /// When somebody keeps it busy.
    pub fn unmount(self) {
        let point = self.0.to_str().unwrap().to_owned();
        eventually("unmount", Duration::from_secs(90), || try_run("umount", &[&point]).ok());
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if try_run("umount", &[self.0.to_str().unwrap()]).is_err() {
            let _ = try_run("umount", &["--lazy", self.0.to_str().unwrap()]);
        }
    }
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// After `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(30));
    }
}

/// The first place where two files differ, in words.
///
/// # Errors
/// That place.
///
/// # Panics
/// When one cannot be read.
pub fn compare(left: &Path, right: &Path) -> Result<(), String> {
    let sizes = [left, right].map(|path| fs::metadata(path).unwrap().len());
    if sizes[0] != sizes[1] {
        return Err(format!("{} and {} have {sizes:?} bytes", left.display(), right.display()));
    }
    let (mut files, mut buffers) =
        ([left, right].map(|path| File::open(path).unwrap()), [vec![0; 1 << 20], vec![0; 1 << 20]]);
    let mut at = 0;
    while at < sizes[0] {
        let length = (sizes[0] - at).min(1 << 20) as usize;
        for (file, buffer) in files.iter_mut().zip(&mut buffers) {
            file.read_exact(&mut buffer[..length]).unwrap();
        }
        if buffers[0][..length] != buffers[1][..length] {
            let differs = |block: &usize| {
                let range = block * 4096..length.min((block + 1) * 4096);
                buffers[0][range.clone()] != buffers[1][range]
            };
            let blocks: Vec<_> = (0..length.div_ceil(4096)).filter(differs).collect();
            return Err(format!("blocks {blocks:?} after byte {at} differ"));
        }
        at += length as u64;
    }
    Ok(())
}

/// How many bytes the files below a directory occupy.
#[must_use]
pub fn occupied(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| occupied(&entry.path())).sum()
        }
        Ok(meta) => meta.blocks() * 512,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}", path.display());
            0
        }
    }
}
