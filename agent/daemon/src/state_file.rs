//! What the running agent tells `status`: a small file in its runtime directory, replaced as a whole. There is no socket
//! to ask at, so there is none to attack.
//!
//! Nothing is decided by it, and it means nothing after a reboot, so it is plain JSON without a checksum. Deliberately not
//! here: how it is shown (`status`).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use mobility_format::{
    ByteCount, Digest, DiskId, Epoch, Generation, MachineId,
    manifest::{Consistency, Cut},
};
use serde::{Deserialize, Serialize};

/// The version of this file's content.
pub(crate) const VERSION: u32 = 1;

/// What the agent is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The version of this layout.
    pub(crate) version: u32,
    /// The agent's process.
    pub(crate) pid: u32,
    /// The agent's version.
    pub(crate) agent: String,
    /// Which machine it protects.
    pub(crate) machine: MachineId,
    /// Where to in debug mode; a recovery service takes it without one.
    pub(crate) vault: Option<PathBuf>,
    /// When this was written.
    pub(crate) updated: Timestamp,
    /// When the agent started.
    pub(crate) started: Timestamp,
    /// What it is doing, in a word.
    pub(crate) phase: String,
    /// The current generation.
    pub(crate) generation: Generation,
    /// The epoch being made.
    pub(crate) epoch: Epoch,
    /// From one point to the next, in seconds.
    pub(crate) interval_s: u64,
    /// The last recovery point.
    pub(crate) last_point: Option<LastPoint>,
    /// How old the last recovery point is, in seconds, at `updated`: what a disaster would cost.
    pub(crate) rpo_s: Option<u64>,
    /// When the next point is due.
    pub(crate) next_point: Timestamp,
    /// What was found changed, per second, before the last point.
    pub(crate) churn_per_s: ByteCount,
    /// What there is to send and is not durable, as far as is known: what has changed, what is to be compared or sent for the
    /// first time, what is being read, and the segments that wait.
    pub(crate) backlog: ByteCount,
    /// What was uploaded since the start.
    pub(crate) uploaded: ByteCount,
    /// What is wrong with the storage, while it is.
    pub(crate) outage: Option<Problem>,
    /// The last thing that went wrong, also when it is over.
    pub(crate) last_error: Option<Problem>,
    /// All disks.
    pub(crate) disks: Vec<Disk>,
}

/// The last recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastPoint {
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// Its digest.
    pub(crate) digest: Digest,
    /// When it was committed.
    pub(crate) time: Timestamp,
    /// How consistent it is.
    pub(crate) consistency: Consistency,
    /// How it was made.
    #[serde(flatten)]
    pub(crate) cut: Cut,
    /// What had changed since the point before.
    pub(crate) changed: ByteCount,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// A stable short name.
    pub(crate) kind: String,
    /// What happened, to what, and what to do.
    pub(crate) message: String,
    /// Since when, or when.
    pub(crate) since: Timestamp,
    /// When it is tried again.
    pub(crate) retry: Option<Timestamp>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Its id.
    pub(crate) id: DiskId,
    /// Its path, as it was named.
    pub(crate) path: PathBuf,
    /// `ebpf` or `scan`.
    pub(crate) capture: String,
    /// `initial-replication`, `resync`, `protected`, `failing` or `gone`.
    pub(crate) state: String,
    /// Its size.
    pub(crate) size: ByteCount,
    /// What is known to have changed and is not durable.
    pub(crate) owed: ByteCount,
    /// What is still to be compared or sent before it is protected.
    pub(crate) remaining: ByteCount,
    /// Why it is compared.
    pub(crate) resync_reason: Option<String>,
    /// What is wrong with it.
    pub(crate) problem: Option<String>,
    /// Blocks that the audit has compared.
    pub(crate) audited_blocks: u64,
    /// Of these, blocks that had changed unseen. Anything but 0 is an alarm.
    pub(crate) missed_blocks: u64,
}

/// Where agents keep their state unless told otherwise.
pub(crate) fn runtime_dir(given: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    // systemd sets the first for a unit with a runtime directory; it names only one unless the unit asks for more.
    if let Some(dir) = env::var_os("RUNTIME_DIRECTORY") {
        return dir.into();
    }
    let user = rustix::process::geteuid();
    match env::var_os("XDG_RUNTIME_DIR") {
        _ if user.is_root() => PathBuf::from("/run/mobility-agent"),
        Some(dir) => PathBuf::from(dir).join("mobility-agent"),
        None => env::temp_dir().join(format!("mobility-agent-{}", user.as_raw())),
    }
}

/// The state file of a machine.
pub(crate) fn path(runtime_dir: &Path, machine: MachineId) -> PathBuf {
    runtime_dir.join(format!("{machine}.json"))
}

impl State {
    /// Replaces the file.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let unfinished = path.with_extension("json.new");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&unfinished, path)
    }

    /// All state files of a runtime directory that can be read.
    pub(crate) fn read_all(runtime_dir: &Path) -> std::io::Result<Vec<State>> {
        let mut states: Vec<State> = Vec::new();
        for entry in fs::read_dir(runtime_dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(state) =
                    fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
            {
                states.push(state);
            }
        }
        states.sort_by_key(|state| std::cmp::Reverse(state.updated));
        Ok(states)
    }

    /// Whether the process that wrote it is still there.
    pub(crate) fn is_running(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid))
            .is_ok_and(|name| name.starts_with("mobility-agent"))
    }
}
