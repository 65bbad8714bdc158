//! Finds the vault and the machines that a command is about.
//!
//! Deliberately not here: points and disks.

use anyhow::Result;
use mobility_format::MachineId;
use mobility_recovery::{Catalog, Vault};

use super::{Place, exit::NotFound};

impl Place {
    /// The vault, and the machines in it that are meant.
    pub(super) fn open(&self) -> Result<(Vault, Vec<MachineId>)> {
        let vault = Vault::open(&self.vault)?;
        let mut machines = vault.machines()?;
        if let Some(text) = &self.machine {
            machines.retain(|machine| !text.is_empty() && machine.to_string().starts_with(text.as_str()));
            if machines.len() != 1 {
                let found = machines.len();
                let place = self.vault.display();
                return Err(NotFound(format!(
                    "'{text}' is the id of {found} machines in {place}, not of one"
                ))
                .into());
            }
        }
        Ok((vault, machines))
    }

    /// The vault and the one machine that is meant.
    pub(super) fn open_one(&self) -> Result<(Vault, MachineId)> {
        let (vault, machines) = self.open()?;
        match machines[..] {
            [machine] => Ok((vault, machine)),
            [] => Err(NotFound(format!("there is no machine in {} yet", self.vault.display())).into()),
            _ => {
                let names: Vec<_> = machines.iter().map(ToString::to_string).collect();
                Err(NotFound(format!("name one of the machines with --machine: {}", names.join(", "))).into())
            }
        }
    }

    /// The catalogs of all machines that are meant, none of which changes meanwhile.
    pub(super) fn catalogs(&self) -> Result<Vec<Catalog>> {
        let (vault, machines) = self.open()?;
        machines.into_iter().map(|machine| Ok(Catalog::load_locked(&vault, machine)?)).collect()
    }
}
