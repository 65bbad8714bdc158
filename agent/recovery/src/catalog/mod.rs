//! What recovery points a machine has, and what each of them is made of.
//!
//! Everything is read from the objects themselves, so the catalog needs no database and cannot disagree with them. A
//! damaged object makes only the points unusable that need it.
//!
//! **What is checked of the chain.** Every manifest that is there verbatim, as the machine signed it: its signature, the
//! machine's key, that it lies under its own epoch. Where the manifests of two neighbouring epochs are both there, the
//! later one must name the earlier one's digest; if not, the earlier one is taken for replaced, because the later, signed
//! one vouches for another. After pruning most neighbours are gone; an epoch may be absent only where a merge covers it,
//! and the merge's record names the digests of the manifest that it ends with and of each disk's run. So a manifest that
//! was removed or exchanged behind the service's back is noticed as long as something beside it is left. The newest
//! manifest has no successor yet: that it was cut off is noticed by the agent, whose head it was.
//!
//! Deliberately not here: the content of segments (`content`), and which points to keep (`ladder`).

mod chain;
mod head;
mod load;
mod point;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mobility_format::{
    ByteCount, Digest, DiskId, Epoch, MachineId,
    key::TargetKey,
    manifest::{DiskState, Run, SignedManifest},
};

pub(crate) use chain::{Chain, Step, StepKind};
pub use point::{Point, PointId};

use crate::{
    content::{ContentError, Layer, SegmentSource},
    keys::ObjectKey,
    records::{MachineRecord, Merge},
    storage::{Lock, LockError, StorageError, Stores},
};

/// Something that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which object.
    pub key: ObjectKey,
    /// What is wrong with it, and where.
    pub problem: String,
    /// Whether it is not there at all.
    pub missing: bool,
}

/// A manifest in target storage.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) signed: SignedManifest,
    /// When the service took it in.
    pub(crate) received: Timestamp,
}

/// A run in target storage.
#[derive(Clone, Debug)]
pub(crate) struct StoredRun {
    pub(crate) run: Run,
    /// The digest of the object.
    pub(crate) digest: Digest,
}

/// All manifests and runs of a machine, as they were when it was loaded. It does not hold any content.
#[derive(Debug)]
pub struct Catalog {
    pub(crate) stores: Stores,
    pub(crate) machine: MachineId,
    pub(crate) record: Option<MachineRecord>,
    pub(crate) manifests: BTreeMap<Epoch, Stored>,
    /// By disk, last epoch, first epoch.
    pub(crate) runs: BTreeMap<(DiskId, Epoch, Epoch), StoredRun>,
    /// By last epoch, first epoch.
    pub(crate) merges: BTreeMap<(Epoch, Epoch), Merge>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) chains: BTreeMap<DiskId, Chain>,
    /// While it is held nothing of the machine is removed.
    #[expect(dead_code, reason = "dropping it releases the lock")]
    pub(crate) lock: Option<Lock>,
}

impl Catalog {
    /// Reads the catalog of `machine`. What is damaged is left out, and told by [`Catalog::damage`].
    ///
    /// # Errors
    /// When target storage cannot be listed or reached.
    pub fn load(stores: &Stores, machine: MachineId) -> Result<Catalog, StorageError> {
        load::load(stores, machine)
    }

    /// As [`Catalog::load`], and keeps everything of the machine from being removed until the catalog is dropped.
    ///
    /// # Errors
    /// When target storage cannot be listed or reached, or another process removes objects and does not come to an end.
    pub fn load_locked(stores: &Stores, machine: MachineId) -> Result<Catalog, LockError> {
        let lock = stores.nothing_goes(machine)?;
        Ok(Catalog { lock: Some(lock), ..load::load(stores, machine)? })
    }

    /// Whose catalog it is.
    #[must_use]
    pub fn machine(&self) -> MachineId {
        self.machine
    }

