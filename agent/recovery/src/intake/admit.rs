//! One epoch's way from cache into target storage.
//!
//! Where both are directories of one machine the segments are checked where they are and then moved. Else they are copied,
//! and what is checked is the copy that is going to be put. Deliberately not here: what holds between epochs (`Intake`),
//! and what is removed afterwards (`clean`).

use std::io::{self, Write};

use jiff::Timestamp;
use mobility_format::{
    Digest, Epoch, Generation, Head,
    key::{CacheKey, TargetKey},
    manifest::{DiskState, SignedManifest},
    segment::SegmentError,
};

use super::{Intake, IntakeError, check::Checked};
use crate::{
    content::SegmentSource,
    keys::ObjectKey,
    records::{Received, Record},
    storage::{Objects, Reading, SMALL, StorageError},
};

/// The longest segment that is copied. An agent makes them a tenth as long.
const LONGEST_SEGMENT: u64 = 64 << 20;
/// How much is copied at once.
const COPIED_AT_ONCE: usize = 1 << 20;

pub(super) struct Admission<'a> {
    pub(super) intake: &'a Intake,
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
}

/// A segment, where it is and where it goes.
pub(super) struct Move {
    pub(super) key: CacheKey,
    pub(super) from: String,
    pub(super) to: String,
    source: SegmentSource,
    previous: Digest,
}

