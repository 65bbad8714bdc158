//! The programs that make a file of an export: nbdkit, which reads it over HTTPS, and nbdfuse, which shows it.
//!
//! nbdfuse runs nbdkit and speaks with it over a pipe, so there is no socket, and the one ends with the other. What they say is kept
//! beside them, for when they fail. Deliberately not here: taking their mounts away (`layout`).

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use tokio::sync::watch;

use super::layout::{Layout, is_mounted};
use crate::cli::exit::NotFound;

/// How long a disk may take to appear.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end once its mount is gone.
const END: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// How much of what a helper said is repeated.
const SAID: usize = 2000;
/// For how many seconds nbdkit waits for an answer.
const ANSWER_S: &str = "timeout=120";

/// Fails where a program is missing, and says where it is to be had.
pub(super) fn are_there(files: bool) -> Result<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let needed = [
        ("nbdkit", "nbdkit", false),
        ("nbdfuse", "libnbd-bin, or nbdfuse", false),
        ("fusermount3", "fuse3", false),
        ("losetup", "mount", true),
        ("partx", "util-linux", true),
        ("blkid", "util-linux", true),
    ];
    for (program, package, for_files) in needed {
        let there = || {
            std::env::split_paths(&paths)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(program).exists())
        };
        if (files || !for_files) && !there() {
            return Err(NotFound(format!("there is no {program} here: install the package {package}")).into());
        }
    }
    if files && !rustix::process::geteuid().is_root() {
        bail!("file systems are mounted by root alone: run this as root, or without --files");
    }
    Ok(())
}

/// How disks become files.
pub(super) struct Way<'a> {
    pub(super) layout: &'a Layout,
    /// Whether they can be written, into something that is thrown away.
    pub(super) replay: bool,
}

/// A disk that is shown as a file.
pub(super) struct Helper {
    pub(super) name: String,
    pub(super) image: PathBuf,
    child: Child,
    nbdkit: PathBuf,
    log: PathBuf,
}

impl Way<'_> {
    /// Starts the helpers of a disk, and waits until it is there.
    pub(super) fn start(&self, name: &str, address: &str, stop: &watch::Receiver<bool>) -> Result<Helper> {
        let image = self.layout.dir.join(format!("{name}.img"));
        File::create_new(&image).with_context(|| format!("make {}", image.display()))?;
        let (log, nbdkit) =
            (self.layout.own(&format!("{name}.log")), self.layout.own(&format!("{name}.nbdkit")));
        let pid = self.layout.own(&format!("{name}.nbdfuse"));
        let said = File::create_new(&log)?;
        let mut command = Command::new("nbdfuse");
        command.arg("-P").arg(pid).args(["-o", "kernel_cache"]);
        if !self.replay {
            command.arg("--readonly");
        }
        command.arg(&image).args(["--command", "nbdkit", "-s", "-P"]).arg(&nbdkit);
        match self.replay {
            true => command.arg("--filter=cow"),
            false => command.arg("--readonly"),
        };
        command.args(["curl", "protocols=https", "followlocation=false", "proxy=", ANSWER_S, "user=export"]);
        command.arg(format!("url={address}"));
        command.arg(joined("cainfo=", &self.layout.own("authority.pem")));
        command.arg(joined("password=+", &self.layout.own("key")));
        // Not of our group: what ends us from a terminal must not end it before it is unmounted.
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).process_group(0);
        let child = command.spawn().context("run nbdfuse")?;
        let mut helper = Helper { name: name.to_owned(), image, child, nbdkit, log };
        let start = Instant::now();
        while !is_mounted(&helper.image)? {
            helper.has_not_ended()?;
            if *stop.borrow() || start.elapsed() > START {
                helper.child.kill().ok();
                bail!("{} did not appear: {}", helper.image.display(), helper.said());
            }
            std::thread::sleep(LOOK);
        }
        Ok(helper)
    }
}

fn joined(before: &str, path: &std::path::Path) -> std::ffi::OsString {
    let mut whole = std::ffi::OsString::from(before);
    whole.push(path);
    whole
}

impl Helper {
    /// Fails where one of the programs is gone.
    pub(super) fn is_well(&mut self) -> Result<()> {
        self.has_not_ended()?;
        let pid = fs::read_to_string(&self.nbdkit).ok().and_then(|text| text.trim().parse().ok());
        match pid.and_then(Pid::from_raw).is_some_and(|pid| is_process(pid, "nbdkit")) {
            true => Ok(()),
            false => bail!(
                "nbdkit, which reads {}, has ended: {}; all of it is unmounted",
                self.image.display(),
                self.said()
            ),
        }
    }

    fn has_not_ended(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("nbdfuse, which shows {}, has ended ({status}): {}", self.image.display(), self.said())
            }
        }
    }

    /// The end of what the programs said.
    fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(SAID)..]).trim().to_owned();
        if text.is_empty() { "it said nothing".to_owned() } else { text }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Its mount is gone, so it ends by itself.
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > END {
                self.child.kill().ok();
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Whether a process of this id is there, and is this program.
pub(super) fn is_process(pid: Pid, program: &str) -> bool {
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    let dead = || {
        let status = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    name.is_ok_and(|name| name.trim() == program) && !dead()
}