    /// What was found damaged or missing. Segments are not looked at here.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The recovery points, oldest first, also those that cannot be restored because something they need is damaged.
    pub fn points(&self) -> impl DoubleEndedIterator<Item = Point<'_>> {
        self.manifests.values().filter_map(|stored| {
            stored.signed.manifest.consistency().map(|consistency| Point {
                id: PointId::of(&stored.signed),
                signed: &stored.signed,
                received: stored.received,
                consistency,
                problem: self.problem(stored.signed.manifest.epoch),
            })
        })
    }

    /// The point or checkpoint of an epoch.
    #[must_use]
    pub fn manifest(&self, epoch: Epoch) -> Option<&SignedManifest> {
        self.manifests.get(&epoch).map(|stored| &stored.signed)
    }

    /// Why the manifest of `epoch` cannot be restored, as far as that is known without looking into segments.
    #[must_use]
    pub fn problem(&self, epoch: Epoch) -> Option<String> {
        let manifest = &self.manifests.get(&epoch)?.signed.manifest;
        manifest.disks.iter().find_map(|disk| self.disk_problem(disk.id, epoch))
    }

    fn disk_problem(&self, disk: DiskId, epoch: Epoch) -> Option<String> {
        if self.chains.get(&disk).is_some_and(|chain| chain.reaches(epoch)) {
            return None;
        }
        let cause = self.damage.iter().find(|damage| self.matters(damage, disk, epoch));
        Some(match cause {
            Some(damage) => format!("it needs {}, which is {}", damage.key, damage.problem),
            None => format!("something that its disk {disk} needs is not there"),
        })
    }

    /// Whether the damaged object may be the reason that `disk` has no content at `epoch`.
    pub(crate) fn matters(&self, damage: &Damage, disk: DiskId, epoch: Epoch) -> bool {
        let of_the_disk = match damage.key {
            ObjectKey::Target(TargetKey::Manifest { .. }) | ObjectKey::Merge { .. } => true,
            ObjectKey::Target(TargetKey::Run { disk: of, .. }) => of == disk,
            _ => false,
        };
        of_the_disk && damage.key.last_epoch().is_some_and(|last| last <= epoch)
    }

    /// What makes up `disk` at `epoch`, oldest first: where two layers say something of a block, the later one counts.
    ///
    /// # Errors
    /// [`ContentError::Unusable`] where something of it is damaged or missing.
    pub(crate) fn layers(&self, disk: DiskId, epoch: Epoch) -> Result<Vec<Layer>, ContentError> {
        let path = self.chains.get(&disk).and_then(|chain| chain.path(Epoch(0), epoch));
        path.map(|steps| self.layers_of(disk, &steps, None)).ok_or_else(|| ContentError::Unusable {
            disk,
            epoch,
            reason: self.disk_problem(disk, epoch).unwrap_or_else(|| "it was not protected then".to_owned()),
        })
    }

    /// Whether what makes up `disk` at `epoch` needs this object.
    #[cfg(feature = "service")]
    pub(crate) fn needs(&self, disk: DiskId, epoch: Epoch, object: ObjectKey) -> bool {
        let path = self.chains.get(&disk).and_then(|chain| chain.path(Epoch(0), epoch)).unwrap_or_default();
        path.iter().any(|step| self.step_content(disk, *step).1.iter().any(|segment| segment.key() == object))
    }

    /// Links up the chains of all disks from the manifests, runs and merges that there are.
    pub(crate) fn link_chains(&mut self) {
        let in_manifests = self.manifests.values().flat_map(|stored| &stored.signed.manifest.disks);
        let disks = in_manifests.map(|disk| disk.id).chain(self.runs.keys().map(|(disk, ..)| *disk));
        let disks: BTreeSet<DiskId> = disks.collect();
        self.chains = disks.into_iter().map(|disk| (disk, Chain::link(Epoch(0), self.steps(disk)))).collect();
    }

    /// All steps that there are of a disk.
    pub(crate) fn steps(&self, disk: DiskId) -> Vec<Step> {
        let epochs =
            self.manifests.keys().map(|&epoch| Step { last: epoch, first: epoch, kind: StepKind::Epoch });
        let runs = self.runs.range((disk, Epoch(0), Epoch(0))..=(disk, Epoch(u64::MAX), Epoch(u64::MAX)));
        let runs = runs.map(|(&(_, last, first), _)| Step { last, first, kind: StepKind::Run });
        let without =
            self.merges.iter().filter(|(_, merge)| merge.disks.iter().all(|merged| merged.id != disk));
        let without = without.map(|(&(last, first), _)| Step { last, first, kind: StepKind::Nothing });
        epochs.chain(runs).chain(without).collect()
    }

    /// The layers of the given steps, of a disk that had the size `before` them.
    pub(crate) fn layers_of(&self, disk: DiskId, steps: &[Step], before: Option<ByteCount>) -> Vec<Layer> {
        let mut layers = Vec::new();
        let mut size = before;
        for step in steps {
            let (new_size, segments) = self.step_content(disk, *step);
            // What lay behind the end of a disk that shrank is gone, also when it grows again.
            if let (Some(old), Some(new)) = (size, new_size)
                && new.blocks() < old.blocks()
            {
                layers.push(Layer::cleared(new, old));
            }
            size = new_size.or(size);
            layers.extend(segments.into_iter().map(Layer::Segment));
        }
        layers
    }

    /// The disk's size at the end of the given steps, as far as they tell.
    pub(crate) fn size_after(&self, disk: DiskId, steps: &[Step]) -> Option<ByteCount> {
        steps.iter().rev().find_map(|step| self.step_content(disk, *step).0)
    }

    /// The disk's size at the end of a step, where that is known, and the segments of the step.
    pub(crate) fn step_content(&self, disk: DiskId, step: Step) -> (Option<ByteCount>, Vec<SegmentSource>) {
        let (machine, first, last) = (self.machine, step.first, step.last);
        let source = |generation, named| SegmentSource { machine, disk, generation, first, last, named };
        match step.kind {
            StepKind::Epoch => {
                let manifest = self.manifests.get(&step.last).map(|stored| &stored.signed.manifest);
                let Some((manifest, state)) = manifest.and_then(|m| Some((m, m.disk(disk)?))) else {
                    return (None, Vec::new());
                };
                let segments = state.segments.iter().map(|named| source(Some(manifest.generation), *named));
                (Some(state.size), segments.collect())
            }
            StepKind::Run => match self.runs.get(&(disk, step.last, step.first)) {
                Some(StoredRun { run, .. }) => {
                    (Some(run.size), run.segments.iter().map(|named| source(None, *named)).collect())
                }
                None => (None, Vec::new()),
            },
            StepKind::Nothing => (None, Vec::new()),
        }
    }

    /// The points whose content of `disk` takes in the step that ends at `last`.
    #[must_use]
    pub(crate) fn points_using(&self, disk: DiskId, last: Epoch) -> Vec<PointId> {
        let Some(chain) = self.chains.get(&disk) else { return Vec::new() };
        let using = chain.all_that_use(last);
        let points = self.points().filter(|point| {
            using.contains(&point.epoch()) && point.manifest().disks.iter().any(|state| state.id == disk)
        });
        points.map(|point| point.id).collect()
    }

    /// A disk of a manifest, by its id, the beginning of its id, or its name.
    ///
    /// # Errors
    /// How many disks are meant, where it is not one.
    pub fn find_disk<'a>(disks: &'a [DiskState], what: &str) -> Result<&'a DiskState, usize> {
        let exact = disks.iter().filter(|disk| disk.name == what || disk.id.to_string() == what);
        let found: Vec<_> = exact.collect();
        if let [one] = found[..] {
            return Ok(one);
        }
        let by_prefix = |disk: &&DiskState| {
            let base = disk.name.rsplit('/').next().unwrap_or_default();
            base == what || (!what.is_empty() && disk.id.to_string().starts_with(what))
        };
        let found: Vec<_> = disks.iter().filter(by_prefix).collect();
        if let [one] = found[..] { Ok(one) } else { Err(found.len()) }
    }
}
