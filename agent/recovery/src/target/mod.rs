//! Where and as what a machine is to run when it is failed over: what somebody has said of it, what follows for the rest from what
//! the machine itself and its cloud told, and what stands in the way.
//!
//! Everything here is computed from what it is given. Deliberately not here: how settings are kept and changed
//! (`service::admin`), and what is made of them at a place (`azure`, the service's failovers).

mod effective;
mod network;
mod place;
mod problems;
mod settings;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use mobility_format::{
    ByteCount, DiskId,
    control::{BootMode, MAX_DISKS, MAX_INTERFACES, MAX_TAGS},
};
use serde::{Deserialize, Serialize};

pub use effective::Known;
pub(crate) use effective::tells_system;
pub use network::{Direction, NetworkMapping, NetworkName, NotANetwork, Prefix};
pub use place::{Place, PlaceKind};
pub use problems::Problem;
pub use settings::{DiskSettings, InterfaceSettings, Origin, Setting, Settings};

/// The longest text of a setting, in bytes.
const MAX_TEXT: usize = 1024;

/// What somebody has said of where a machine is to run. All of it may be left out: then it follows from what is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetSettings {
    /// The place, as the service's configuration names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What the machine is called there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The resource group that it is made in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_group: Option<String>,
    /// The region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The network of every interface for which nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// The availability set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_set: Option<String>,
    /// The availability zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How large the machine is, as the place names sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// How many processors it has, where sizes have no names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
    /// Its memory, where sizes have no names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteCount>,
    /// How its firmware starts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootMode>,
    /// Whether the firmware starts only what is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// The storage account where what is on its way is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_storage_account: Option<String>,
    /// The storage account that disks are brought to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_storage_account: Option<String>,
    /// How fast and how safe its disks are, as the place names kinds of disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_type: Option<String>,
    /// What is attached to it for people; instead of all that its cloud told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// What is different for single interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<TargetInterface>,
    /// What is different for single disks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<TargetDisk>,
}

impl TargetSettings {
    /// Whether all of it is of a length that anybody could mean.
    ///
    /// # Errors
    /// What is too long, or too many.
    pub fn check(&self) -> Result<(), String> {
        let texts = [
            &self.place,
            &self.name,
            &self.resource_group,
            &self.location,
            &self.availability_set,
            &self.zone,
            &self.size,
            &self.cache_storage_account,
            &self.target_storage_account,
            &self.disk_type,
        ];
        let tags = self.tags.iter().flatten();
        let tags = tags.flat_map(|(name, value)| [name, value]).filter(|text| !text.is_empty());
        let of_interfaces = self.interfaces.iter().map(|own| &own.mac);
        let of_disks = self.disks.iter().filter_map(|own| own.disk_type.as_ref());
        let mut texts = texts.into_iter().flatten().chain(tags).chain(of_interfaces).chain(of_disks);
        if texts.any(|text| text.is_empty() || text.len() > MAX_TEXT || text.contains(char::is_control)) {
            return Err(format!("a text is empty, longer than {MAX_TEXT} bytes, or no single line"));
        }
        let many = |count: usize, most: usize, what: &str| match count > most {
            true => Err(format!("there may be {most} {what} at most")),
            false => Ok(()),
        };
        many(self.interfaces.len(), MAX_INTERFACES, "interfaces")?;
        many(self.disks.len(), MAX_DISKS, "disks")?;
        many(self.tags.as_ref().map_or(0, BTreeMap::len), MAX_TAGS, "tags")
    }
}

/// What is different for an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetInterface {
    /// Which, by its hardware address at the source.
    pub mac: String,
    /// The network that it gets to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// Its address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressChoice>,
    /// Whether it has the same hardware address there, where the place lets one choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_mac: Option<bool>,
}

/// What is different for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetDisk {
    /// Which.
    pub disk: DiskId,
    /// Its number among the data disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<u32>,
    /// As [`TargetSettings::disk_type`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_type: Option<String>,
}

/// Which address an interface has at the target. In text: `keep`, `new`, or the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AddressChoice {
    /// The one that it has at the source.
    Keep,
    /// One that the target gives it.
    New,
    /// This one.
    Fixed(IpAddr),
}

impl fmt::Display for AddressChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressChoice::Keep => f.write_str("keep"),
            AddressChoice::New => f.write_str("new"),
            AddressChoice::Fixed(address) => address.fmt(f),
        }
    }
}

impl FromStr for AddressChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<AddressChoice, String> {
        match text {
            "keep" => Ok(AddressChoice::Keep),
            "new" => Ok(AddressChoice::New),
            _ => text.parse().map(AddressChoice::Fixed).map_err(|_| {
                let shown: String = text.chars().take(80).collect();
                format!("'{shown}' is neither `keep` nor `new` nor an address")
            }),
        }
    }
}

impl TryFrom<String> for AddressChoice {
    type Error = String;

    fn try_from(text: String) -> Result<AddressChoice, String> {
        text.parse()
    }
}

impl From<AddressChoice> for String {
    fn from(choice: AddressChoice) -> String {
        choice.to_string()
    }
}
