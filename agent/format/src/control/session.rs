//! How a run of the agent begins, and how it gets a generation.
//!
//! Deliberately not here: what happens in between (`health`, `grants`).

use serde::{Deserialize, Serialize};

use super::{Inventory, Limited, MAX_DISKS, MAX_TEXT, Policy, TooMuch, within};
use crate::{Digest, Epoch, Generation, Head, SessionId};

/// `POST /v1/session`: a run of the agent begins.
///
/// The service goes on with one session at a time. One that comes from the same boot of the same hardware replaces the one
/// before at once. One that does not, while the one before is still heard, is a copy of the machine and is refused
/// ([`super::ErrorCode::Fenced`]); once the one before has been silent for long enough, the new one goes on, in a new generation, and
/// the old one is refused when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// This run.
    pub session: SessionId,
    /// The kernel's id of this boot.
    pub boot: String,
    /// What the machine is now.
    pub inventory: Inventory,
    /// The newest commit that this machine remembers, if it does.
    pub claim: Option<Claim>,
}

/// A commit, as the agent remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// In which generation.
    pub generation: Generation,
    /// Which epoch.
    pub epoch: Epoch,
    /// Which manifest.
    pub digest: Digest,
}

/// Answers [`SessionRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStarted {
    /// What to do.
    pub policy: Policy,
    /// The newest generation that was handed out; 0 where none was.
    pub generation: Generation,
    /// The newest commit that the service knows: taken in, or in cache storage and following what was taken in.
    pub head: Option<Head>,
    /// To be sent with the first heartbeat.
    pub turn: u64,
}

/// `POST /v1/generation`: nothing of the older ones is taken in from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRequest {
    /// This run.
    pub session: SessionId,
    /// The generation that is given up. Asking again with the same one gives the same answer.
    pub after: Generation,
    /// Why, for people.
    pub reason: String,
}

/// Answers [`GenerationRequest`]. Refused with [`super::ErrorCode::NotYet`] while commits of the older generation are still
/// being taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGeneration {
    /// Its number.
    pub generation: Generation,
    /// What it follows: the next epoch is the one after this.
    pub head: Option<Head>,
}

impl Limited for SessionRequest {
    fn check(&self) -> Result<(), TooMuch> {
        within("the boot id", self.boot.len(), 64)?;
        self.inventory.check()
    }
}

impl Limited for GenerationRequest {
    fn check(&self) -> Result<(), TooMuch> {
        within("the reason", self.reason.len(), MAX_TEXT)
    }
}

impl Limited for SessionStarted {
    fn check(&self) -> Result<(), TooMuch> {
        self.policy.check()?;
        self.head.as_ref().map_or(Ok(()), Limited::check)
    }
}

impl Limited for NewGeneration {
    fn check(&self) -> Result<(), TooMuch> {
        self.head.as_ref().map_or(Ok(()), Limited::check)
    }
}

impl Limited for Head {
    fn check(&self) -> Result<(), TooMuch> {
        within("the list of disks", self.disks.len(), MAX_DISKS)
    }
}
