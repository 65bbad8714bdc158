//! What stands in the way of a failover with these settings, told before one is needed.
//!
//! A problem *blocks* where the place would refuse the machine, or nobody knows where it shall go; any other is for people to judge.
//! Deliberately not here: what only the place itself can tell, such as whether a size is to be had there.

use std::{collections::BTreeSet, net::IpAddr};

use mobility_format::control::CloudKind;
use serde::Serialize;

use super::{
    AddressChoice, InterfaceSettings, Known, PlaceKind, Settings, TargetSettings, effective::MOST_LUNS,
};

/// Tags that Azure takes on one resource, and how long their names and values may be.
const MOST_TAGS: usize = 50;
const TAG_NAME: usize = 512;
const TAG_VALUE: usize = 256;
/// Addresses that an Azure subnet keeps for itself at its beginning, and at its end.
const AZURE_KEEPS: (u128, u128) = (4, 1);
/// Memory that a machine needs for anything at all.
const LEAST_MEMORY: u64 = 64 << 20;

/// Something that is wrong with settings, or may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which field it is about.
    pub field: String,
    /// Whether nothing can be failed over before it is mended.
    pub blocks: bool,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Problems as they are found.
#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn blocks(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem { field: field.to_owned(), blocks: true, message: message.into() });
    }

    fn warns(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem { field: field.to_owned(), blocks: false, message: message.into() });
    }
}

impl TargetSettings {
    /// What is wrong with these settings where they are used for this machine; `effective` is what follows from them.
    #[must_use]
    pub fn problems(&self, known: &Known<'_>, effective: &Settings) -> Vec<Problem> {
        let mut found = Found::default();
        self.check_place(known, effective, &mut found);
        self.check_names(known, effective, &mut found);
        check_machine(known, effective, &mut found);
        for (place, interface) in effective.interfaces.iter().enumerate() {
            check_interface(place, interface, known, effective, &mut found);
        }
        check_disks(effective, &mut found);
        if effective.kind == Some(PlaceKind::Azure) {
            check_azure(effective, &mut found);
        }
        found.0
    }

    fn check_place(&self, known: &Known<'_>, effective: &Settings, found: &mut Found) {
        match (&effective.place.value, effective.kind) {
            (Some(_), Some(_)) => {}
            (Some(place), None) => {
                found.blocks("place", format!("the service's configuration has no place '{place}'"));
            }
            (None, _) if known.places.is_empty() => {
                found.blocks("place", "the service's configuration names no place to fail over to");
            }
            (None, _) => found.blocks("place", "there are several places: say which"),
        }
    }

    /// What was said of interfaces and disks that the machine does not have.
    fn check_names(&self, known: &Known<'_>, effective: &Settings, found: &mut Found) {
        for own in &self.interfaces {
            if effective.interfaces.iter().all(|known| !known.source_mac.eq_ignore_ascii_case(&own.mac)) {
                found.warns("interfaces", format!("the machine has no interface {}", own.mac));
            }
        }
        for own in &self.disks {
            if known.inventory.disks.iter().all(|known| known.id != own.disk) {
                found.warns("disks", format!("the machine told of no disk {}", own.disk));
            }
        }
    }
}

fn check_machine(known: &Known<'_>, effective: &Settings, found: &mut Found) {
    if known.inventory.shape.is_none() {
        let message = "the agent has not told what the machine is made of: upgrade it, or set what is needed";
        found.warns("processors", message);
    }
    if effective.processors.value == Some(0) {
        found.blocks("processors", "a machine needs a processor");
    }
    if effective.memory.value.is_some_and(|memory| memory.0 < LEAST_MEMORY) {
        found.blocks("memory", "a machine needs 64 MiB of memory at least; the number is in bytes");
    }
    if matches!(effective.kind, Some(PlaceKind::Qemu | PlaceKind::Libvirt)) {
        if effective.processors.value.is_none() {
            found.warns("processors", "nobody knows how many processors the machine had: set them");
        }
        if effective.memory.value.is_none() {
            found.warns("memory", "nobody knows how much memory the machine had: set it");
        }
    }
    if effective.boot.from == super::Origin::BuiltIn {
        found.warns(
            "boot",
            "nobody knows whether the machine starts by BIOS or UEFI; BIOS is taken unless it is set",
        );
    }
}

