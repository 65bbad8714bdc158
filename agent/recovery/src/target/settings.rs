//! The settings that a failover goes by: each with its value, and where that is from.
//!
//! Deliberately not here: how they come about (`effective`), and what is wrong with them (`problems`).

use std::{collections::BTreeMap, net::IpAddr};

use mobility_format::{
    ByteCount, DiskId,
    control::{BootMode, CloudKind, InterfaceAddress},
};
use serde::Serialize;

use super::{AddressChoice, Direction, NetworkName, PlaceKind, Prefix};

/// Where a value is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Somebody said so.
    Set,
    /// The machine is so.
    Inventory,
    /// The machine's cloud says so.
    Metadata,
    /// A network mapping says so.
    Mapping,
    /// It holds for the place.
    Place,
    /// It is so unless something else is known.
    BuiltIn,
    /// Nothing is known, and there is no value.
    Unknown,
}

/// A value, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting<T> {
    /// Nothing where none is known, or none is wanted.
    pub value: Option<T>,
    /// Where it is from.
    pub from: Origin,
}

impl<T> Setting<T> {
    /// The first value of these that there is.
    pub(super) fn first<const N: usize>(candidates: [(Option<T>, Origin); N]) -> Setting<T> {
        let found = candidates.into_iter().find_map(|(value, from)| Some((value?, from)));
        match found {
            Some((value, from)) => Setting { value: Some(value), from },
            None => Setting { value: None, from: Origin::Unknown },
        }
    }
}

/// All that a failover of a machine goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The place, by its name.
    pub place: Setting<String>,
    /// What is there, where the place is known.
    pub kind: Option<PlaceKind>,
    /// Which way the machine goes.
    pub direction: Direction,
    /// The cloud that the machine is in now.
    pub source: Option<CloudKind>,
    /// The processor's architecture, as the kernel names it.
    pub architecture: String,
    /// What the machine is called there.
    pub name: Setting<String>,
    /// The resource group.
    pub resource_group: Setting<String>,
    /// The region.
    pub location: Setting<String>,
    /// The availability set.
    pub availability_set: Setting<String>,
    /// The availability zone.
    pub zone: Setting<String>,
    /// The size, as the place names sizes.
    pub size: Setting<String>,
    /// How many processors.
    pub processors: Setting<u32>,
    /// The memory.
    pub memory: Setting<ByteCount>,
    /// How firmware starts it.
    pub boot: Setting<BootMode>,
    /// Whether firmware starts only what is signed.
    pub secure_boot: Setting<bool>,
    /// The storage account where what is on its way is kept.
    pub cache_storage_account: Setting<String>,
    /// The storage account that disks are brought to.
    pub target_storage_account: Setting<String>,
    /// The kind of disks for which nothing else is said.
    pub disk_type: Setting<String>,
    /// The tags.
    pub tags: Setting<BTreeMap<String, String>>,
    /// The interfaces, in the order in which the machine has them; the one with the default route first.
    pub interfaces: Vec<InterfaceSettings>,
    /// The disks, the one that the system starts from first. Disks that do not outlive a move are left out.
    pub disks: Vec<DiskSettings>,
}

/// What a failover goes by for an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceSettings {
    /// What the machine calls it.
    pub name: String,
    /// Its hardware address at the source.
    pub source_mac: String,
    /// Its addresses at the source.
    pub source_addresses: Vec<InterfaceAddress>,
    /// Its hardware address at the target; nothing where the target chooses one.
    pub mac: Setting<String>,
    /// The network.
    pub network: Setting<NetworkName>,
    /// The network's range, where it is known.
    pub range: Option<Prefix>,
    /// Whether the address is kept.
    pub address: Setting<AddressChoice>,
    /// The addresses that follow from it; none where the target chooses.
    pub addresses: Vec<IpAddr>,
    /// The longest packet, in bytes.
    pub mtu: Option<u32>,
}

/// What a failover goes by for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskSettings {
    /// Which.
    pub id: DiskId,
    /// What the machine called it.
    pub name: String,
    /// How large it was when the machine last told.
    pub size: ByteCount,
    /// Whether the system starts from it.
    pub system: bool,
    /// Its number among the data disks; nothing for the system's.
    pub lun: Setting<u32>,
    /// The serial number that the machine saw.
    pub serial: Option<String>,
    /// The kind of disk.
    pub disk_type: Setting<String>,
}
