//! Where things are on this machine, and how much time there is: what every step needs to know.
//!
//! `MOBILITY_EXTENSION_ROOT` puts everything that the handler makes or asks for below another directory, and
//! `MOBILITY_EXTENSION_LIMIT` is the time for a command in seconds. Both are for tests: whoever can set them for a handler is root
//! already. Deliberately not here: what the guest agent says (`environment`).

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::files::below;

/// This machine, for one command.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    /// When the command must have ended.
    pub(crate) end: Instant,
}

impl Place {
    /// For a command that may take `limit`.
    pub(crate) fn new(limit: Duration) -> Place {
        let root = env::var_os("MOBILITY_EXTENSION_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let set = env::var("MOBILITY_EXTENSION_LIMIT").ok().and_then(|text| text.parse().ok());
        let set = set.and_then(|seconds: f32| Duration::try_from_secs_f32(seconds).ok());
        Place { root, end: Instant::now() + set.map_or(limit, |set| set.min(limit)) }
    }

    /// Until `most` from now, and no longer than there is time.
    pub(crate) fn within(&self, most: Duration) -> Instant {
        self.end.min(Instant::now() + most)
    }

    /// A path of this machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        below(&self.root, path)
    }

    /// Where the agent keeps identity and keys, and the handler what it knows.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path("/var/lib/mobility-agent")
    }

    /// A command of the agent.
    pub(crate) fn agent(&self, command: &str) -> Command {
        let mut program = Command::new(self.path("/usr/bin/mobility-agent"));
        program.arg(command);
        if self.root != Path::new("/") {
            let (name, dir) = match command {
                "status" => ("--runtime-dir=", self.path("/run/mobility-agent")),
                _ => ("--state-dir=", self.state_dir()),
            };
            let mut flag = OsString::from(name);
            flag.push(dir);
            program.arg(flag);
        }
        program
    }
}