impl Admission<'_> {
    pub(super) fn run(&self, received: Timestamp) -> Result<Head, IntakeError> {
        let key = self.manifest_key();
        let bytes = match self.cache().read(&key.to_string(), SMALL) {
            Err(err) if err.is_not_found() => return self.already_there(None),
            other => other?,
        };
        let signed =
            SignedManifest::parse(&bytes).map_err(|source| IntakeError::DamagedManifest { key, source })?;
        if self.intake.head.as_ref().is_some_and(|head| head.epoch >= self.epoch) {
            return self.already_there(Some(&signed));
        }
        self.check_origin(&signed)?;
        let moves = self.moves(&signed)?;
        let same_machine = self.cache().as_directory().is_some() && self.target().as_directory().is_some();
        if same_machine {
            self.move_segments(&moves)?
        } else {
            self.copy_segments(moves.iter())?
        }
        let superfluous = self.check_arrived(&moves)?;
        self.put_manifest(&signed, &bytes, received)?;
        self.target().remove(&superfluous)?;
        self.clean_cache(&signed)?;
        Ok(Head::after(self.intake.head.as_ref(), &signed))
    }

    pub(super) fn cache(&self) -> &dyn Objects {
        self.intake.stores.cache()
    }

    pub(super) fn target(&self) -> &dyn Objects {
        self.intake.stores.target()
    }

    fn manifest_key(&self) -> CacheKey {
        CacheKey::Manifest { machine: self.intake.machine, generation: self.generation, epoch: self.epoch }
    }

    fn stale(&self, reason: String) -> IntakeError {
        IntakeError::Stale { generation: self.generation, epoch: self.epoch, reason }
    }

    /// The epoch was taken in before. Content where it is this very manifest; what is left in cache storage goes.
    fn already_there(&self, signed: Option<&SignedManifest>) -> Result<Head, IntakeError> {
        match &self.intake.head {
            Some(head) if head.epoch == self.epoch && head.generation == self.generation => {
                match signed {
                    Some(signed) if signed.digest != head.digest => {
                        let reason = "another manifest has been taken in for this epoch";
                        return Err(self.stale(reason.to_owned()));
                    }
                    Some(signed) => self.clean_cache(signed)?,
                    // The manifest is the last that goes.
                    None => self.clean_folders()?,
                }
                Ok(head.clone())
            }
            Some(head) if head.epoch >= self.epoch => {
                Err(self
                    .stale(format!("the newest epoch is {} of generation {}", head.epoch, head.generation)))
            }
            _ => Err(IntakeError::Missing { key: self.manifest_key() }),
        }
    }

    fn check_origin(&self, signed: &SignedManifest) -> Result<(), IntakeError> {
        let manifest = &signed.manifest;
        let forged =
            |reason: &str| IntakeError::Forged { key: self.manifest_key(), reason: reason.to_owned() };
        if signed.key != self.intake.key {
            return Err(forged("it is signed with a key that is not the machine's"));
        }
        if manifest.machine != self.intake.machine {
            return Err(forged("it is another machine's"));
        }
        if manifest.generation != self.generation || manifest.epoch != self.epoch {
            return Err(forged("its generation and epoch are not those of its key"));
        }
        let newest = self.intake.generation()?;
        if manifest.generation != newest {
            return Err(self.stale(format!("the newest generation is {newest}")));
        }
        let (epoch, digest) = match &self.intake.head {
            Some(head) => (head.epoch, head.digest),
            None => (Epoch(0), Digest::NONE),
        };
        if manifest.epoch != epoch.next() {
            return Err(self.stale(format!("the newest epoch taken in is {epoch}")));
        }
        if manifest.previous != digest {
            return Err(
                self.stale(format!("it does not follow the manifest of epoch {epoch} that was taken in"))
            );
        }
        Ok(())
    }

    fn moves(&self, signed: &SignedManifest) -> Result<Vec<Move>, IntakeError> {
        let mut moves = Vec::new();
        for disk in &signed.manifest.disks {
            if disk.segments.windows(2).any(|pair| pair[0].part >= pair[1].part) {
                let reason = format!("the parts of disk {} are not in order", disk.id);
                return Err(IntakeError::Forged { key: self.manifest_key(), reason });
            }
            self.moves_of(disk, &mut moves);
        }
        Ok(moves)
    }

    fn moves_of(&self, disk: &DiskState, moves: &mut Vec<Move>) {
        let (machine, generation, epoch) = (self.intake.machine, self.generation, self.epoch);
        let known = self.intake.head.as_ref().and_then(|head| head.disk(disk.id));
        let mut previous = known.map_or(Digest::NONE, |known| known.last_segment);
        for named in &disk.segments {
            let (session, part, disk) = (named.session, named.part, disk.id);
            let key = match named.slot {
                Some(slot) => CacheKey::Slot { machine, generation, slot },
                None => CacheKey::Segment { machine, generation, epoch, disk, session, part },
            };
            moves.push(Move {
                key,
                from: key.to_string(),
                to: TargetKey::Segment { machine, epoch, disk, session, part }.to_string(),
                source: SegmentSource {
                    machine,
                    disk,
                    generation: Some(generation),
                    first: epoch,
                    last: epoch,
                    named: *named,
                },
                previous,
            });
            previous = named.digest;
        }
    }

    /// Checks all of them, in cache storage or in target storage where an earlier try has moved them, then moves them.
    fn move_segments(&self, moves: &[Move]) -> Result<(), IntakeError> {
        for step in moves {
            let in_cache = self.cache().size(&step.from)?.is_some();
            let (storage, place) =
                if in_cache { (self.cache(), &step.from) } else { (self.target(), &step.to) };
            let segment = Checked { key: step.key, storage, place };
            let known = (step.from.clone(), step.source.named.digest);
            let previous = match in_cache && self.intake.verified.contains(&known) {
                true => segment.previous()?,
                false => segment.content(&step.source)?,
            };
            self.check_follows(step, previous)?;
        }
        let paths: Vec<_> = moves.iter().map(|step| (step.from.clone(), step.to.clone())).collect();
        let to_copy = self.target().adopt(self.cache(), &paths)?;
        self.copy_segments(to_copy.into_iter().map(|position| &moves[position]))
    }

    fn check_follows(&self, step: &Move, previous: Digest) -> Result<(), IntakeError> {
        if previous == step.previous {
            return Ok(());
        }
        let (found, expected) = (previous.to_string(), step.previous.to_string());
        let source = Box::new(SegmentError::Misplaced { what: "previous segment", found, expected });
        Err(IntakeError::Damaged { key: step.key, source })
    }

    fn copy_segments<'a>(&self, moves: impl Iterator<Item = &'a Move>) -> Result<(), IntakeError> {
        let mut buffer = vec![0; COPIED_AT_ONCE];
        for step in moves {
            self.copy(step, &mut buffer)?;
        }
        Ok(())
    }

    /// Copies a segment. What counts is what was written: that is what is checked.
    fn copy(&self, step: &Move, buffer: &mut [u8]) -> Result<(), IntakeError> {
        let segment = Checked { key: step.key, storage: self.cache(), place: &step.from };
        let source = segment.open(Reading::Whole)?;
        let failed = |source| {
            segment.error(SegmentError::Read { offset: 0, length: step.source.named.length.0, source })
        };
        let length = source.length().map_err(failed)?;
        let expected = step.source.named.length.0;
        if length != expected || length > LONGEST_SEGMENT {
            let expected = expected.min(LONGEST_SEGMENT);
            let (found, expected) = (length.to_string(), expected.to_string());
            return Err(segment.error(SegmentError::Misplaced { what: "length", found, expected }));
        }
        let folder = step.to.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut draft = self.target().draft(folder)?;
        let mut at = 0;
        while at < length {
            let piece = &mut buffer[..COPIED_AT_ONCE.min((length - at) as usize)];
            source.read_at(at, piece).map_err(failed)?;
            let written = draft.write_all(piece);
            written.map_err(|err| StorageError::new("write", &self.target().place(&step.to), err))?;
            at += piece.len() as u64;
        }
        let previous = segment.content_of(&*draft, &step.source)?;
        self.check_follows(step, previous)?;
        Ok(draft.publish(&step.to)?)
    }

    /// That a storage says it has put something is one thing. All segments have to be seen there before the manifest says
    /// that they are. Returns what else is there: what an earlier try of the epoch left.
    fn check_arrived(&self, moves: &[Move]) -> Result<Vec<String>, IntakeError> {
        let mut expected: std::collections::HashMap<&str, u64> =
            moves.iter().map(|step| (step.to.as_str(), step.source.named.length.0)).collect();
        let mut superfluous = Vec::new();
        let folder = format!("target/{}/segments/{:020}", self.intake.machine, self.epoch.0);
        self.target().list(&folder, &mut |listed| match expected.get(listed.key.as_str()) {
            Some(length) if *length == listed.size => {
                expected.remove(listed.key.as_str());
            }
            Some(_) => {}
            None => superfluous.push(listed.key),
        })?;
        match expected.into_keys().next() {
            None => Ok(superfluous),
            Some(lost) => Err(not_there(self.target(), lost).into()),
        }
    }

    fn put_manifest(
        &self,
        signed: &SignedManifest,
        bytes: &[u8],
        received: Timestamp,
    ) -> Result<(), IntakeError> {
        let (target, machine, epoch) = (self.target(), self.intake.machine, self.epoch);
        let record = Received { machine, epoch, manifest: signed.digest, received };
        let key = ObjectKey::Received { machine, epoch }.to_string();
        let sealed = record.seal();
        let sealed =
            sealed.map_err(|err| StorageError::new("write", &target.place(&key), io::Error::other(err)))?;
        target.replace(&key, &sealed)?;
        self.check_shown(&key, &sealed)?;
        let key = TargetKey::Manifest { machine, epoch }.to_string();
        match target.put_new(&key, bytes) {
            // Put by a try of which we were never told that it had succeeded.
            Err(err) if err.is_already_there() && target.read(&key, SMALL)? == bytes => Ok(()),
            Err(err) => Err(err.into()),
            // From here on cache storage is emptied.
            Ok(()) => self.check_shown(&key, bytes),
        }
    }

    /// A store has to show what it says that it has put. A directory has synced it.
    fn check_shown(&self, key: &str, bytes: &[u8]) -> Result<(), IntakeError> {
        let target = self.target();
        let shown = target.as_directory().is_some()
            || match target.read(key, SMALL) {
                Err(err) if err.is_not_found() => false,
                other => other? == bytes,
            };
        if shown { Ok(()) } else { Err(not_there(target, key).into()) }
    }
}

fn not_there(target: &dyn Objects, key: &str) -> StorageError {
    let problem = "the storage says that it was put, and does not show it";
    StorageError::new("find", &target.place(key), io::Error::new(io::ErrorKind::NotConnected, problem))
}
