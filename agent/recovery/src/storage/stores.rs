//! Cache storage and target storage, as one value to hand around. They may be in different places, or the same directory.
//!
//! Intake, catalog, restore, verify and prune work on this. Where target storage is a directory, locks in it keep
//! processes apart that would get in each other's way; an object store has no locks, and there the caller guarantees that
//! at most one process at a time takes in, prunes or restores one machine. Deliberately not here: what the objects mean.

use std::{sync::Arc, time::Duration};

use mobility_format::MachineId;

use super::{Holding, Lock, LockError, Objects, StorageError};

/// Removing what nobody needs is the only work that excludes the others, and it takes seconds.
const SHARED_WAIT: Duration = Duration::from_secs(120);
/// Intakes of one machine exclude each other; each takes as long as moving one epoch's segments.
const INTAKE_WAIT: Duration = Duration::from_secs(60);
/// How long to wait until nobody restores or verifies.
const EXCLUSIVE_WAIT: Duration = Duration::from_secs(60);

/// Cache and target storage. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stores {
    cache: Arc<dyn Objects>,
    target: Arc<dyn Objects>,
}

impl Stores {
    /// Two storages, or one that is both.
    #[must_use]
    pub fn new(cache: Arc<dyn Objects>, target: Arc<dyn Objects>) -> Stores {
        Stores { cache, target }
    }

    /// The same, which can only be changed while `may` says so. A directory's locks do that for it.
    #[cfg(feature = "service")]
    pub(crate) fn claimed(&self, may: &super::Permission) -> Stores {
        let claimed = |objects: &Arc<dyn Objects>| match objects.as_directory() {
            Some(_) => objects.clone(),
            None => Arc::new(super::claimed::Claimed::new(objects.clone(), may.clone())) as Arc<dyn Objects>,
        };
        // Target storage's locks cover what is done in cache storage, too.
        match self.target.as_directory() {
            Some(_) => self.clone(),
            None => Stores { cache: claimed(&self.cache), target: claimed(&self.target) },
        }
    }

    /// Where the agent writes.
    #[must_use]
    pub fn cache(&self) -> &dyn Objects {
        &*self.cache
    }

    /// Where points and their segments are kept.
    #[must_use]
    pub fn target(&self) -> &dyn Objects {
        &*self.target
    }

    /// The machines that have something in target storage.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn machines(&self) -> Result<Vec<MachineId>, StorageError> {
        Ok(self.target.folders("target")?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Keeps what is in a machine's target storage from being removed.
    pub(crate) fn nothing_goes(&self, machine: MachineId) -> Result<Lock, LockError> {
        self.target.lock(&format!("target/{machine}/lock"), Holding::Shared, SHARED_WAIT)
    }

    /// Waits until nobody restores or verifies, and keeps everybody out.
    pub(crate) fn nobody_reads(&self, machine: MachineId) -> Result<Lock, LockError> {
        self.target.lock(&format!("target/{machine}/lock"), Holding::Exclusive, EXCLUSIVE_WAIT)
    }

    /// Epochs of a machine are taken in one after the other.
    pub(crate) fn intakes_in_order(&self, machine: MachineId) -> Result<Lock, LockError> {
        self.target.lock(&format!("target/{machine}/intake.lock"), Holding::Exclusive, INTAKE_WAIT)
    }

    /// Two prunings of a machine at once are a mistake.
    pub(crate) fn only_pruning(&self, machine: MachineId) -> Result<Lock, LockError> {
        self.target.lock(&format!("target/{machine}/prune.lock"), Holding::Exclusive, Duration::ZERO)
    }
}
