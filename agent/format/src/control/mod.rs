//! What agent and recovery service say to each other: JSON bodies of HTTPS requests, all of them the agent's.
//!
//! `docs/PROTOCOL.md` says when each is sent and what is answered. Lists have limits, which [`Limited::check`] holds a
//! message to before anything in it is believed: the other side may be an attacker. Deliberately not here: sending,
//! answering, and what administrators say.

mod commands;
mod enrolment;
mod error;
mod grants;
mod health;
mod policy;
mod session;
mod shape;

pub use commands::{
    Command, CommandId, CommandResult, Commands, DoubtedDisk, LONGEST_WAIT_S, MAX_COMMANDS, Order,
};
pub use enrolment::{DiskInventory, EnrolRequest, Enrolled, Inventory, RenewRequest, Renewed};
pub use error::{ErrorBody, ErrorCode};
pub use grants::{
    CommitNotice, CommitSeen, CommitState, Grant, GrantRequest, Grants, MAX_GRANTS, ManifestGrant,
    SegmentGrant,
};
pub use health::{DiskHealth, Heartbeat, HeartbeatAnswer, LastPoint, MachineHealth, Trouble};
pub use policy::{DiskPattern, Policy, RateWindow};
pub use session::{Claim, GenerationRequest, NewGeneration, SessionRequest, SessionStarted};
pub use shape::{
    BootMode, CloudDisk, CloudInterface, CloudInventory, CloudKind, InterfaceAddress, InterfaceInventory,
    MAX_ADDRESSES, MAX_INTERFACES, MAX_TAGS, Shape,
};

/// The version of the protocol, as the first part of every path.
pub const VERSION: &str = "v1";
/// Disks that a machine may have.
pub const MAX_DISKS: usize = 256;
/// The longest text, in bytes, in any field that is for people.
pub const MAX_TEXT: usize = 4096;
/// The longest body of a request or an answer, in bytes, but for digests and objects.
pub const MAX_BODY: usize = 4 << 20;

/// A message breaks a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {found}, and may have {most} at most")]
pub struct TooMuch {
    /// Which part of the message.
    pub what: &'static str,
    /// How many, or how many bytes.
    pub found: usize,
    /// How many there may be.
    pub most: usize,
}

/// A message whose parts have limits.
pub trait Limited {
    /// Whether all of it is within the limits.
    ///
    /// # Errors
    /// The first limit that it breaks.
    fn check(&self) -> Result<(), TooMuch>;
}

fn within(what: &'static str, found: usize, most: usize) -> Result<(), TooMuch> {
    if found <= most { Ok(()) } else { Err(TooMuch { what, found, most }) }
}
