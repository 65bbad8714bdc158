//! What a machine is made of, so that one like it can be made elsewhere: firmware, processors, memory, networks, and what its
//! cloud says of it.
//!
//! All of it may be missing: an agent tells what it finds, and an older one tells nothing. Nothing is secured by it. Deliberately
//! not here: its disks (`enrolment`), how any of it is found out, and what is made of it at the target.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Limited, MAX_DISKS, MAX_TEXT, TooMuch, within};
use crate::ByteCount;

/// Network interfaces that a machine may have.
pub const MAX_INTERFACES: usize = 64;
/// Addresses that one interface may have.
pub const MAX_ADDRESSES: usize = 64;
/// Tags that a cloud may have put on a machine.
pub const MAX_TAGS: usize = 256;
/// The longest name or value, in bytes, in what a machine is made of.
const MAX_NAME: usize = 1024;

/// What a machine is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shape {
    /// How its firmware starts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootMode>,
    /// Whether the firmware starts only what is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// How many processors it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
    /// Its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteCount>,
    /// Its network interfaces, those that have hardware.
    pub interfaces: Vec<InterfaceInventory>,
    /// What the cloud says that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudInventory>,
}

/// How firmware starts a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    /// From the first sector of a disk.
    Bios,
    /// From a file system that the firmware reads.
    Uefi,
}

/// A network interface of an inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceInventory {
    /// What the machine calls it.
    pub name: String,
    /// Its hardware address: six bytes in hexadecimal, lower case, with colons.
    pub mac: String,
    /// Its addresses, without those that are good for one link alone.
    pub addresses: Vec<InterfaceAddress>,
    /// Where it sends what no other route takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether what no other route takes goes this way.
    pub default_route: bool,
    /// The longest packet, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// How many of its bits name the network.
    pub prefix: u8,
}

/// Which cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloudKind {
    /// Microsoft Azure.
    Azure,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

/// What a cloud's instance metadata says of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInventory {
    /// Which cloud.
    pub kind: CloudKind,
    /// The cloud's id for the machine.
    #[serde(default)]
    pub id: String,
    /// What the cloud calls the machine.
    #[serde(default)]
    pub name: String,
    /// Whose the machine is.
    #[serde(default)]
    pub subscription: String,
    /// The group of things that it belongs to.
    #[serde(default)]
    pub resource_group: String,
    /// Where it is.
    #[serde(default)]
    pub location: String,
    /// How large it is, as the cloud names sizes.
    #[serde(default)]
    pub size: String,
    /// The zone of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What people have attached to it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Its interfaces.
    #[serde(default)]
    pub interfaces: Vec<CloudInterface>,
    /// Its disks.
    #[serde(default)]
    pub disks: Vec<CloudDisk>,
}

/// An interface, as a cloud sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudInterface {
    /// As in [`InterfaceInventory`].
    pub mac: String,
    /// Its addresses inside its network.
    pub addresses: Vec<IpAddr>,
    /// The address range of its subnet, as `10.1.0.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
}

/// A disk, as a cloud sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudDisk {
    /// Its number among the data disks; nothing for the one that the system starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lun: Option<u32>,
    /// What the cloud calls it.
    pub name: String,
    /// How fast and how safe it is, as the cloud names kinds of disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_type: Option<String>,
}

impl Limited for Shape {
    fn check(&self) -> Result<(), TooMuch> {
        within("the list of interfaces", self.interfaces.len(), MAX_INTERFACES)?;
        for interface in &self.interfaces {
            name(&interface.name)?;
            name(&interface.mac)?;
            within("the addresses of an interface", interface.addresses.len(), MAX_ADDRESSES)?;
        }
        self.cloud.as_ref().map_or(Ok(()), Limited::check)
    }
}

impl Limited for CloudInventory {
    fn check(&self) -> Result<(), TooMuch> {
        let texts =
            [&self.id, &self.name, &self.subscription, &self.resource_group, &self.location, &self.size];
        texts.into_iter().chain(&self.zone).try_for_each(|text| name(text))?;
        within("the list of tags", self.tags.len(), MAX_TAGS)?;
        for (key, value) in &self.tags {
            within("the name of a tag", key.len(), MAX_TEXT)?;
            within("the value of a tag", value.len(), MAX_TEXT)?;
        }
        within("the cloud's list of interfaces", self.interfaces.len(), MAX_INTERFACES)?;
        for interface in &self.interfaces {
            name(&interface.mac)?;
            interface.subnet.as_deref().map_or(Ok(()), name)?;
            within("the cloud's addresses of an interface", interface.addresses.len(), MAX_ADDRESSES)?;
        }
        within("the cloud's list of disks", self.disks.len(), MAX_DISKS)?;
        self.disks.iter().try_for_each(|disk| {
            name(&disk.name)?;
            disk.disk_type.as_deref().map_or(Ok(()), name)
        })
    }
}

fn name(text: &str) -> Result<(), TooMuch> {
    within("a name in what the machine is made of", text.len(), MAX_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_of_another_version_is_understood() {
        assert_eq!(serde_json::from_str::<Shape>("{}").unwrap(), Shape::default());
        let later = r#"{"boot":"uefi","firmware":"new","cloud":{"kind":"a-new-one","colour":"red"}}"#;
        let shape: Shape = serde_json::from_str(later).unwrap();
        assert_eq!(shape.boot, Some(BootMode::Uefi));
        assert_eq!(shape.cloud.unwrap().kind, CloudKind::Other);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let interface = |addresses| InterfaceInventory { addresses, ..InterfaceInventory::default() };
        let address = InterfaceAddress { address: "10.0.0.1".parse().unwrap(), prefix: 8 };
        let most = Shape {
            interfaces: vec![interface(vec![address; MAX_ADDRESSES]); MAX_INTERFACES],
            ..Shape::default()
        };
        most.check().unwrap();
        let cloud: CloudInventory = serde_json::from_str(r#"{"kind":"azure"}"#).unwrap();
        let tag = |number: usize| (number.to_string(), String::new());
        let many = CloudInventory { tags: (0..=MAX_TAGS).map(tag).collect(), ..cloud.clone() };
        let long = CloudInventory { zone: Some("z".repeat(MAX_NAME + 1)), ..cloud.clone() };
        let disks = CloudInventory { disks: vec![CloudDisk::default(); MAX_DISKS + 1], ..cloud };
        let too_much = [
            Shape { interfaces: vec![interface(vec![]); MAX_INTERFACES + 1], ..Shape::default() },
            Shape { interfaces: vec![interface(vec![address; MAX_ADDRESSES + 1])], ..Shape::default() },
            Shape { cloud: Some(many), ..Shape::default() },
            Shape { cloud: Some(long), ..Shape::default() },
            Shape { cloud: Some(disks), ..Shape::default() },
        ];
        for shape in too_much {
            assert!(shape.check().is_err(), "{shape:?}");
        }
    }
}
