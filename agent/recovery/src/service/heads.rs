//! The newest commit of a machine: what was taken in, and what follows it in cache storage.
//!
//! Everything here blocks. Deliberately not here: taking anything in.

use mobility_format::{
    Digest, Epoch, Generation, MachineId, PublicKey,
    control::{HeadDisk, StoredHead},
    key::{CacheKey, TargetKey},
    manifest::SignedManifest,
};

use crate::{
    StorageError,
    storage::{SMALL, Stores},
};

/// How many commits that were not taken in yet are followed at once.
const MOST_FOLLOWED: u64 = 20_000;

/// A manifest as cache storage has it, if there is one.
pub(crate) fn in_cache(
    stores: &Stores,
    machine: MachineId,
    generation: Generation,
    epoch: Epoch,
) -> Result<Option<Vec<u8>>, StorageError> {
    let key = CacheKey::Manifest { machine, generation, epoch };
    there(stores.cache().read(&key.to_string(), SMALL))
}

/// A manifest as target storage has it, if there is one.
pub(crate) fn in_target(
    stores: &Stores,
    machine: MachineId,
    epoch: Epoch,
) -> Result<Option<Vec<u8>>, StorageError> {
    there(stores.target().read(&TargetKey::Manifest { machine, epoch }.to_string(), SMALL))
}

fn there(read: Result<Vec<u8>, StorageError>) -> Result<Option<Vec<u8>>, StorageError> {
    match read {
        Err(err) if err.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// The head after what follows `head` link by link in cache storage.
pub(crate) fn follow(
    stores: &Stores,
    machine: MachineId,
    key: PublicKey,
    generation: Generation,
    head: Option<StoredHead>,
) -> Result<Option<StoredHead>, StorageError> {
    let mut head = head;
    for _ in 0..MOST_FOLLOWED {
        let epoch = head.as_ref().map_or(Epoch(1), |head| head.epoch.next());
        // It is put into target storage before it is removed from cache storage: looked for in this order it is found.
        let bytes = match in_cache(stores, machine, generation, epoch)? {
            None => in_target(stores, machine, epoch)?,
            bytes => bytes,
        };
        let Some(signed) = bytes.and_then(|bytes| SignedManifest::parse(&bytes).ok()) else { break };
        let (manifest, digest) = (&signed.manifest, head.as_ref().map_or(Digest::NONE, |head| head.digest));
        let follows = signed.key == key
            && manifest.machine == machine
            && manifest.generation == generation
            && manifest.epoch == epoch
            && manifest.previous == digest;
        if !follows {
            break;
        }
        head = Some(next(head, &signed));
    }
    Ok(head)
}

/// The head that a manifest makes of the one before it.
pub(crate) fn next(head: Option<StoredHead>, signed: &SignedManifest) -> StoredHead {
    let manifest = &signed.manifest;
    let mut disks = head.map_or(Vec::new(), |head| head.disks);
    disks.iter_mut().for_each(|disk| disk.present = false);
    for state in &manifest.disks {
        let at = disks.binary_search_by_key(&state.id, |disk| disk.id).unwrap_or_else(|at| {
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
    StoredHead {
        generation: manifest.generation,
        epoch: manifest.epoch,
        digest: signed.digest,
        previous: manifest.previous,
        disks,
    }
}

/// The head as the intake has it, with what its manifest names as the one before.
pub(crate) fn of_intake(head: &crate::Head, previous: Digest) -> StoredHead {
    let disks = head.disks.iter().map(|disk| HeadDisk {
        id: disk.id,
        name: disk.name.clone(),
        size: disk.size,
        last_segment: disk.last_segment,
        present: disk.present,
    });
    StoredHead {
        generation: head.generation,
        epoch: head.epoch,
        digest: head.digest,
        previous,
        disks: disks.collect(),
    }
}
