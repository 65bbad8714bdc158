//! What an agent tells of itself, and what it hears back.
//!
//! Nothing is secured by what it tells: retention and fencing go by what the service itself has seen. Deliberately not here:
//! commands, which have a request of their own that waits for them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Claim, Limited, MAX_DISKS, MAX_TEXT, Policy, TooMuch, within};
use crate::{ByteCount, DiskId, Epoch, Generation, SessionId, manifest::Consistency};

/// `POST /v1/heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// This run.
    pub session: SessionId,
    /// The number from the answer before. Two machines that go on from one copied state both come with the same: the second of
    /// them is found out.
    pub turn: u64,
    /// The version of the policy that is followed.
    pub policy: u64,
    /// Whether replication rests by what was heard: one machine may be paused that shares its policy with others.
    #[serde(default)]
    pub paused: bool,
    /// The newest commit.
    pub head: Option<Claim>,
    /// How the machine is.
    pub health: MachineHealth,
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineHealth {
    /// The agent's version.
    pub agent: String,
    /// The agent's clock.
    pub clock: Timestamp,
    /// What it is doing, in a word.
    pub phase: String,
    /// The last recovery point.
    pub last_point: Option<LastPoint>,
    /// What was found changed, per second, before it.
    pub churn_per_s: ByteCount,
    /// What there is to send and is not durable.
    pub backlog: ByteCount,
    /// When the certificate expires.
    pub certificate_expires: Option<Timestamp>,
    /// What is wrong now.
    pub trouble: Vec<Trouble>,
    /// Its protected disks.
    pub disks: Vec<DiskHealth>,
}

/// A recovery point, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPoint {
    /// Its epoch.
    pub epoch: Epoch,
    /// When it was committed, by the agent's clock.
    pub time: Timestamp,
    /// How consistent it is.
    pub consistency: Consistency,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// A stable short name.
    pub kind: String,
    /// What happened, to what, and what to do.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

/// How a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHealth {
    /// Which.
    pub id: DiskId,
    /// What the machine calls it.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// How its changes are found: `ebpf` or `scan`.
    pub capture: String,
    /// `initial-replication`, `resync`, `protected`, `failing` or `gone`.
    pub state: String,
    /// What is to be compared or sent before it is protected.
    pub remaining: ByteCount,
    /// Why it is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_reason: Option<String>,
    /// Blocks that the audit has compared.
    pub audited_blocks: u64,
    /// Of these, blocks that had changed unseen.
    pub missed_blocks: u64,
}

/// Answers [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// To be sent with the next one.
    pub turn: u64,
    /// When the next one is wanted, in seconds.
    pub next_s: u64,
    /// The policy, where the agent follows another version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The newest generation that was handed out.
    pub generation: Generation,
    /// The newest epoch that was taken into target storage.
    pub taken_in: Epoch,
}

impl Limited for Heartbeat {
    fn check(&self) -> Result<(), TooMuch> {
        let health = &self.health;
        within("the list of disks", health.disks.len(), MAX_DISKS)?;
        within("the list of troubles", health.trouble.len(), 64)?;
        let texts = [&health.agent, &health.phase];
        let troubles = health.trouble.iter().flat_map(|trouble| [&trouble.kind, &trouble.message]);
        let disks = health
            .disks
            .iter()
            .flat_map(|disk| [&disk.name, &disk.capture, &disk.state].into_iter().chain(&disk.resync_reason));
        let mut texts = texts.into_iter().chain(troubles).chain(disks);
        texts.try_for_each(|text| within("a text", text.len(), MAX_TEXT))
    }
}

impl Limited for HeartbeatAnswer {
    fn check(&self) -> Result<(), TooMuch> {
        self.policy.as_ref().map_or(Ok(()), Limited::check)
    }
}
