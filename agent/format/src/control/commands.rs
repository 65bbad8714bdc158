//! What the service asks of an agent between its own requests. It never connects to a machine: commands wait until the agent
//! comes for them.
//!
//! Deliberately not here: policy changes, which every heartbeat brings.

use serde::{Deserialize, Serialize};

use super::{Claim, Limited, MAX_DISKS, MAX_TEXT, TooMuch, within};
use crate::{DiskId, Epoch, Generation};

/// Commands that may wait for a machine.
pub const MAX_COMMANDS: usize = 64;
/// The longest wait for a command, in seconds.
pub const LONGEST_WAIT_S: u64 = 50;

/// Names a command, within its machine.
pub type CommandId = u64;

/// Answers `GET /v1/commands?session=<id>&wait_s=<seconds>`, as soon as there is any, or with none after the wait. A command
/// is handed out again until its [`CommandResult`] has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    /// Oldest first.
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its number.
    pub id: CommandId,
    /// What to do.
    #[serde(flatten)]
    pub order: Order,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Make a recovery point now.
    Point {
        /// Whether it shall be application-consistent.
        application: bool,
    },
    /// Something that was committed in this generation cannot be taken in, or is not trusted any more: compare these blocks
    /// with what is stored and send what differs, in a new generation.
    Resync {
        /// In which generation it was committed. Nothing is to be done if it was given up already.
        generation: Generation,
        /// Why, for people.
        reason: String,
        /// The newest epoch that `disks` covers. What was committed after it in this generation is doubted as well; an agent that
        /// does not know any more which blocks that was compares everything.
        through: Epoch,
        /// Which disks, and which part of each. All where there is none.
        disks: Vec<DoubtedDisk>,
    },
    /// Renew the certificate now.
    Renew,
    /// Send the newest lines of the log.
    Logs,
    /// Stop whatever writes on the machine, make a last point and say which it is ([`CommandResult::point`]). No other is made until one
    /// of the two below has come. To be done again where it was done already.
    Halt {
        /// For which failover.
        failover: String,
    },
    /// Switch the machine off, once it was heard that this will be done. Refused where it is not halted for this failover.
    SwitchOff {
        /// For which failover.
        failover: String,
    },
    /// Start again what was stopped to halt the machine, and make points again. Nothing is to be done where nothing was stopped.
    GoOn {
        /// For which failover.
        failover: String,
    },
    /// An order of a later version: to be answered with an error.
    #[serde(other)]
    Unknown,
}

/// A part of a disk that has to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtedDisk {
    /// Which disk.
    pub id: DiskId,
    /// Ranges of blocks, each as its first block and the block after its last. All of the disk where there is none.
    #[serde(default)]
    pub ranges: Vec<(u64, u64)>,
}

/// `POST /v1/commands/<id>`: what came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    /// Whether it was done.
    pub done: bool,
    /// What there is to say, for people; the log's lines.
    pub message: String,
    /// The last point of a machine that was halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Claim>,
}

impl CommandResult {
    /// It was done, and this is to be said of it.
    #[must_use]
    pub fn done(message: impl Into<String>) -> CommandResult {
        CommandResult { done: true, message: message.into(), point: None }
    }

    /// It was not done, for this reason.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> CommandResult {
        CommandResult { done: false, message: reason.into(), point: None }
    }
}

/// The longest name of a failover, in bytes.
const MAX_FAILOVER: usize = 64;

/// The longest message of a result, in bytes.
const MAX_RESULT: usize = 256 << 10;

impl Limited for Commands {
    fn check(&self) -> Result<(), TooMuch> {
        within("the list of commands", self.commands.len(), MAX_COMMANDS)?;
        self.commands.iter().try_for_each(|command| match &command.order {
            Order::Resync { reason, disks, .. } => {
                within("the reason", reason.len(), MAX_TEXT)?;
                within("the list of disks", disks.len(), MAX_DISKS)?;
                disks.iter().try_for_each(|disk| within("the ranges of a disk", disk.ranges.len(), 65_536))
            }
            Order::Halt { failover } | Order::SwitchOff { failover } | Order::GoOn { failover } => {
                within("the name of a failover", failover.len(), MAX_FAILOVER)
            }
            _ => Ok(()),
        })
    }
}

impl Limited for CommandResult {
    fn check(&self) -> Result<(), TooMuch> {
        within("the message", self.message.len(), MAX_RESULT)
    }
}
