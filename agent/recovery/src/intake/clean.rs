//! What goes from cache storage when an epoch was taken in.
//!
//! The manifest goes last: as long as it is there, a further try removes what is left. Slots are granted ahead of need, so
//! one that the epoch does not name may belong to a later one, and stays. Deliberately not here: target storage.

use mobility_format::{
    Epoch, Generation,
    key::{CacheKey, cache_epoch_prefix},
    manifest::SignedManifest,
};

use super::{IntakeError, admit::Admission};

impl Admission<'_> {
    /// Removes the slots that the manifest names, then what [`Admission::clean_folders`] does.
    pub(super) fn clean_cache(&self, signed: &SignedManifest) -> Result<(), IntakeError> {
        let (machine, generation) = (self.intake.machine, self.generation);
        let named = signed.manifest.disks.iter().flat_map(|disk| &disk.segments);
        let slots = named.filter_map(|segment| segment.slot);
        let keys: Vec<String> =
            slots.map(|slot| CacheKey::Slot { machine, generation, slot }.to_string()).collect();
        if !keys.is_empty() {
            self.cache().remove(&keys)?;
        }
        self.clean_folders()
    }

    /// Nothing of an older generation, and nothing up to this epoch, will ever be taken in again.
    pub(super) fn clean_folders(&self) -> Result<(), IntakeError> {
        let machine = self.intake.machine;
        let top = format!("cache/{machine}");
        for name in self.cache().folders(&top)? {
            match name.parse().map(Generation) {
                Ok(generation) if generation < self.generation => {
                    self.cache().remove_below(&format!("{top}/{name}"))?;
                }
                Ok(generation) if generation == self.generation => {
                    self.clean_generation(&format!("{top}/{name}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn clean_generation(&self, folder: &str) -> Result<(), IntakeError> {
        for name in self.cache().folders(folder)? {
            if let Ok(epoch) = name.parse().map(Epoch)
                && epoch <= self.epoch
            {
                let prefix = cache_epoch_prefix(self.intake.machine, self.generation, epoch);
                debug_assert_eq!(prefix, format!("{folder}/{name}"));
                self.cache().remove_below(&prefix)?;
            }
        }
        Ok(())
    }
}
