//! What the service wants of a machine.
//!
//! A policy can only make the agent do less or differently within its compiled limits: it cannot name a program to run or a
//! path to write, and it cannot raise how long writes may be held. Deliberately not here: how the agent follows it.

use serde::{Deserialize, Serialize};

use super::{Limited, MAX_TEXT, TooMuch, within};
use crate::ByteCount;

/// What the service wants of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Grows with each change.
    pub version: u64,
    /// What it is called, for people.
    pub name: String,
    /// From one point to the next, in seconds; 1 to 86,400.
    pub interval_s: u64,
    /// From one application-consistent point to the next, in seconds; none by schedule where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_interval_s: Option<u64>,
    /// Disks to protect: those that match any of these. All where there is none.
    #[serde(default)]
    pub include: Vec<DiskPattern>,
    /// Disks to leave out though they match.
    #[serde(default)]
    pub exclude: Vec<DiskPattern>,
    /// Whether temporary disks are protected, too.
    #[serde(default)]
    pub temporary_disks: bool,
    /// How many points are kept, and how close together: see the glossary on the retention ladder.
    pub retention: String,
    /// How fast segments may be uploaded, in bytes per second; as fast as goes where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_rate: Option<ByteCount>,
    /// Times of the week with another rate. The first that fits counts.
    #[serde(default)]
    pub rate_windows: Vec<RateWindow>,
    /// How much of target storage the machine's points may take; as much as there is where it is not given. What would be more is
    /// not taken in: nothing older is removed for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteCount>,
    /// Whether the operator's scripts may run, for points by schedule and for those that are asked for. The agent's own
    /// configuration has the last word.
    pub scripts: bool,
    /// Whether replication rests. Tracking goes on.
    #[serde(default)]
    pub paused: bool,
}

/// Which disks. All that are given have to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPattern {
    /// Its name, its id or one of its stable names, with `*` for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A path that one of its file systems is mounted at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// At least so large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<ByteCount>,
    /// At most so large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<ByteCount>,
}

/// A rate for a part of the week, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateWindow {
    /// On which days it begins: 1 is Monday, 7 Sunday. Every day where there is none.
    #[serde(default)]
    pub days: Vec<u8>,
    /// When it begins, in minutes since midnight.
    pub from_min: u16,
    /// When it ends, in minutes since midnight; on the next day where that is not later.
    pub to_min: u16,
    /// How fast segments may be uploaded then, in bytes per second; as fast as goes where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_rate: Option<ByteCount>,
}

impl Limited for Policy {
    fn check(&self) -> Result<(), TooMuch> {
        within("the policy's name", self.name.len(), MAX_TEXT)?;
        within("the retention ladder", self.retention.len(), MAX_TEXT)?;
        within("the list of disks to protect", self.include.len(), 256)?;
        within("the list of disks to leave out", self.exclude.len(), 256)?;
        within("the list of rate windows", self.rate_windows.len(), 64)
    }
}
