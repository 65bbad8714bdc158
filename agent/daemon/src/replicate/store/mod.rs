//! Where segments and commits go, and what is compared with: the vault of debug mode, or a recovery service.
//!
//! Calls block, and are made from threads that may wait. Each makes one try: when to try again is the engine's. Deliberately
//! not here: what is sent, and what follows from an answer.

mod service;
mod vault;

use std::sync::Arc;

use mobility_capture::scan::Expected;
use mobility_engine::{CommitFault, Fault};
use mobility_format::{BlockDigest, BlockIndex, DiskId, Generation, Head};

pub(super) use self::{
    service::{ServiceStore, claim_of},
    vault::VaultStore,
};
use super::{commit::Prepared, pack::Sealed};

/// A storage, with the part of the recovery service that belongs to it.
pub(crate) trait Store: Send + Sync {
    /// Whether it is there at all.
    fn present(&self) -> Result<(), Fault>;

    /// Puts a segment. Returns the slot that it went to, where there are slots.
    fn put_segment(&self, segment: &Arc<Sealed>) -> Result<Option<u64>, Fault>;

    /// Puts a manifest, and returns the head that it makes. What was committed may still be refused if it is not
    /// [`Store::takes_in_at_once`].
    fn commit(&self, prepared: &Prepared) -> Result<Head, CommitFault>;

    /// Whether what was committed is in target storage.
    fn takes_in_at_once(&self) -> bool;

    /// Gives up generation `after` for a new one, and returns the head that it goes on from.
    fn new_generation(&self, after: Generation, reason: &str) -> Result<(Generation, Option<Head>), Fault>;

    /// The newest commit, as far as is known.
    fn head(&self) -> Option<Head>;

    /// What the head holds of a disk in the window that begins at `window`.
    fn expected(&self, disk: DiskId, window: BlockIndex) -> Result<Expected, NotKnown>;

    /// Hands over what the head holds of a disk, window by window, but for windows of zeros. Returns whether it holds anything
    /// of it.
    fn each_window(&self, disk: DiskId, visit: &mut WindowVisitor<'_>) -> Result<bool, NotKnown>;

    /// There is a new head.
    fn head_changed(&self, head: &Head);
}

/// Takes in the first block of a window and the digests of its blocks.
pub(super) type WindowVisitor<'a> = dyn FnMut(BlockIndex, &[BlockDigest]) -> Result<(), String> + 'a;

/// It cannot be told what the head holds.
#[derive(Clone, Debug)]
pub(crate) enum NotKnown {
    /// Not now: it may be asked again later.
    Now(Fault),
    /// It is damaged: it has to be sent.
    Damaged(String),
}

/// What was committed last, as it is when the agent starts.
pub(super) struct Newest {
    pub(super) head: Option<Head>,
    /// The newest generation.
    pub(super) generation: Generation,
}
