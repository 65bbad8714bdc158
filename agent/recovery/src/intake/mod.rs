//! Intake: takes a committed epoch from cache storage into target storage, once everything it refers to is verified.
//!
//! The order makes each step repeatable after a crash: check all; move the segments (they mean nothing yet); note when it
//! came; put the manifest, with which the epoch exists; clean up. What is found half moved is looked for in both places.
//! The newest generation handed out is the only one taken in, so a machine that was cloned, or restored from an old
//! snapshot, cannot go on writing beside its other self.
//!
//! Deliberately not here: who may write to cache storage, and when an epoch is committed.

mod admit;
mod check;
mod error;

use std::{collections::HashSet, time::Duration};

use jiff::Timestamp;
use mobility_format::{Digest, Epoch, Generation, MachineId, PublicKey, key::CacheKey, manifest::SegmentRef};

pub use error::{IntakeError, IntakeErrorKind};

use crate::{
    Catalog, Head, Vault,
    keys::ObjectKey,
    records::{MachineRecord, Record},
    storage::{self, Lock, StorageError},
};

/// Intakes of one machine exclude each other; each takes as long as moving one epoch's segments.
const INTAKE_WAIT: Duration = Duration::from_secs(60);

/// Takes in what one machine commits.
#[derive(Debug)]
pub struct Intake {
    vault: Vault,
    machine: MachineId,
    key: PublicKey,
    head: Option<Head>,
    /// Segments whose content was checked, so that it is not read twice.
    verified: HashSet<(String, Digest)>,
}

impl Intake {
    /// Opens the intake of `machine`. The first key that a machine comes with is its key for good.
    ///
    /// # Errors
    /// [`IntakeError::OtherKey`]; [`IntakeError::Target`] where the machine's record or its newest manifest is damaged.
    pub fn open(vault: &Vault, machine: MachineId, key: PublicKey) -> Result<Intake, IntakeError> {
        vault.files.create_dirs(&vault.target_dir(machine))?;
        let mut intake = Intake { vault: vault.clone(), machine, key, head: None, verified: HashSet::new() };
        let _lock = intake.lock()?;
        intake.clear_unfinished()?;
        intake.enrol()?;
        intake.head = intake.load_head()?;
        Ok(intake)
    }

    /// The newest manifest that was taken in, point or checkpoint.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The newest generation that was handed out; nothing of an older one is taken in. 0 where none was.
    ///
    /// # Errors
    /// When the machine's record cannot be read.
    pub fn generation(&self) -> Result<Generation, IntakeError> {
        Ok(self.record()?.generation)
    }

    /// Starts a new generation, durably: from now on nothing of an older one is taken in.
    ///
    /// # Errors
    /// When the machine's record cannot be read or written.
    pub fn new_generation(&mut self) -> Result<Generation, IntakeError> {
        let _lock = self.lock()?;
        let mut record = self.record()?;
        record.generation = Generation(record.generation.0 + 1);
        self.vault.files.replace(&self.vault.path_of(&self.record_key()), &sealed(&record)?)?;
        Ok(record.generation)
    }

    /// Checks a segment that is already in cache storage, so that [`Intake::admit`] need not: its header against its
    /// key, its index, and its content. May be called on another `Intake` of the same machine in another thread, whose
    /// result is then handed over with [`Intake::trust_verified`].
    ///
    /// # Errors
    /// [`IntakeError::Missing`], [`IntakeError::Damaged`] and storage errors.
    pub fn verify_segment(&mut self, key: &CacheKey, named: &SegmentRef) -> Result<(), IntakeError> {
        verify_segment(&self.vault, key, named)?;
        self.verified.insert((key.to_string(), named.digest));
        Ok(())
    }

    /// Takes over that [`verify_segment`] found a segment sound.
    pub fn trust_verified(&mut self, key: &CacheKey, digest: Digest) {
        self.verified.insert((key.to_string(), digest));
    }

    /// Takes in an epoch whose manifest is in cache storage. Call it again after a crash or a storage error: it goes on
    /// where it was. Where the epoch is in target storage already, it cleans up and is content.
    ///
    /// # Errors
    /// See [`IntakeError`]. The epoch does not exist then.
    pub fn admit(&mut self, generation: Generation, epoch: Epoch) -> Result<&Head, IntakeError> {
        self.admit_at(generation, epoch, Timestamp::now())
    }

