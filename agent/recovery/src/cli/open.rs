//! Finds the storage and the machines that a command is about.
//!
//! Deliberately not here: points and disks.

use anyhow::Result;
use mobility_format::MachineId;
use mobility_recovery::{Catalog, Stores, Vault, service::Places};

use super::{Place, exit::NotFound};

impl Place {
    /// The storage, and the machines in it that are meant.
    pub(super) fn open(&self) -> Result<(Stores, Vec<MachineId>)> {
        let stores = match (&self.vault, &self.config) {
            (Some(vault), _) => (*Vault::open(vault)?).clone(),
            (None, Some(config)) => Places::of(config)?.open_offline()?,
            (None, None) => anyhow::bail!("name either --vault or --config"),
        };
        let mut machines = stores.machines()?;
        if let Some(text) = &self.machine {
            machines.retain(|machine| !text.is_empty() && machine.to_string().starts_with(text.as_str()));
            if machines.len() != 1 {
                let (found, place) = (machines.len(), shown(&stores));
                return Err(NotFound(format!(
                    "'{text}' is the id of {found} machines in {place}, not of one"
                ))
                .into());
            }
        }
        Ok((stores, machines))
    }

    /// The storage and the one machine that is meant.
    pub(super) fn open_one(&self) -> Result<(Stores, MachineId)> {
        let (stores, machines) = self.open()?;
        match machines[..] {
            [machine] => Ok((stores, machine)),
            [] => Err(NotFound(format!("there is no machine in {} yet", shown(&stores))).into()),
            _ => {
                let names: Vec<_> = machines.iter().map(ToString::to_string).collect();
                Err(NotFound(format!("name one of the machines with --machine: {}", names.join(", "))).into())
            }
        }
    }

    /// The catalogs of all machines that are meant, none of which changes meanwhile.
    pub(super) fn catalogs(&self) -> Result<Vec<Catalog>> {
        let (stores, machines) = self.open()?;
        machines.into_iter().map(|machine| Ok(Catalog::load_locked(&stores, machine)?)).collect()
    }
}

fn shown(stores: &Stores) -> String {
    stores.target().place("").display().to_string()
}
