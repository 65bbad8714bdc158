//! Places that machines can be failed over to, as far as settings follow from them.
//!
//! Deliberately not here: how the configuration names them, and what is done there.

use serde::{Deserialize, Serialize};

use super::NetworkName;

/// What is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaceKind {
    /// Disks as files or objects, and no machine.
    Images,
    /// A host that runs machines.
    Qemu,
    /// A host whose machines libvirt runs.
    Libvirt,
    /// Microsoft Azure.
    Azure,
}

/// A place, with what holds for all machines there unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in the service's configuration.
    pub name: String,
    /// What is there.
    pub kind: PlaceKind,
    /// The resource group.
    pub resource_group: Option<String>,
    /// The region.
    pub location: Option<String>,
    /// The network of interfaces for which no mapping is found.
    pub network: Option<NetworkName>,
    /// The storage account where what is on its way is kept.
    pub cache_storage_account: Option<String>,
    /// The storage account that disks are brought to.
    pub target_storage_account: Option<String>,
    /// The kind of disks.
    pub disk_type: Option<String>,
}

impl Place {
    /// A place of which nothing more is known.
    #[must_use]
    pub fn new(name: &str, kind: PlaceKind) -> Place {
        Place {
            name: name.to_owned(),
            kind,
            resource_group: None,
            location: None,
            network: None,
            cache_storage_account: None,
            target_storage_account: None,
            disk_type: None,
        }
    }
}
