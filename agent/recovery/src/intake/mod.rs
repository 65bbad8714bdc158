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
mod clean;
mod error;
mod waiting;

use std::collections::HashSet;

use jiff::Timestamp;
use mobility_format::{
    Digest, Epoch, Generation, Head, MachineId, PublicKey, key::CacheKey, manifest::SegmentRef,
};

pub use error::{IntakeError, IntakeErrorKind};
pub use waiting::Doubted;

use crate::{
    Catalog,
    keys::ObjectKey,
    records::{MachineRecord, Record},
    storage::{SMALL, StorageError, Stores},
};

/// Takes in what one machine commits.
#[derive(Debug)]
pub struct Intake {
    stores: Stores,
    machine: MachineId,
    key: PublicKey,
    head: Option<Head>,
    /// The newest generation, where the caller knows it; else the machine's record says it.
    told: Option<Generation>,
    /// Segments whose content was checked, so that it is not read twice.
    verified: HashSet<(String, Digest)>,
}

impl Intake {
    /// Opens the intake of `machine`. The first key that a machine comes with is its key for good.
    ///
    /// # Errors
    /// [`IntakeError::OtherKey`]; [`IntakeError::Target`] where the machine's record or its newest manifest is damaged.
    pub fn open(stores: &Stores, machine: MachineId, key: PublicKey) -> Result<Intake, IntakeError> {
        let mut intake = Intake::unopened(stores, machine, key);
        let _lock = stores.intakes_in_order(machine)?;
        intake.clear_unfinished()?;
        intake.enrol()?;
        intake.head = intake.load_head()?;
        Ok(intake)
    }

    /// Opens the intake of a machine whose key and generation the caller keeps: what is in target storage is brought to
    /// the same state, and nothing of an older generation is taken in any more.
    ///
    /// # Errors
    /// As [`Intake::open`].
    pub fn enrolled(stores: &Stores, known: &MachineRecord) -> Result<Intake, IntakeError> {
        let mut intake = Intake::open(stores, known.machine, known.key)?;
        intake.set_generation(known.generation)?;
        intake.told = Some(known.generation);
        Ok(intake)
    }

    /// Goes on with a machine of which the caller also keeps the head, without reading anything. Only where
    /// [`Intake::enrolled`] was called for this generation before, and `head` is what the last intake of the machine left,
    /// in whichever process: anything else is refused epoch by epoch, as stale.
    #[must_use]
    pub fn resume(stores: &Stores, known: &MachineRecord, head: Option<Head>) -> Intake {
        Intake { head, told: Some(known.generation), ..Intake::unopened(stores, known.machine, known.key) }
    }

    fn unopened(stores: &Stores, machine: MachineId, key: PublicKey) -> Intake {
        Intake { stores: stores.clone(), machine, key, head: None, told: None, verified: HashSet::new() }
    }

    /// Goes on by way of `stores`, which have to lead to the same place.
    #[cfg(feature = "service")]
    #[must_use]
    pub(crate) fn on(self, stores: &Stores) -> Intake {
        Intake { stores: stores.clone(), ..self }
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
        self.told.map_or_else(|| Ok(self.record()?.generation), Ok)
    }

    /// Starts a new generation, durably: from now on nothing of an older one is taken in.
    ///
    /// # Errors
    /// When the machine's record cannot be read or written.
    pub fn new_generation(&mut self) -> Result<Generation, IntakeError> {
        let _lock = self.stores.intakes_in_order(self.machine)?;
        let mut record = self.record()?;
        record.generation = Generation(record.generation.0 + 1);
        self.put_record(&record)?;
        self.told = self.told.map(|_| record.generation);
        Ok(record.generation)
    }

    /// As [`Intake::new_generation`], with a number that the caller has chosen. One that is not newer changes nothing.
    ///
    /// # Errors
    /// As [`Intake::new_generation`].
    pub fn set_generation(&mut self, generation: Generation) -> Result<(), IntakeError> {
        let _lock = self.stores.intakes_in_order(self.machine)?;
        let mut record = self.record()?;
        if generation > record.generation {
            record.generation = generation;
            self.put_record(&record)?;
            self.told = self.told.map(|_| generation);
        }
        Ok(())
    }

    /// Checks a segment that is already in cache storage, so that [`Intake::admit`] need not: its header against its
    /// key, its index, and its content. May be called on another `Intake` of the same machine in another thread, whose
    /// result is then handed over with [`Intake::trust_verified`].
    ///
    /// # Errors
    /// [`IntakeError::Missing`], [`IntakeError::Damaged`] and storage errors.
    pub fn verify_segment(&mut self, key: &CacheKey, named: &SegmentRef) -> Result<(), IntakeError> {
        verify_segment(&self.stores, key, named)?;
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
        let _in_order = self.stores.intakes_in_order(self.machine)?;
        let _nothing_goes = self.stores.nothing_goes(self.machine)?;
        let head = admit::Admission { intake: self, generation, epoch }.run(received)?;
        self.verified.clear();
        Ok(self.head.insert(head))
    }

    /// What a crashed intake has left unfinished; nobody else writes there while we hold the lock.
    fn clear_unfinished(&self) -> Result<(), StorageError> {
        let (target, machine) = (self.stores.target(), self.machine);
        let Some(directory) = target.as_directory() else { return Ok(()) };
        for folder in [format!("target/{machine}/points"), format!("target/{machine}")] {
            target.remove(&directory.unfinished(&folder)?)?;
        }
        Ok(())
    }

    fn record_key(&self) -> ObjectKey {
        ObjectKey::Machine { machine: self.machine }
    }

    fn enrol(&self) -> Result<(), IntakeError> {
        let (target, key) = (self.stores.target(), self.record_key().to_string());
        let record = match target.read(&key, SMALL) {
            Err(err) if err.is_not_found() => {
                let record =
                    MachineRecord { machine: self.machine, key: self.key, generation: Generation(0) };
                match target.put_new(&key, &sealed(&record)?) {
                    Err(err) if !err.is_already_there() => return Err(err.into()),
                    _ => self.record()?,
                }
            }
            bytes => self.parse_record(&bytes?)?,
        };
        if record.key == self.key { Ok(()) } else { Err(IntakeError::OtherKey { machine: self.machine }) }
    }

    fn record(&self) -> Result<MachineRecord, IntakeError> {
        self.parse_record(&self.stores.target().read(&self.record_key().to_string(), SMALL)?)
    }

    fn parse_record(&self, bytes: &[u8]) -> Result<MachineRecord, IntakeError> {
        let damaged = |problem| IntakeError::Target { what: self.record_key().to_string(), problem };
        let record = MachineRecord::parse(bytes).map_err(|err| damaged(err.to_string()))?;
        if record.machine == self.machine {
            Ok(record)
        } else {
            Err(damaged("it is another machine's".to_owned()))
        }
    }

    fn put_record(&self, record: &MachineRecord) -> Result<(), StorageError> {
        self.stores.target().replace(&self.record_key().to_string(), &sealed(record)?)
    }

    /// The head as target storage has it. A damaged manifest behind it must not be overlooked: the chain would fork.
    fn load_head(&self) -> Result<Option<Head>, IntakeError> {
        let catalog = Catalog::load(&self.stores, self.machine)?;
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
pub fn verify_segment(stores: &Stores, key: &CacheKey, named: &SegmentRef) -> Result<(), IntakeError> {
    let segment = check::Checked { key: *key, storage: stores.cache(), place: &key.to_string() };
    segment.content(&check::source_of(key, named)?).map(|_| ())
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
