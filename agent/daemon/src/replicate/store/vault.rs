//! The vault of debug mode: both storages in one directory, and the service's part done here.
//!
//! Deliberately not here: the vault itself, and the intake (`mobility_recovery`).

use std::sync::{Arc, Mutex};

use mobility_capture::scan::Expected;
use mobility_engine::{CommitFault, Fault};
use mobility_format::{BlockIndex, DiskId, Generation, Head, MachineId, PublicKey};
use mobility_recovery::{
    Catalog, Intake, IntakeError, Vault, WindowContent, WindowReader, block_digests, verify_segment,
};

use super::{Newest, NotKnown, Store, WindowVisitor};
use crate::replicate::{
    commit::{self, Prepared},
    fault,
    pack::{Sealed, lock},
};

/// A vault with its intake.
pub(crate) struct VaultStore {
    vault: Vault,
    intake: Mutex<Intake>,
    content: Mutex<Content>,
}

/// What the head holds of the machine's disks, opened when it is first asked for.
struct Content {
    machine: MachineId,
    catalog: Option<Catalog>,
    windows: Vec<(DiskId, WindowReader)>,
}

impl VaultStore {
    /// Takes in what an earlier run had committed.
    pub(crate) fn open(
        vault: &Vault,
        machine: MachineId,
        key: PublicKey,
    ) -> Result<(VaultStore, Newest), IntakeError> {
        let mut intake = Intake::open(vault, machine, key)?;
        if commit::take_in_leftovers(&mut intake)? {
            intake.new_generation()?;
        }
        let newest = Newest { head: intake.head().cloned(), generation: intake.generation()? };
        let content = Content { machine, catalog: None, windows: Vec::new() };
        Ok((
            VaultStore { vault: vault.clone(), intake: Mutex::new(intake), content: Mutex::new(content) },
            newest,
        ))
    }
}

impl Store for VaultStore {
    fn present(&self) -> Result<(), Fault> {
        commit::present(&self.vault)
    }

    fn put_segment(&self, segment: &Arc<Sealed>) -> Result<Option<u64>, Fault> {
        self.present()?;
        match self.vault.put_new(&segment.key, &segment.bytes) {
            // The key is of this session and this part: what is there is from a try whose answer got lost.
            Err(err) if !err.is_already_there() => return Err(fault::of_storage(&err)),
            _ => {}
        }
        if verify_segment(&self.vault, &segment.key, &segment.reference).is_ok() {
            lock(&self.intake).trust_verified(&segment.key, segment.reference.digest);
        }
        Ok(None)
    }

    fn commit(&self, prepared: &Prepared) -> Result<Head, CommitFault> {
        commit::commit(&self.vault, &self.intake, prepared)
    }

    fn takes_in_at_once(&self) -> bool {
        true
    }

    fn new_generation(&self, _: Generation, _: &str) -> Result<(Generation, Option<Head>), Fault> {
        self.present()?;
        let mut intake = lock(&self.intake);
        let generation = intake.new_generation().map_err(|err| commit::of_intake(&err))?;
        Ok((generation, intake.head().cloned()))
    }

    fn head(&self) -> Option<Head> {
        lock(&self.intake).head().cloned()
    }

    fn expected(&self, disk: DiskId, window: BlockIndex) -> Result<Expected, NotKnown> {
        let mut content = lock(&self.content);
        content.expected(&self.vault, disk, window).map_err(NotKnown::Damaged)
    }

    fn each_window(&self, disk: DiskId, visit: &mut WindowVisitor<'_>) -> Result<bool, NotKnown> {
        let mut content = lock(&self.content);
        let Ok(windows) = content.windows_of(&self.vault, disk).map(|reader| reader.windows()) else {
            return Ok(false);
        };
        let damaged = |err: &dyn std::fmt::Display| NotKnown::Damaged(err.to_string());
        for window in windows.map_err(|err| damaged(&err))? {
            let (start, content) = window.map_err(|err| damaged(&err))?;
            if content != WindowContent::Zero {
                visit(start, &block_digests(&content)).map_err(NotKnown::Damaged)?;
            }
        }
        Ok(true)
    }

    fn head_changed(&self, _: &Head) {
        let mut content = lock(&self.content);
        (content.catalog, content.windows) = (None, Vec::new());
    }
}

impl Content {
    fn windows_of(&mut self, vault: &Vault, disk: DiskId) -> Result<&mut WindowReader, String> {
        if let Some(at) = self.windows.iter().position(|(id, _)| *id == disk) {
            return Ok(&mut self.windows[at].1);
        }
        if self.catalog.is_none() {
            self.catalog = Some(Catalog::load(vault, self.machine).map_err(|err| err.to_string())?);
        }
        let Some(catalog) = &self.catalog else { return Err("the catalog was just loaded".to_owned()) };
        let reader = WindowReader::at_head(catalog, disk).map_err(|err| err.to_string())?;
        self.windows.push((disk, reader));
        self.windows.last_mut().map(|(_, reader)| reader).ok_or_else(|| "it was just pushed".to_owned())
    }

    fn expected(&mut self, vault: &Vault, disk: DiskId, window: BlockIndex) -> Result<Expected, String> {
        let reader = self.windows_of(vault, disk)?;
        if window.byte_offset() >= reader.size().0 {
            return Ok(Expected::Zero);
        }
        match reader.window(window).map_err(|err| err.to_string())? {
            WindowContent::Zero => Ok(Expected::Zero),
            data => Ok(Expected::Digests(Box::new(block_digests(&data)))),
        }
    }
}
