//! What the cloud says of this machine, by its instance metadata service.
//!
//! Only a machine whose firmware says that it is in a cloud asks, at the one address that never leaves that cloud's host, without a
//! proxy. An answer has a time limit and a longest length, and whatever is wrong with it counts as nothing said. Of the answer only
//! what describes the machine is kept: keys, user data and the like are not. Deliberately not here: what the machine knows of itself
//! (`shape`).

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, time::Duration};

use mobility_format::control::{CloudDisk, CloudInterface, CloudInventory, CloudKind, Limited};
use reqwest::{Client, StatusCode, redirect::Policy};
use serde::Deserialize;

use super::tls;

/// Where each cloud's host answers its machines.
const ADDRESS: &str = "http://169.254.169.254";
/// What the firmware of a machine in Azure has as its chassis' asset tag.
const AZURE_TAG: &str = "7783-7084-3265-9085-8232-8642-77";
const AZURE_PATH: &str = "/metadata/instance?api-version=2021-02-01";
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer, in bytes.
const LONGEST: usize = 256 << 10;

/// What this machine's cloud says of it; nothing outside of one, or where it does not say anything in time.
pub(super) fn collect() -> Option<CloudInventory> {
    let kind = recognised(Path::new("/"))?;
    let said = ask(kind, ADDRESS, PATIENCE);
    if said.is_none() {
        tracing::warn!("the cloud does not say what this machine is; its last answer goes on counting");
    }
    said
}

/// Which cloud the firmware names.
fn recognised(root: &Path) -> Option<CloudKind> {
    let tag = fs::read_to_string(root.join("sys/class/dmi/id/chassis_asset_tag")).ok()?;
    (tag.trim() == AZURE_TAG).then_some(CloudKind::Azure)
}

/// What the cloud says at an address.
fn ask(kind: CloudKind, address: &str, patience: Duration) -> Option<CloudInventory> {
    if kind != CloudKind::Azure {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = async { tokio::time::timeout(patience, fetch(&format!("{address}{AZURE_PATH}"))).await };
    let bytes = runtime.block_on(answer).ok()??;
    // Whatever looks a name up would go on for longer than its caller waits.
    runtime.shutdown_background();
    let told: Instance = serde_json::from_slice(&bytes).ok()?;
    Some(told.described()).filter(|told| told.check().is_ok())
}

async fn fetch(url: &str) -> Option<Vec<u8>> {
    let client = Client::builder()
        .tls_backend_preconfigured(tls::nobody().ok()?)
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .build()
        .ok()?;
    let mut answer = client.get(url).header("Metadata", "true").send().await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST {
            return None;
        }
    }
    Some(bytes)
}

/// What Azure answers, as far as it is used. It names no virtual network, and no availability set.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Instance {
    compute: Compute,
    network: Network,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Compute {
    location: String,
    name: String,
    resource_group_name: String,
    subscription_id: String,
    tags_list: Vec<Tag>,
    vm_id: String,
    vm_size: String,
    zone: String,
    storage_profile: StorageProfile,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tag {
    name: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StorageProfile {
    os_disk: Disk,
    data_disks: Vec<Disk>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Disk {
    name: String,
    /// A number in quotes.
    lun: String,
    managed_disk: ManagedDisk,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ManagedDisk {
    storage_account_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Network {
    interface: Vec<Interface>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Interface {
    ipv4: Addresses,
    ipv6: Addresses,
    mac_address: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Addresses {
    ip_address: Vec<Address>,
    subnet: Vec<Subnet>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Address {
    private_ip_address: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subnet {
    address: String,
    prefix: String,
}

fn unless_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl Instance {
    fn described(self) -> CloudInventory {
        let Compute { storage_profile: StorageProfile { os_disk, data_disks }, .. } = self.compute;
        let disk = |lun, disk: Disk| CloudDisk {
            lun,
            name: disk.name,
            disk_type: unless_empty(disk.managed_disk.storage_account_type),
        };
        let data = data_disks.into_iter().filter_map(|data| Some(disk(Some(data.lun.parse().ok()?), data)));
        let tags = self.compute.tags_list.into_iter().map(|tag| (tag.name, tag.value));
        CloudInventory {
            kind: CloudKind::Azure,
            id: self.compute.vm_id,
            name: self.compute.name,
            subscription: self.compute.subscription_id,
            resource_group: self.compute.resource_group_name,
            location: self.compute.location,
            size: self.compute.vm_size,
            zone: unless_empty(self.compute.zone),
            tags: tags.collect::<BTreeMap<_, _>>(),
            interfaces: self.network.interface.into_iter().map(Interface::described).collect(),
            disks: [disk(None, os_disk)].into_iter().chain(data).collect(),
        }
    }
}

impl Interface {
    fn described(self) -> CloudInterface {
        let addresses = self.ipv4.ip_address.into_iter().chain(self.ipv6.ip_address);
        let subnet = self.ipv4.subnet.into_iter().next().map(|net| format!("{}/{}", net.address, net.prefix));
        CloudInterface {
            mac: with_colons(&self.mac_address),
            addresses: addresses.filter_map(|one| one.private_ip_address.parse::<IpAddr>().ok()).collect(),
            subnet,
        }
    }
}

/// A hardware address as the kernel writes it.
fn with_colons(mac: &str) -> String {
    let digits = mac.to_lowercase().replace(['-', ':'], "");
    let pairs: Vec<&str> = (0..digits.len()).step_by(2).filter_map(|at| digits.get(at..at + 2)).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests;
