//! What lies below the directory: where it is, that only one process works there, and how all of it goes away again.
//!
//! `DIR/<disk>.img` is a file over which a disk is mounted, `DIR/files/<disk>/<partition>` a file system, `DIR/.recovery-mount` what
//! only this program needs. What is mounted and which loop devices there are is asked of the kernel and of nobody
//! else, so that it is found after any kill. Deliberately not here: making any of it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

use super::programs::is_process;

/// What only this program needs.
const OWN: &str = ".recovery-mount";
/// How long something that is in use may stay so, before it is taken away under its user.
const BUSY: Duration = Duration::from_secs(5);
/// How long another process may take to end.
const END: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// The directory, which nobody else works in.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    _lock: File,
}

impl Layout {
    /// Makes the directory, unless somebody else is or was at work there.
    pub(super) fn new(dir: &Path) -> Result<Layout> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        if fs::read_dir(&dir)?.next().is_some() {
            bail!(
                "{} is not empty: name another directory, or take away what an earlier call left with `mount --unmount`",
                dir.display()
            );
        }
        let own = dir.join(OWN);
        DirBuilder::new().mode(0o700).create(&own).with_context(|| format!("make {}", own.display()))?;
        let mut lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(own.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        write!(lock, "{}", std::process::id())?;
        Ok(Layout { dir, _lock: lock })
    }

    /// A file that only this program needs.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.dir.join(OWN).join(name)
    }

    /// Where a disk's file systems are.
    pub(super) fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    pub(super) fn write_secrets(&self, authority: &str, key: &str) -> io::Result<()> {
        for (name, content) in [("authority.pem", authority), ("key", key)] {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.own(name))?;
            file.write_all(content.as_bytes())?;
        }
        Ok(())
    }

    /// Takes everything away.
    pub(super) fn clear(&self) -> Result<()> {
        clear(&self.dir)
    }
}

/// Takes away what another call made, which is told to end if it still runs.
pub(super) fn unmount(dir: &Path) -> Result<()> {
    let dir = dir.canonicalize().with_context(|| format!("find {}", dir.display()))?;
    let path = dir.join(OWN).join("lock");
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(err) if err.kind() == io::ErrorKind::NotFound && mounts_below(&dir)?.is_empty() => {
            bail!("nothing is mounted at {}", dir.display());
        }
        Err(_) => return clear(&dir),
    };
    let start = Instant::now();
    let mut told = false;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = fs::read_to_string(&path).unwrap_or_default().parse().ok().and_then(Pid::from_raw);
        if let (Some(pid), false) = (pid, told) {
            kill_process(pid, Signal::TERM).ok();
            told = true;
        }
        if start.elapsed() > END {
            bail!(
                "process {pid:?}, which mounted {}, does not end: kill it and call this again",
                dir.display()
            );
        }
        std::thread::sleep(LOOK);
    }
    // It has done so itself, if it could.
    if dir.join(OWN).exists() { clear(&dir) } else { Ok(()) }
}

/// File systems first, then loop devices, then disks, then files.
fn clear(dir: &Path) -> Result<()> {
    let mounts = mounts_below(dir)?;
    let (files, images): (Vec<_>, Vec<_>) =
        mounts.into_iter().partition(|path| path.starts_with(dir.join("files")));
    files.iter().rev().try_for_each(|path| unmount_one(path))?;
    for (device, backing) in loops()? {
        if backing.starts_with(dir) {
            run("losetup", &["--detach".as_ref(), device.as_ref()])?;
        }
    }
    images.iter().rev().try_for_each(|path| unmount_one(path))?;
    end_helpers(&dir.join(OWN));
    remove(&dir.join("files"))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "img") && fs::metadata(&path)?.len() == 0 {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir_all(dir.join(OWN)).or_else(|err| match err.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(err),
    })?;
    // It may have been there before, and it may be in use: then it stays.
    fs::remove_dir(dir).ok();
    Ok(())
}

/// Directories alone: what has a file in it is not ours.
fn remove(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        remove(&entry?.path())?;
    }
    fs::remove_dir(dir)
}

fn unmount_one(path: &Path) -> Result<()> {
    let start = Instant::now();
    let fuse = !rustix::process::geteuid().is_root();
    loop {
        let done = match fuse {
            true => run("fusermount3", &["-u".as_ref(), path.as_os_str()]),
            false => run("umount", &[path.as_os_str()]),
        };
        match done {
            Ok(()) => return Ok(()),
            Err(_) if !is_mounted(path)? => return Ok(()),
            Err(err) if start.elapsed() > BUSY => {
                eprintln!("recovery-service: {err:#}: it is taken away under whoever uses it");
                return match fuse {
                    true => run("fusermount3", &["-uz".as_ref(), path.as_os_str()]),
                    false => run("umount", &["--lazy".as_ref(), path.as_os_str()]),
                };
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Ends what still runs of the helpers whose ids lie there.
fn end_helpers(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(program) = path.extension().and_then(|end| end.to_str()) else { continue };
        let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let start = Instant::now();
        while is_process(pid, program) {
            let signal = if start.elapsed() > BUSY { Signal::KILL } else { Signal::TERM };
            if kill_process(pid, signal).is_err() || start.elapsed() > 2 * BUSY {
                break;
            }
            std::thread::sleep(LOOK);
        }
    }
}

pub(super) fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mounts_below(path)?.iter().any(|mounted| mounted == path))
}

/// What is mounted below a directory, in the order in which it was.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read what is mounted")?;
    let paths =
        text.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescaped(path)));
    Ok(paths.filter(|path| path.starts_with(dir)).collect())
}

/// As the kernel writes paths: blanks and the like as three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                whole.push(char::from(byte));
                whole.push_str(&part[3..]);
            }
            None => {
                whole.push('\\');
                whole.push_str(part);
            }
        }
    }
    whole
}

/// The loop devices, each with the file behind it.
fn loops() -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").context("look for loop devices")?.flatten() {
        if let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            let backing = backing.trim_end().trim_end_matches(" (deleted)");
            found.push((Path::new("/dev").join(entry.file_name()), backing.into()));
        }
    }
    Ok(found)
}

/// Runs a program to its end.
pub(super) fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    output(program, arguments).map(|_| ())
}

/// As [`run`], and what it prints.
pub(super) fn output(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{program} failed ({}): {}", output.status, said.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped("/plain"), "/plain");
        assert_eq!(unescaped("/odd\\9"), "/odd\\9");
    }
}
