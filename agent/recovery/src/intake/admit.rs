//! One epoch's way from cache into target storage.
//!
//! Deliberately not here: what holds between epochs (`Intake`).

use std::{fs::File, io, path::Path};

use jiff::Timestamp;
use mobility_format::{
    Digest, Epoch, Generation,
    key::{CacheKey, TargetKey, cache_epoch_prefix},
    manifest::{DiskState, SignedManifest},
    segment::SegmentError,
};

use super::{
    Intake, IntakeError,
    check::{check_content, open},
};
use crate::{
    Head, HeadDisk,
    content::SegmentSource,
    keys::ObjectKey,
    records::{Received, Record},
    storage::{self, Entry, StorageError},
};

pub(super) struct Admission<'a> {
    pub(super) intake: &'a Intake,
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
}

/// A segment, where it is and where it goes.
struct Move {
    key: CacheKey,
    target: TargetKey,
    source: SegmentSource,
    previous: Digest,
}

impl Admission<'_> {
    pub(super) fn run(&self, received: Timestamp) -> Result<Head, IntakeError> {
        let key = self.manifest_key();
        let path = self.intake.vault.path_of(&key);
        let bytes = match storage::read_small(&path) {
            Err(err) if err.is_not_found() => return self.already_there(None),
            other => other?,
        };
        let signed =
            SignedManifest::parse(&bytes).map_err(|source| IntakeError::DamagedManifest { key, source })?;
        if self.intake.head.as_ref().is_some_and(|head| head.epoch >= self.epoch) {
            return self.already_there(Some(signed.digest));
        }
        self.check_origin(&signed)?;
        let moves = self.check_segments(&signed)?;
        self.move_segments(&moves)?;
        self.put_manifest(&signed, &bytes, received)?;
        self.clean_up(&moves)?;
        Ok(self.new_head(&signed))
    }

    fn manifest_key(&self) -> CacheKey {
        CacheKey::Manifest { machine: self.intake.machine, generation: self.generation, epoch: self.epoch }
    }

    fn stale(&self, reason: String) -> IntakeError {
        IntakeError::Stale { generation: self.generation, epoch: self.epoch, reason }
    }

    /// The epoch was taken in before. Content where it is this very manifest; what is left in cache storage goes.
    fn already_there(&self, digest: Option<Digest>) -> Result<Head, IntakeError> {
        match &self.intake.head {
            Some(head) if head.epoch == self.epoch && head.generation == self.generation => {
                if digest.is_some_and(|digest| digest != head.digest) {
                    return Err(self.stale("another manifest has been taken in for this epoch".to_owned()));
                }
                self.clean_cache()?;
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
        let newest = self.intake.record()?.generation;
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

    fn check_segments(&self, signed: &SignedManifest) -> Result<Vec<Move>, IntakeError> {
        let mut moves = Vec::new();
        for disk in &signed.manifest.disks {
            if disk.segments.windows(2).any(|pair| pair[0].part >= pair[1].part) {
                let reason = format!("the parts of disk {} are not in order", disk.id);
                return Err(IntakeError::Forged { key: self.manifest_key(), reason });
            }
            self.moves_of(disk, &mut moves);
        }
        for step in &moves {
            self.check_segment(step)?;
        }
        Ok(moves)
    }

    fn moves_of(&self, disk: &DiskState, moves: &mut Vec<Move>) {
        let (machine, generation, epoch) = (self.intake.machine, self.generation, self.epoch);
        let known =
            self.intake.head.as_ref().and_then(|head| head.disks.iter().find(|known| known.id == disk.id));
        let mut previous = known.map_or(Digest::NONE, |known| known.last_segment);
        for named in &disk.segments {
            let (session, part, disk) = (named.session, named.part, disk.id);
            moves.push(Move {
                key: CacheKey::Segment { machine, generation, epoch, disk, session, part },
                target: TargetKey::Segment { machine, epoch, disk, session, part },
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

    /// Checks a segment where it is: in cache storage, or in target storage where an earlier try has moved it.
    fn check_segment(&self, step: &Move) -> Result<(), IntakeError> {
        let vault = &self.intake.vault;
        let cached = vault.path_of(&step.key);
        let in_cache = cached.exists();
        let path = if in_cache { cached } else { vault.path_of(&step.target) };
        let verified =
            in_cache && self.intake.verified.contains(&(step.key.to_string(), step.source.named.digest));
        let previous = match verified {
            true => open(step.key, &path)?.header().previous,
            false => check_content(step.key, &step.source, &path)?,
        };
        if previous == step.previous {
            return Ok(());
        }
        let (found, expected) = (previous.to_string(), step.previous.to_string());
        let source = Box::new(SegmentError::Misplaced { what: "previous segment", found, expected });
        Err(IntakeError::Damaged { key: step.key, source })
    }

    fn move_segments(&self, moves: &[Move]) -> Result<(), IntakeError> {
        let Some(first) = moves.first() else { return Ok(()) };
        let (vault, files) = (&self.intake.vault, &self.intake.vault.files);
        let first_path = vault.path_of(&first.target);
        let dir = first_path.parent().unwrap_or(vault.root());
        files.create_dirs(dir)?;
        for step in moves {
            let (from, to) = (vault.path_of(&step.key), vault.path_of(&step.target));
            match files.rename(&from, &to) {
                Err(err) if err.is_not_found() && to.exists() => {}
                Err(err) if err.source.kind() == io::ErrorKind::CrossesDevices => {
                    self.copy(step, &from, &to)?
                }
                other => other?,
            }
        }
        Ok(files.sync_dir(dir)?)
    }

    /// Where cache and target are on different file systems. What was written is read again before it counts.
    fn copy(&self, step: &Move, from: &Path, to: &Path) -> Result<(), IntakeError> {
        let dir = to.parent().unwrap_or(Path::new("."));
        let mut temporary = self.intake.vault.files.temporary(dir)?;
        let copied = File::open(from).and_then(|mut from| io::copy(&mut from, &mut temporary.file));
        copied.map_err(|err| StorageError::new("copy", from, err))?;
        check_content(step.key, &step.source, &temporary.path)?;
        Ok(temporary.publish(to, true)?)
    }

    fn put_manifest(
        &self,
        signed: &SignedManifest,
        bytes: &[u8],
        received: Timestamp,
    ) -> Result<(), IntakeError> {
        let (vault, machine, epoch) = (&self.intake.vault, self.intake.machine, self.epoch);
        let record = Received { machine, epoch, manifest: signed.digest, received };
        let path = vault.path_of(&ObjectKey::Received { machine, epoch });
        let sealed = record.seal().map_err(|err| StorageError::new("write", &path, io::Error::other(err)))?;
        vault.files.replace(&path, &sealed)?;
        let path = vault.path_of(&TargetKey::Manifest { machine, epoch });
        match vault.files.put_new(&path, bytes) {
            // Put by a try of which we were never told that it had succeeded.
            Err(err) if err.is_already_there() && storage::read_small(&path)? == bytes => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes what became superfluous: segments that an earlier try of the epoch left in target storage, and what is
    /// left in cache storage.
    fn clean_up(&self, moves: &[Move]) -> Result<(), IntakeError> {
        let vault = &self.intake.vault;
        let dir = vault.target_dir(self.intake.machine).join(format!("segments/{:020}", self.epoch.0));
        let named: Vec<_> = moves.iter().map(|step| vault.path_of(&step.target)).collect();
        for (name, _) in storage::list(&dir)? {
            let path = dir.join(name);
            if !named.contains(&path) {
                vault.files.remove(&path)?;
            }
        }
        self.clean_cache()
    }

    /// Nothing of an older generation, and nothing up to this epoch, will ever be taken in again.
    fn clean_cache(&self) -> Result<(), IntakeError> {
        let vault = &self.intake.vault;
        let cache = vault.cache_dir(self.intake.machine);
        for (name, kind) in storage::list(&cache)? {
            let dir = cache.join(&name);
            match name.parse().map(Generation) {
                Ok(generation) if generation < self.generation && kind == Entry::Directory => {
                    vault.files.remove_tree(&dir)?;
                }
                Ok(generation) if generation == self.generation => self.clean_generation(&dir)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn clean_generation(&self, dir: &Path) -> Result<(), IntakeError> {
        for (name, kind) in storage::list(dir)? {
            let old = name.parse().is_ok_and(|epoch| Epoch(epoch) <= self.epoch);
            if old && kind == Entry::Directory {
                self.intake.vault.files.remove_tree(&dir.join(&name))?;
            }
        }
        debug_assert!(!self.intake.vault.path_of(&self.epoch_prefix()).exists());
        Ok(())
    }

    fn epoch_prefix(&self) -> String {
        cache_epoch_prefix(self.intake.machine, self.generation, self.epoch)
    }

    fn new_head(&self, signed: &SignedManifest) -> Head {
        let manifest = &signed.manifest;
        let mut disks = self.intake.head.as_ref().map_or(Vec::new(), |head| head.disks.clone());
        disks.iter_mut().for_each(|disk| disk.present = false);
        for state in &manifest.disks {
            let position = disks.binary_search_by_key(&state.id, |disk| disk.id);
            let at = position.unwrap_or_else(|at| {
                let (id, name, size) = (state.id, state.name.clone(), state.size);
                disks.insert(at, HeadDisk { id, name, size, last_segment: Digest::NONE, present: true });
                at
            });
            let disk = &mut disks[at];
            (disk.name, disk.size, disk.present) = (state.name.clone(), state.size, true);
            if let Some(last) = state.segments.last() {
                disk.last_segment = last.digest;
            }
        }
        Head { generation: manifest.generation, epoch: manifest.epoch, digest: signed.digest, disks }
    }
}