    /// As [`Intake::admit`], with the time that retention will go by: the service's, never the agent's.
    ///
    /// # Errors
    /// As [`Intake::admit`].
    pub fn admit_at(
        &mut self,
        generation: Generation,
        epoch: Epoch,
        received: Timestamp,
    ) -> Result<&Head, IntakeError> {
        let _in_order = self.lock()?;
        let _nothing_goes = self.vault.lock_shared(self.machine)?;
        let head = admit::Admission { intake: self, generation, epoch }.run(received)?;
        self.verified.clear();
        Ok(self.head.insert(head))
    }

    fn lock(&self) -> Result<Lock, IntakeError> {
        Ok(Lock::exclusive(&self.vault.target_dir(self.machine).join("intake.lock"), INTAKE_WAIT)?)
    }

    /// What a crashed intake has left unfinished; nobody else writes there while we hold the lock.
    fn clear_unfinished(&self) -> Result<(), StorageError> {
        let dir = self.vault.target_dir(self.machine);
        for dir in [dir.join("points"), dir] {
            for (name, _) in
                storage::list(&dir)?.iter().filter(|(name, _)| name.starts_with(storage::TEMPORARY))
            {
                self.vault.files.remove(&dir.join(name))?;
            }
        }
        Ok(())
    }

    fn record_key(&self) -> ObjectKey {
        ObjectKey::Machine { machine: self.machine }
    }

    fn enrol(&self) -> Result<(), IntakeError> {
        let path = self.vault.path_of(&self.record_key());
        if !path.exists() {
            let record = MachineRecord { machine: self.machine, key: self.key, generation: Generation(0) };
            match self.vault.files.put_new(&path, &sealed(&record)?) {
                Err(err) if !err.is_already_there() => return Err(err.into()),
                _ => {}
            }
        }
        if self.record()?.key == self.key {
            Ok(())
        } else {
            Err(IntakeError::OtherKey { machine: self.machine })
        }
    }

    fn record(&self) -> Result<MachineRecord, IntakeError> {
        let key = self.record_key();
        let damaged = |problem: String| IntakeError::Target { what: key.to_string(), problem };
        let record = MachineRecord::parse(&storage::read_small(&self.vault.path_of(&key))?);
        let record = record.map_err(|err| damaged(err.to_string()))?;
        if record.machine == self.machine {
            Ok(record)
        } else {
            Err(damaged("it is another machine's".to_owned()))
        }
    }

    /// The head as target storage has it. A damaged manifest behind it must not be overlooked: the chain would fork.
    fn load_head(&self) -> Result<Option<Head>, IntakeError> {
        let catalog = Catalog::load(&self.vault, self.machine)?;
        let head = catalog.head();
        let newest = head.as_ref().map_or(Epoch(0), |head| head.epoch);
        let ahead = catalog.damage().iter().find(|damage| {
            let manifest =
                matches!(damage.key, ObjectKey::Target(mobility_format::key::TargetKey::Manifest { .. }));
            manifest && damage.key.last_epoch().is_some_and(|epoch| epoch > newest)
        });
        match ahead {
            Some(damage) => {
                Err(IntakeError::Target { what: damage.key.to_string(), problem: damage.problem.clone() })
            }
            None => Ok(head),
        }
    }
}

/// Checks a segment in cache storage as [`Intake::verify_segment`] does, without remembering it.
///
/// # Errors
/// As [`Intake::verify_segment`].
pub fn verify_segment(vault: &Vault, key: &CacheKey, named: &SegmentRef) -> Result<(), IntakeError> {
    check::check_content(*key, &check::source_of(key, named)?, &vault.path_of(key)).map(|_| ())
}

fn sealed(record: &MachineRecord) -> Result<Vec<u8>, StorageError> {
    record.seal().map_err(|err| {
        StorageError::new(
            "write the machine's record to",
            std::path::Path::new("machine"),
            std::io::Error::other(err),
        )
    })
}
