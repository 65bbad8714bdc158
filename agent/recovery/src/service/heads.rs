//! The newest commit of a machine: what was taken in, and what follows it in cache storage.
//!
//! Everything here blocks. Deliberately not here: taking anything in.

use mobility_format::{
    Digest, Epoch, Generation, Head, MachineId, PublicKey,
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
    head: Option<Head>,
) -> Result<Option<Head>, StorageError> {
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
        head = Some(Head::after(head.as_ref(), &signed));
    }
    Ok(head)
}