fn check_interface(
    place: usize,
    interface: &InterfaceSettings,
    known: &Known<'_>,
    effective: &Settings,
    found: &mut Found,
) {
    let field = format!("interfaces[{place}]");
    let (name, mac) = (&interface.name, &interface.source_mac);
    let is_azure = effective.kind == Some(PlaceKind::Azure);
    let of_inventory = known.shape().into_iter().flat_map(|shape| &shape.interfaces);
    let mapped = of_inventory.filter(|told| told.mac == *mac).flat_map(|told| known.mapped(told)).count();
    match &interface.network.value {
        None if mapped > 1 => {
            found.blocks(&field, format!("{mapped} mappings name a network for {name} ({mac}): say which"));
        }
        None if is_azure => {
            found.blocks(
                &field,
                format!("no mapping names a network for {name} ({mac}): map its network, or set one"),
            );
        }
        None if effective.kind == Some(PlaceKind::Qemu) => {
            found.warns(&field, format!("no mapping names a network for {name} ({mac})"));
        }
        None => {}
        Some(network) if network.range().is_some() => {
            found
                .blocks(&field, format!("{network} is a range of addresses: say what the network is called"));
        }
        Some(network) if is_azure && network.subnet().is_none() => {
            found.blocks(&field, format!("{network} names no subnet: write NETWORK/SUBNET"));
        }
        Some(_) => {}
    }
    let Some(range) = interface.range else { return };
    let kept = interface.source_addresses.iter().map(|address| address.address);
    let wanted: Vec<IpAddr> = match interface.address.value {
        Some(AddressChoice::Fixed(address)) => vec![address],
        Some(AddressChoice::Keep) => kept.collect(),
        _ => return,
    };
    if !wanted.is_empty() && wanted.iter().all(|address| !range.contains(*address)) {
        let shown: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let message = format!("{} is not in {range}: choose `new`, or an address in it", shown.join(", "));
        return found.blocks(&field, message);
    }
    for address in wanted.iter().filter(|address| range.contains(**address)) {
        let around = range.around(*address).filter(|_| is_azure && address.is_ipv4());
        if around.is_some_and(|(before, after)| before < AZURE_KEEPS.0 || after < AZURE_KEEPS.1) {
            found.blocks(
                &field,
                format!("{address} is one of the addresses of {range} that Azure keeps for itself"),
            );
        }
    }
}

fn check_disks(effective: &Settings, found: &mut Found) {
    let mut luns = BTreeSet::new();
    for disk in effective.disks.iter().filter(|disk| !disk.system) {
        match disk.lun.value {
            Some(lun) if lun >= MOST_LUNS => {
                found.blocks(
                    "disks",
                    format!("{}: a number among data disks is from 0 to {}", disk.name, MOST_LUNS - 1),
                );
            }
            Some(lun) if !luns.insert(lun) => {
                found.blocks("disks", format!("{}: another data disk has number {lun} too", disk.name));
            }
            Some(_) => {}
            None => found.blocks("disks", format!("there are more than {MOST_LUNS} data disks")),
        }
    }
}

fn check_azure(effective: &Settings, found: &mut Found) {
    let group = |c: char| c.is_alphanumeric() || "-_.()".contains(c);
    match &effective.resource_group.value {
        None => found.blocks("resource_group", "Azure needs a resource group: set one"),
        Some(name)
            if name.is_empty() || name.len() > 90 || name.ends_with('.') || !name.chars().all(group) =>
        {
            found.blocks(
                "resource_group",
                "a resource group's name has 1 to 90 letters, digits and -_.(), and no dot at its end",
            );
        }
        Some(_) => {}
    }
    match &effective.location.value {
        None => found.blocks("location", "Azure needs a region: set one"),
        Some(name) if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) => {
            found.blocks("location", "a region is written as `westeurope`, without spaces");
        }
        Some(_) if effective.location.from == super::Origin::Metadata => {
            found.warns("location", "it is the region that the machine is in now: set another one");
        }
        Some(_) => {}
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match &effective.size.value {
        None => found.blocks("size", "Azure needs a size such as Standard_D2s_v5: set one"),
        Some(size) if size.is_empty() || !size.chars().all(plain) => {
            found.blocks("size", "a size is written as `Standard_D2s_v5`");
        }
        Some(_) => {}
    }
    if effective.availability_set.value.is_some() && effective.zone.value.is_some() {
        found.blocks("zone", "a machine is in an availability set or in a zone, not in both");
    }
    if effective.zone.value.as_ref().is_some_and(|zone| !matches!(zone.as_str(), "1" | "2" | "3")) {
        found.blocks("zone", "a zone is 1, 2 or 3");
    }
    if effective.interfaces.is_empty() {
        found.blocks("interfaces", "Azure needs a network interface, and the machine told of none");
    }
    let account = |name: &String| {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        (3..=24).contains(&name.len()) && name.chars().all(letters)
    };
    for (field, name) in [
        ("cache_storage_account", &effective.cache_storage_account.value),
        ("target_storage_account", &effective.target_storage_account.value),
    ] {
        if name.as_ref().is_some_and(|name| !account(name)) {
            found.blocks(field, "a storage account's name has 3 to 24 lower-case letters and digits");
        }
    }
    check_azure_tags(effective, found);
    if effective.secure_boot.value == Some(true) && effective.source == Some(CloudKind::Azure) {
        let message = "a disk that was brought from elsewhere starts without Secure Boot in Azure";
        found.warns("secure_boot", message);
    }
}

fn check_azure_tags(effective: &Settings, found: &mut Found) {
    let tags = effective.tags.value.iter().flatten();
    if effective.tags.value.as_ref().is_some_and(|tags| tags.len() > MOST_TAGS) {
        found.blocks("tags", format!("Azure takes {MOST_TAGS} tags at most"));
    }
    for (name, value) in tags {
        let long = name.is_empty() || name.chars().count() > TAG_NAME || value.chars().count() > TAG_VALUE;
        if long || name.contains(['<', '>', '%', '&', '\\', '?', '/']) {
            found.blocks(
                "tags",
                format!("Azure takes no tag '{}'", name.chars().take(80).collect::<String>()),
            );
        }
    }
}
