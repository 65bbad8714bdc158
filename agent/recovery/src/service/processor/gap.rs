//! Commits that are not there while later ones are.
//!
//! An agent commits in order, so a store has lost the one that is missing. As long as the agent remembers it, it puts it again when
//! it hears so; and it may have heard that the commit was there before it was lost. Then nobody would ever ask again, and all that
//! follows would wait for good. Deliberately not here: what the machine is told then (`doubt`).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mobility_format::{
    Epoch, Generation, MachineId,
    key::{CacheKey, cache_epoch_prefix},
};

use crate::{StorageError, storage::Stores};

/// Machines that are remembered.
const MOST: usize = 4096;

/// What is missing of which machine, and since when this instance knows.
#[derive(Default)]
pub(in crate::service) struct Gaps(Mutex<HashMap<MachineId, (Generation, Epoch, Instant)>>);

impl Gaps {
    /// Nothing is missing.
    pub(super) fn forget(&self, machine: MachineId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&machine);
    }

    /// An epoch is missing. Whether it has been for as long as the agent gets to put it again.
    pub(super) fn lasts(
        &self,
        machine: MachineId,
        (generation, epoch): (Generation, Epoch),
        patience: Duration,
        now: Instant,
    ) -> bool {
        let mut gaps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gaps.len() >= MOST && !gaps.contains_key(&machine) {
            let oldest = gaps.iter().min_by_key(|(_, (.., since))| *since).map(|(machine, _)| *machine);
            oldest.map(|oldest| gaps.remove(&oldest));
        }
        let known = gaps.entry(machine).or_insert((generation, epoch, now));
        if (known.0, known.1) != (generation, epoch) {
            *known = (generation, epoch, now);
        }
        now.saturating_duration_since(known.2) >= patience
    }
}

/// The first epoch after `missing` that was committed, if there is one. Unless it is looked for `thoroughly`, only the next one is asked
/// for: that is what one lost commit looks like, and it costs one question where a list may cost many.
pub(super) fn after(
    stores: &Stores,
    machine: MachineId,
    generation: Generation,
    missing: Epoch,
    thoroughly: bool,
) -> Result<Option<Epoch>, StorageError> {
    let is_there = |epoch: Epoch| {
        let key = CacheKey::Manifest { machine, generation, epoch };
        Ok::<_, StorageError>(stores.cache().size(&key.to_string())?.is_some())
    };
    if is_there(missing.next())? {
        return Ok(Some(missing.next()));
    }
    if !thoroughly {
        return Ok(None);
    }
    let prefix = cache_epoch_prefix(machine, generation, missing);
    let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    let epochs = stores.cache().folders(folder)?;
    for epoch in epochs.iter().filter_map(|name| name.parse().ok().map(Epoch)) {
        if epoch > missing && is_there(epoch)? {
            return Ok(Some(epoch));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_for_one_gap_and_begins_anew_with_the_next() {
        let (gaps, start, patience) = (Gaps::default(), Instant::now(), Duration::from_secs(60));
        let machine = MachineId([1; 16]);
        let lasts = |generation, epoch, after| {
            gaps.lasts(
                machine,
                (Generation(generation), Epoch(epoch)),
                patience,
                start + Duration::from_secs(after),
            )
        };
        assert!(!lasts(1, 5, 0) && !lasts(1, 5, 59) && lasts(1, 5, 60));
        assert!(!lasts(1, 6, 61), "the one before was put again, another is missing");
        assert!(!lasts(2, 6, 130), "a new generation began");
        gaps.forget(machine);
        assert!(!lasts(2, 6, 300), "it was there meanwhile");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (gaps, start) = (Gaps::default(), Instant::now());
        for number in 0..=MOST as u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            gaps.lasts(
                MachineId(id),
                (Generation(1), Epoch(1)),
                Duration::MAX,
                start + Duration::from_secs(number),
            );
        }
        assert_eq!(gaps.0.lock().unwrap().len(), MOST);
        assert!(!gaps.0.lock().unwrap().contains_key(&MachineId([0; 16])), "the oldest goes");
    }
}
