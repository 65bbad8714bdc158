//! Checks that what is stored is what was stored: everything of a machine, or all that one point needs.
//!
//! Goes on after the first damage: it tells of each damaged or missing object where it is damaged and which points it
//! affects. A point counts as affected as soon as it is made up of a damaged segment, also where later segments have
//! replaced just the damaged part. Deliberately not here: any repair.

use std::{path::PathBuf, sync::Arc};

use mobility_format::{
    BLOCK_SIZE, ByteCount, DiskId, Epoch, WINDOW_SIZE,
    segment::{ExtentDecoder, Kind},
};

use crate::{
    Catalog, Damage, PointId,
    catalog::Step,
    content::{ContentError, ObjectPool, OpenSegment, SegmentSource, check_names},
    inventory::{Inventory, needed},
    keys::ObjectKey,
    storage::{Reading, StorageError, StorageErrorKind},
};

/// An object that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedObject {
    /// Which.
    pub key: ObjectKey,
    /// What is wrong, and where in it.
    pub problem: String,
    /// Whether it is not there at all.
    pub missing: bool,
    /// The points that cannot be restored any more, or not wholly.
    pub points: Vec<PointId>,
}

/// Something remarkable that does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which file.
    pub path: PathBuf,
    /// What is remarkable.
    pub remark: &'static str,
}

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// How many objects were checked.
    pub objects: u64,
    /// How many bytes were read to check them.
    pub bytes: ByteCount,
    /// What is damaged or missing.
    pub damaged: Vec<DamagedObject>,
    /// What else was found.
    pub notes: Vec<Note>,
}

/// Verifies everything of a machine, or what one manifest needs; of the latter each extent is decoded as well. Load the
/// catalog with [`Catalog::load_locked`].
///
/// # Errors
/// When target storage cannot be listed or reached. What goes wrong with a single object is in the report.
pub fn verify(
    catalog: &Catalog,
    only: Option<Epoch>,
    mut progress: impl FnMut(&VerifyReport),
) -> Result<VerifyReport, StorageError> {
    let mut report = VerifyReport::default();
    for damage in catalog.damage() {
        if only.is_none_or(|epoch| affects(catalog, damage, epoch)) {
            report.damaged.push(describe(catalog, damage));
        }
    }
    report.objects = catalog.manifests.len() as u64 + catalog.runs.len() as u64 + catalog.merges.len() as u64;
    let pool = ObjectPool::new(&catalog.stores, Reading::Whole);
    for (&disk, chain) in &catalog.chains {
        let ends: Vec<Epoch> = match only {
            Some(epoch) => vec![epoch],
            None => catalog.manifests.keys().copied().collect(),
        };
        for step in chain.steps_to(ends.into_iter()) {
            for source in catalog.step_content(disk, step).1 {
                check_segment(catalog, disk, step, &source, &pool, only.is_some(), &mut report)?;
                progress(&report);
            }
        }
    }
    if only.is_none() {
        take_notes(catalog, &mut report)?;
    }
    report.damaged.sort_by_key(|object| (object.key.last_epoch(), object.key));
    Ok(report)
}

fn affects(catalog: &Catalog, damage: &Damage, epoch: Epoch) -> bool {
    let unusable = catalog.problem(epoch).is_some();
    let disks = catalog.manifest(epoch).map_or(&[][..], |signed| &signed.manifest.disks);
    unusable && disks.iter().any(|disk| catalog.matters(damage, disk.id, epoch))
}

fn describe(catalog: &Catalog, damage: &Damage) -> DamagedObject {
    let points = catalog.points().filter(|point| affects(catalog, damage, point.epoch()));
    DamagedObject {
        key: damage.key,
        problem: damage.problem.clone(),
        missing: damage.missing,
        points: points.map(|point| point.id).collect(),
    }
}

fn check_segment(
    catalog: &Catalog,
    disk: DiskId,
    step: Step,
    source: &SegmentSource,
    pool: &Arc<ObjectPool>,
    decode: bool,
    report: &mut VerifyReport,
) -> Result<(), StorageError> {
    report.objects += 1;
    let checked = source.open(pool).and_then(|segment| {
        report.bytes.0 += segment.reader.length();
        check_names(&segment.reader, &source.named).map_err(|err| segment.failed(err))?;
        segment.reader.check_payload().map_err(|err| segment.failed(err))?;
        if decode { decode_all(&segment) } else { Ok(()) }
    });
    let (problem, missing) = match checked {
        Ok(()) => return Ok(()),
        // What cannot be reached is not damaged.
        Err(ContentError::Storage(err)) if err.kind() == StorageErrorKind::Unavailable => return Err(err),
        Err(ContentError::Missing { .. }) => ("missing".to_owned(), true),
        Err(ContentError::Damaged { source, .. }) => (source.to_string(), false),
        Err(other) => (other.to_string(), false),
    };
    let points = catalog.points_using(disk, step.last);
    report.damaged.push(DamagedObject { key: source.key(), problem, missing, points });
    Ok(())
}

fn decode_all(segment: &OpenSegment) -> Result<(), ContentError> {
    let out_of_memory = |err| StorageError::new("get working memory to decompress", "zstd".as_ref(), err);
    let mut decoder = ExtentDecoder::new().map_err(out_of_memory)?;
    let (mut stored, mut plain) = (Vec::new(), vec![0; WINDOW_SIZE]);
    for entry in segment.reader.entries() {
        let entry = entry.map_err(|err| segment.failed(err))?;
        if entry.kind != Kind::Zero {
            let plain = &mut plain[..entry.count as usize * BLOCK_SIZE];
            let read = segment.reader.read_extent(&entry, &mut decoder, &mut stored, plain);
            read.map_err(|err| segment.failed(err))?;
        }
    }
    Ok(())
}

/// Files that nobody needs or knows.
fn take_notes(catalog: &Catalog, report: &mut VerifyReport) -> Result<(), StorageError> {
    let mut expected = needed(catalog);
    expected.extend(report.damaged.iter().map(|object| object.key));
    expected.insert(ObjectKey::Machine { machine: catalog.machine() });
    let all = Inventory::of(catalog)?;
    let superfluous = all.objects.into_iter().filter(|object| !expected.contains(&object.key));
    let note = |remark| move |key: String| Note { path: catalog.stores.target().place(&key), remark };
    let superfluous = superfluous.map(|object| object.key.to_string());
    report.notes.extend(superfluous.map(note("no point needs it; pruning removes it")));
    let unfinished = all.unfinished.into_iter().map(|listed| listed.key);
    report.notes.extend(unfinished.map(note("was never finished; pruning removes it")));
    report.notes.extend(all.foreign.into_iter().map(note("is no object of a vault")));
    Ok(())
}
