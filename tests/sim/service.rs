//! A model of the recovery service and both storages: objects that are only ever created, generations, commits in order.
//!
//! What it does not do is judge: whether a committed point is what it says is the checks' business. Deliberately not here:
//! faults on the way to it.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use mobility_engine::CommitKind;
use mobility_format::{Epoch, Generation};

use crate::device::{Content, ZERO};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) disk: usize,
    pub(crate) session: u64,
    pub(crate) part: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) blocks: Vec<(u64, Content)>,
    pub(crate) damaged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestDisk {
    pub(crate) disk: usize,
    pub(crate) size: u64,
    pub(crate) missing: bool,
    pub(crate) keys: Vec<Key>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) session: u64,
    pub(crate) kind: CommitKind,
    pub(crate) disks: Vec<ManifestDisk>,
    /// When the scans that confirm it began, where nothing was tracked.
    pub(crate) confirming_since: u64,
}

impl Manifest {
    /// The moment that a consistent point says it shows; nothing if it is none.
    pub(crate) fn t0(&self) -> Option<u64> {
        let CommitKind::Point(figures) = &self.kind else { return None };
        let cut = u64::try_from(figures.cut.t0_us).unwrap_or(0);
        Some(if cut > 0 { cut } else { self.confirming_since })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Committed,
    /// It had been before, by the same manifest.
    Known,
    Superseded,
    Refused(String),
}

/// The content of each disk.
pub(crate) type Images = Vec<Vec<Content>>;

fn digest(images: &Images) -> u64 {
    let mut hasher = DefaultHasher::new();
    images.hash(&mut hasher);
    hasher.finish()
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    objects: BTreeMap<Key, Object>,
    pub(crate) generation: Generation,
    /// All commits in order, with the digest of what they restored to when they were made.
    pub(crate) committed: Vec<(Manifest, u64)>,
    /// What the last one restores to.
    pub(crate) images: Images,
}

impl Service {
    pub(crate) fn head(&self) -> Option<(Generation, Epoch)> {
        self.committed.last().map(|(manifest, _)| (manifest.generation, manifest.epoch))
    }

    /// Creates an object; one that exists already stays as it is.
    pub(crate) fn put(&mut self, key: Key, object: Object) {
        self.objects.entry(key).or_insert(object);
    }

    pub(crate) fn new_generation(&mut self) -> Generation {
        self.generation = Generation(self.generation.0 + 1);
        self.generation
    }

    pub(crate) fn commit(&mut self, manifest: &Manifest) -> Answer {
        let same = |(earlier, _): &&(Manifest, u64)| earlier.epoch == manifest.epoch;
        if self.committed.iter().rev().find(same).is_some_and(|(earlier, _)| earlier == manifest) {
            return Answer::Known;
        }
        if manifest.generation != self.generation {
            return Answer::Refused(format!("{} is not the current generation", manifest.generation));
        }
        let next = self.head().map_or(Epoch(1), |(_, epoch)| epoch.next());
        if manifest.epoch != next {
            return Answer::Superseded;
        }
        for disk in &manifest.disks {
            if disk.missing && !disk.keys.is_empty() {
                return Answer::Refused("a missing disk has segments".to_owned());
            }
            for key in &disk.keys {
                match self.objects.get(key) {
                    None => return Answer::Refused(format!("{key:?} is not there")),
                    Some(object) if object.damaged => return Answer::Refused(format!("{key:?} is damaged")),
                    Some(object) if object.blocks.iter().any(|&(block, _)| block >= disk.size) => {
                        return Answer::Refused(format!("{key:?} reaches beyond the disk"));
                    }
                    Some(_) => {}
                }
            }
        }
        let images = std::mem::take(&mut self.images);
        self.images = self.apply(images, manifest);
        self.committed.push((manifest.clone(), digest(&self.images)));
        Answer::Committed
    }

    /// What `manifest` restores to after `images`.
    fn apply(&self, mut images: Images, manifest: &Manifest) -> Images {
        for disk in manifest.disks.iter().filter(|disk| !disk.missing) {
            if images.len() <= disk.disk {
                images.resize(disk.disk + 1, Vec::new());
            }
            let image = &mut images[disk.disk];
            image.resize(disk.size as usize, ZERO);
            for object in disk.keys.iter().filter_map(|key| self.objects.get(key)) {
                for &(block, content) in &object.blocks {
                    image[block as usize] = content;
                }
            }
        }
        images
    }

    /// Restores every commit from the objects alone. The first that is not what it was when it was made.
    pub(crate) fn changed_past(&self) -> Option<Epoch> {
        let mut images = Images::new();
        for (manifest, made) in &self.committed {
            images = self.apply(images, manifest);
            if digest(&images) != *made {
                return Some(manifest.epoch);
            }
        }
        None
    }
}
