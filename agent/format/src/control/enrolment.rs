//! How a machine gets its identity, and keeps its certificate fresh.
//!
//! Deliberately not here: private keys, which never leave the machine.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Limited, MAX_DISKS, MAX_TEXT, Shape, TooMuch, within};
use crate::{ByteCount, DiskId, MachineId, PublicKey};

/// `POST /v1/enrol`: without a client certificate. Asking again with the same token and key gives the same machine and
/// uses the token no further, so a lost answer costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The one-time token.
    pub token: String,
    /// The request for a client certificate (PKCS #10, PEM). Of it only the key counts; names are the service's to give.
    pub csr: String,
    /// The key that will sign this machine's manifests.
    pub signing_key: PublicKey,
    /// What the machine is.
    pub inventory: Inventory,
}

/// What a machine is, for people and for policies. Nothing is secured by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The host's name.
    pub name: String,
    /// The operating system, as `os-release` names it.
    pub system: String,
    /// The release of the kernel.
    pub kernel: String,
    /// The processor's architecture.
    pub architecture: String,
    /// The agent's version.
    pub agent: String,
    /// What tells this machine from a copy of it, hashed: firmware identity, network addresses.
    pub hardware: String,
    /// Its disks, protected or not.
    pub disks: Vec<DiskInventory>,
    /// What it is made of. An older agent says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

/// A disk of an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInventory {
    /// Its id.
    pub id: DiskId,
    /// What the machine calls it.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// Where its file systems are mounted.
    pub mounts: Vec<String>,
    /// Stable names that it goes by, such as its serial number.
    pub labels: Vec<String>,
    /// Whether its content is lost when the machine moves, as the cloud says.
    pub temporary: bool,
    /// What it is attached to, as the machine names that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Its number there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<u32>,
    /// The serial number that the machine sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// Answers [`EnrolRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Who the machine is from now on.
    pub machine: MachineId,
    /// Its client certificate, and what leads to the authority (PEM).
    pub certificate: String,
    /// When the certificate expires.
    pub expires: Timestamp,
    /// The certificates of the authorities that the service's own certificate may come from (PEM).
    pub authorities: String,
    /// Where the service can be reached, in the order to try.
    pub addresses: Vec<String>,
}

/// `POST /v1/renew`: a fresh certificate, for the same key or a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// As in [`EnrolRequest`].
    pub csr: String,
}

/// Answers [`RenewRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// As in [`Enrolled`].
    pub certificate: String,
    /// As in [`Enrolled`].
    pub expires: Timestamp,
    /// As in [`Enrolled`].
    pub authorities: String,
    /// As in [`Enrolled`].
    pub addresses: Vec<String>,
}

impl Limited for EnrolRequest {
    fn check(&self) -> Result<(), TooMuch> {
        within("the token", self.token.len(), 256)?;
        within("the certificate request", self.csr.len(), 16 << 10)?;
        self.inventory.check()
    }
}

impl Limited for RenewRequest {
    fn check(&self) -> Result<(), TooMuch> {
        within("the certificate request", self.csr.len(), 16 << 10)
    }
}

impl Limited for Enrolled {
    fn check(&self) -> Result<(), TooMuch> {
        check_identity(&self.certificate, &self.authorities, &self.addresses)
    }
}

impl Limited for Renewed {
    fn check(&self) -> Result<(), TooMuch> {
        check_identity(&self.certificate, &self.authorities, &self.addresses)
    }
}

fn check_identity(certificate: &str, authorities: &str, addresses: &[String]) -> Result<(), TooMuch> {
    within("the certificate", certificate.len(), 64 << 10)?;
    within("the authorities", authorities.len(), 256 << 10)?;
    within("the list of addresses", addresses.len(), 64)?;
    addresses.iter().try_for_each(|address| within("an address", address.len(), MAX_TEXT))
}

impl Limited for Inventory {
    fn check(&self) -> Result<(), TooMuch> {
        for text in [&self.name, &self.system, &self.kernel, &self.architecture, &self.agent, &self.hardware]
        {
            within("a text of the inventory", text.len(), MAX_TEXT)?;
        }
        within("the list of disks", self.disks.len(), MAX_DISKS)?;
        self.disks.iter().try_for_each(|disk| {
            within("the mounts of a disk", disk.mounts.len(), 1024)?;
            within("the labels of a disk", disk.labels.len(), 64)?;
            let texts = disk.mounts.iter().chain(&disk.labels).chain([&disk.name]);
            let texts = texts.chain(&disk.controller).chain(&disk.serial);
            texts.map(String::len).try_for_each(|length| within("a name of a disk", length, MAX_TEXT))
        })?;
        self.shape.as_ref().map_or(Ok(()), Limited::check)
    }
}
