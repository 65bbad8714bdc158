//! Why a committed epoch was not taken in.
//!
//! Deliberately not here: what to do about it; the kinds are there so that a caller can decide.

use mobility_format::{Epoch, Generation, envelope::EnvelopeError, key::CacheKey, segment::SegmentError};

use crate::storage::{LockError, StorageError};

/// An epoch cannot be taken in. Nothing of it has become visible in target storage.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// An object is not there (yet).
    #[error("{key} is not in cache storage: send it again")]
    Missing {
        /// Which.
        key: CacheKey,
    },
    /// A segment does not hold what its manifest says.
    #[error("{key} is damaged: {source}; send the epoch again under a new session")]
    Damaged {
        /// Which.
        key: CacheKey,
        /// What is wrong, and where.
        source: Box<SegmentError>,
    },
    /// A manifest was damaged on its way or in cache storage.
    #[error("{key} is damaged: {source}; commit the epoch again")]
    DamagedManifest {
        /// Which.
        key: CacheKey,
        /// What is wrong, and where.
        source: EnvelopeError,
    },
    /// It follows something else than the newest manifest. Another agent, a clone of the machine perhaps, has gone on
    /// from there, or the vault is not the one the agent has been writing to.
    #[error("epoch {epoch} of generation {generation} is refused as stale: {reason}")]
    Stale {
        /// The generation that it claims.
        generation: Generation,
        /// The epoch that it claims.
        epoch: Epoch,
        /// What it does not follow.
        reason: String,
    },
    /// It is sound as bytes, but not something the machine's agent would sign.
    #[error("{key} is refused: {reason}")]
    Forged {
        /// Which.
        key: CacheKey,
        /// Why.
        reason: String,
    },
    /// Target storage itself is damaged where the machine's newest state is.
    #[error(
        "target storage is damaged: {what}: {problem}; run `recovery-service verify`, and restore the object from a copy of the vault"
    )]
    Target {
        /// Which object.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine is known by another key.
    #[error(
        "the vault knows machine {machine} by another key: this is a clone of it, or its key was lost; protect it under a new machine id"
    )]
    OtherKey {
        /// Which machine.
        machine: mobility_format::MachineId,
    },
    /// The storage fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Another process is in the way.
    #[error(transparent)]
    Locked(#[from] LockError),
}

/// What a caller may do about an [`IntakeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntakeErrorKind {
    /// Try again later as it is: storage failed or was locked.
    Retry,
    /// Send the epoch's content again, from the disk: something of it is missing or damaged.
    SendAgain,
    /// Stop writing: another agent has taken over, or the key is not the machine's. Only a new generation helps.
    Stop,
    /// Stop and tell the operator: target storage is damaged.
    Operator,
}

impl IntakeError {
    /// What may be done about it.
    #[must_use]
    pub fn kind(&self) -> IntakeErrorKind {
        match self {
            IntakeError::Storage(_) | IntakeError::Locked(_) => IntakeErrorKind::Retry,
            IntakeError::Missing { .. }
            | IntakeError::Damaged { .. }
            | IntakeError::DamagedManifest { .. } => IntakeErrorKind::SendAgain,
            IntakeError::Stale { .. } | IntakeError::Forged { .. } | IntakeError::OtherKey { .. } => {
                IntakeErrorKind::Stop
            }
            IntakeError::Target { .. } => IntakeErrorKind::Operator,
        }
    }
}
