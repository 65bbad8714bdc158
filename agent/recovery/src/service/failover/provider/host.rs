//! What hosts that run machines have in common, whoever starts the machines there: their images, how large they are made, and what
//! their consoles say.
//!
//! Deliberately not here: how a machine is started (`qemu`, `libvirt`), and by what it is known (`identity`).

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Outcome, Seen, Spec,
    images::{Images, failed},
};

/// What a machine said on its serial console, in its directory.
pub(super) const CONSOLE: &str = "console.log";
/// How much of the end of a console or log is looked at.
const TAIL: u64 = 64 << 10;
/// Memory is given in steps of this.
const STEP: u64 = 128 << 20;
/// What a console says of a machine that will not come up.
const STUCK: [&str; 5] = [
    "Kernel panic",
    "emergency mode",
    "Give root password for maintenance",
    "No bootable device",
    "ALERT!  ",
];

/// How processors are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acceleration {
    /// The host's, by KVM.
    #[default]
    Kvm,
    /// By software, slowly.
    Tcg,
}

/// A host that runs machines, and how they are made there.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) images: Images,
    pub(crate) acceleration: Acceleration,
    /// What a machine gets of which nothing is known.
    pub(crate) memory_mib: u64,
    pub(crate) processors: u64,
    /// What the console says when the machine is up.
    pub(crate) booted: String,
    pub(crate) boot_limit: Duration,
}

impl Host {
    /// A file in the machine's directory.
    pub(super) fn file(&self, failover: &str, name: &str) -> PathBuf {
        self.images.of(failover).join(name)
    }

    /// How much memory the machine gets, in MiB.
    pub(super) fn memory_of(&self, spec: &Spec) -> u64 {
        // A little more than the kernel of the source was left with.
        spec.memory.map_or(self.memory_mib, |memory| memory.0.div_ceil(STEP).max(1) * (STEP >> 20))
    }

    /// How many processors it gets.
    pub(super) fn processors_of(&self, spec: &Spec) -> u64 {
        spec.processors.map_or(self.processors, |processors| u64::from(processors.max(1)))
    }

    /// How a machine is, by its console and by whether it is on.
    ///
    /// # Errors
    /// When there is a console that cannot be read.
    pub(super) fn look(&self, failover: &str, is_on: bool) -> Outcome<Seen> {
        let path = self.file(failover, CONSOLE);
        let console = tail(&path).map_err(|err| failed("read", &path, &err))?;
        Ok(seen(&console, &self.booted, is_on))
    }
}

/// How a machine is that has said this. What it says before its end it said while it was on.
fn seen(console: &str, booted: &str, is_on: bool) -> Seen {
    if let Some(line) = console.lines().rev().find(|line| line.contains(booted)) {
        return if is_on { Seen::Up(line.trim().to_owned()) } else { Seen::Off };
    }
    if let Some(line) = console.lines().find(|line| STUCK.iter().any(|sign| line.contains(sign))) {
        return Seen::Stuck(line.trim().to_owned());
    }
    if is_on { Seen::Running } else { Seen::Off }
}

/// The end of a file; nothing where there is none.
///
/// # Errors
/// When it cannot be read.
pub(super) fn tail(path: &Path) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_tells_how_a_machine_is() {
        let table = [
            ("", true, Seen::Running),
            ("", false, Seen::Off),
            ("Loading Linux\n[ 1.0] init\n", true, Seen::Running),
            ("one login: \ntwo login: ", true, Seen::Up("two login:".to_owned())),
            ("one login: ", false, Seen::Off),
            ("Kernel panic - not syncing\n", true, Seen::Stuck("Kernel panic - not syncing".to_owned())),
            // What stopped it before somebody helped it on does not count any more.
            ("You are in emergency mode\nweb login: ", true, Seen::Up("web login:".to_owned())),
        ];
        for (console, is_on, expected) in table {
            assert_eq!(seen(console, "login:", is_on), expected, "{console:?}");
        }
    }
}
