//! What holds for a machine: what was said, and for the rest what follows from the machine, its cloud, network mappings and the
//! place, in this order unless it says otherwise.
//!
//! Deliberately not here: whether that makes sense (`problems`).

use std::{cmp::Reverse, collections::BTreeSet};

use mobility_format::control::{
    BootMode, CloudDisk, CloudInventory, CloudKind, DiskInventory, InterfaceInventory, Inventory, Shape,
};

use super::{
    AddressChoice, Direction, DiskSettings, InterfaceSettings, NetworkMapping, NetworkName, Origin, Place,
    PlaceKind, Prefix, Setting, Settings, TargetSettings,
};

/// Data disks are numbered from 0; no place takes more of them.
pub(super) const MOST_LUNS: u32 = 64;
/// Buses on which Azure attaches data disks, by what their names begin with. Others hold the system's disk and the temporary one.
const AZURE_DATA: [&str; 2] = ["f8b3781b-", "00000000-0001-"];
/// Where a system starts from, the likeliest first.
const STARTS: [&str; 4] = ["/boot/efi", "/efi", "/boot", "/"];

/// Whether something that is mounted there tells from which disk the system starts.
pub(crate) fn tells_system(mount: &str) -> bool {
    STARTS.contains(&mount)
}

/// All that settings follow from.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What the machine told.
    pub inventory: &'a Inventory,
    /// Which network stands for which.
    pub mappings: &'a [NetworkMapping],
    /// The places that the service's configuration names.
    pub places: &'a [Place],
    /// Which way the machine goes.
    pub direction: Direction,
}

impl<'a> Known<'a> {
    pub(super) fn shape(&self) -> Option<&'a Shape> {
        self.inventory.shape.as_ref()
    }

    fn cloud(&self) -> Option<&'a CloudInventory> {
        self.shape()?.cloud.as_ref()
    }

    /// The networks that a mapping names for this interface: none, one, or several.
    pub(super) fn mapped(&self, interface: &InterfaceInventory) -> BTreeSet<(NetworkName, Option<Prefix>)> {
        let cloud = self.cloud().into_iter().flat_map(|cloud| &cloud.interfaces);
        let told = cloud
            .filter(|told| told.mac == interface.mac)
            .filter_map(|told| told.subnet.as_deref()?.parse().ok());
        let here: BTreeSet<Prefix> =
            told.chain(interface.addresses.iter().copied().map(Prefix::of)).collect();
        let all = |direction| {
            let leads =
                |mapping: &'a NetworkMapping| here.iter().find_map(|here| mapping.leads(*here, direction));
            self.mappings
                .iter()
                .filter_map(leads)
                .map(|(name, range)| (name.clone(), range))
                .collect::<BTreeSet<_>>()
        };
        let (there, back) = match self.direction {
            Direction::Forth => (Direction::Forth, Direction::Back),
            Direction::Back => (Direction::Back, Direction::Forth),
        };
        // A mapping holds both ways, the way that the machine goes first.
        Some(all(there)).filter(|found| !found.is_empty()).unwrap_or_else(|| all(back))
    }
}

fn unless_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl TargetSettings {
    /// What holds for a machine of which these settings were made.
    #[must_use]
    pub fn effective(&self, known: &Known<'_>) -> Settings {
        use Origin::{BuiltIn, Inventory, Metadata, Place, Set};
        let (shape, cloud) = (known.shape(), known.cloud());
        let place = Setting::first([
            (self.place.clone(), Set),
            (known.places.first().filter(|_| known.places.len() == 1).map(|only| only.name.clone()), Place),
        ]);
        let at = known.places.iter().find(|known| Some(&known.name) == place.value.as_ref());
        let of_place =
            |value: fn(&super::Place) -> &Option<String>| at.and_then(|place| value(place).clone());
        let of_cloud =
            |value: fn(&CloudInventory) -> &str| cloud.and_then(|cloud| unless_empty(value(cloud)));
        // Where a set was said, a zone is not wanted.
        let zone = cloud.and_then(|cloud| cloud.zone.clone()).filter(|_| self.availability_set.is_none());
        let system = cloud.and_then(|cloud| cloud.disks.iter().find(|disk| disk.lun.is_none()));
        let disk_type = Setting::first([
            (self.disk_type.clone(), Set),
            (of_place(|place| &place.disk_type), Place),
            (system.and_then(|disk| disk.disk_type.clone()), Metadata),
        ]);
        let (boot, secure_boot) = self.firmware(shape);
        let (cache_storage_account, target_storage_account) = self.accounts(at);
        Settings {
            kind: at.map(|place| place.kind),
            direction: known.direction,
            architecture: known.inventory.architecture.clone(),
            source: cloud.map(|cloud| cloud.kind),
            name: Setting::first([
                (self.name.clone(), Set),
                (of_cloud(|cloud| &cloud.name), Metadata),
                (known.inventory.name.split('.').next().and_then(unless_empty), Inventory),
            ]),
            resource_group: Setting::first([
                (self.resource_group.clone(), Set),
                (of_place(|place| &place.resource_group), Place),
                // Another one than the source's: a group has one machine of a name.
                (of_cloud(|cloud| &cloud.resource_group).map(|group| format!("{group}-recovery")), Metadata),
            ]),
            location: Setting::first([
                (self.location.clone(), Set),
                (of_place(|place| &place.location), Place),
                (of_cloud(|cloud| &cloud.location), Metadata),
            ]),
            availability_set: Setting::first([(self.availability_set.clone(), Set)]),
            zone: Setting::first([(self.zone.clone(), Set), (zone, Metadata)]),
            size: Setting::first([(self.size.clone(), Set), (of_cloud(|cloud| &cloud.size), Metadata)]),
            processors: Setting::first([
                (self.processors, Set),
                (shape.and_then(|shape| shape.processors), Inventory),
            ]),
            memory: Setting::first([(self.memory, Set), (shape.and_then(|shape| shape.memory), Inventory)]),
            boot,
            secure_boot,
            cache_storage_account,
            target_storage_account,
            tags: Setting::first([
                (self.tags.clone(), Set),
                (cloud.map(|cloud| cloud.tags.clone()), Metadata),
                (Some(Default::default()), BuiltIn),
            ]),
            interfaces: self.interfaces(known, at),
            disks: self.disks(known, &disk_type),
            place,
            disk_type,
        }
    }

    fn firmware(&self, shape: Option<&Shape>) -> (Setting<BootMode>, Setting<bool>) {
        let boot = Setting::first([
            (self.boot, Origin::Set),
            (shape.and_then(|shape| shape.boot), Origin::Inventory),
            (Some(BootMode::Bios), Origin::BuiltIn),
        ]);
        let secure_boot = Setting::first([
            (self.secure_boot, Origin::Set),
            (shape.and_then(|shape| shape.secure_boot), Origin::Inventory),
            (Some(false), Origin::BuiltIn),
        ]);
        (boot, secure_boot)
    }

    fn accounts(&self, place: Option<&Place>) -> (Setting<String>, Setting<String>) {
        let account = |own: &Option<String>, of_place: Option<&Option<String>>| {
            Setting::first([(own.clone(), Origin::Set), (of_place.and_then(Clone::clone), Origin::Place)])
        };
        (
            account(&self.cache_storage_account, place.map(|place| &place.cache_storage_account)),
            account(&self.target_storage_account, place.map(|place| &place.target_storage_account)),
        )
    }

    fn interfaces(&self, known: &Known<'_>, place: Option<&Place>) -> Vec<InterfaceSettings> {
        let mut interfaces: Vec<&InterfaceInventory> =
            known.shape().into_iter().flat_map(|shape| &shape.interfaces).collect();
        interfaces.sort_by_key(|interface| Reverse(interface.default_route));
        interfaces.into_iter().map(|interface| self.interface(interface, known, place)).collect()
    }

    fn interface(
        &self,
        interface: &InterfaceInventory,
        known: &Known<'_>,
        place: Option<&Place>,
    ) -> InterfaceSettings {
        let own = self.interfaces.iter().find(|own| own.mac.eq_ignore_ascii_case(&interface.mac));
        let mapped = known.mapped(interface);
        // Several would be a guess.
        let only = Some(&mapped).filter(|mapped| mapped.len() == 1).and_then(BTreeSet::first);
        let network = Setting::first([
            (own.and_then(|own| own.network.clone()), Origin::Set),
            (self.network.clone(), Origin::Set),
            (only.map(|(name, _)| name.clone()), Origin::Mapping),
            (place.and_then(|place| place.network.clone()), Origin::Place),
        ]);
        let range = network.value.as_ref().and_then(|network| range_of(network, known.mappings));
        let addresses: Vec<_> = interface.addresses.iter().map(|address| address.address).collect();
        let fits = range.is_none_or(|range| addresses.iter().any(|address| range.contains(*address)));
        let address = Setting::first([
            (own.and_then(|own| own.address), Origin::Set),
            (Some(AddressChoice::New).filter(|_| !fits), Origin::Mapping),
            (Some(AddressChoice::Keep), Origin::BuiltIn),
        ]);
        let kept = |address: &std::net::IpAddr| {
            let same_kind = range.is_none_or(|range| range.contains(*address));
            same_kind || matches!(own.and_then(|own| own.address), Some(AddressChoice::Keep))
        };
        let (keep, from) = match own.and_then(|own| own.keep_mac) {
            // There nobody can choose.
            _ if place.is_some_and(|place| place.kind == PlaceKind::Azure) => (false, Origin::Place),
            Some(keep) => (keep, Origin::Set),
            None => (true, Origin::Inventory),
        };
        InterfaceSettings {
            name: interface.name.clone(),
            source_mac: interface.mac.clone(),
            source_addresses: interface.addresses.clone(),
            mac: Setting { value: Some(interface.mac.clone()).filter(|mac| keep && !mac.is_empty()), from },
            addresses: match address.value {
                Some(AddressChoice::Fixed(address)) => vec![address],
                Some(AddressChoice::Keep) => addresses.into_iter().filter(kept).collect(),
                _ => Vec::new(),
            },
            network,
            range,
            address,
            mtu: interface.mtu,
        }
    }

    fn disks(&self, known: &Known<'_>, of_all: &Setting<String>) -> Vec<DiskSettings> {
        let mut disks: Vec<_> = known.inventory.disks.iter().filter(|disk| !disk.temporary).collect();
        let starts = |disk: &DiskInventory| {
            STARTS
                .iter()
                .position(|start| disk.mounts.iter().any(|mount| mount == start))
                .unwrap_or(STARTS.len())
        };
        // The order that the machine gave is kept among the others. Where none is known to be the system's, the first is.
        disks.sort_by_key(|disk| starts(disk));
        let system = disks.first().map(|disk| disk.id);
        disks.get_mut(1..).unwrap_or_default().sort_by(|a, b| a.name.cmp(&b.name));
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        let mut made: Vec<DiskSettings> = disks
            .iter()
            .map(|disk| {
                let is_system = Some(disk.id) == system;
                let own = self.disks.iter().find(|own| own.disk == disk.id);
                let lun = match is_system {
                    true => Setting { value: None, from: Origin::Inventory },
                    false => Setting::first([
                        (own.and_then(|own| own.lun), Origin::Set),
                        (data_lun(disk, known.cloud()), Origin::Inventory),
                    ]),
                };
                taken.extend(lun.value);
                let told = told_of(known.cloud(), is_system, lun.value);
                let disk_type = Setting::first([
                    (own.and_then(|own| own.disk_type.clone()), Origin::Set),
                    (of_all.value.clone().filter(|_| of_all.from != Origin::Metadata), of_all.from),
                    (told.and_then(|told| told.disk_type.clone()), Origin::Metadata),
                    (of_all.value.clone(), of_all.from),
                ]);
                DiskSettings {
                    id: disk.id,
                    name: disk.name.clone(),
                    size: disk.size,
                    system: is_system,
                    lun,
                    serial: disk.serial.clone(),
                    disk_type,
                }
            })
            .collect();
        // Whoever has no number gets the lowest that nobody has.
        let mut free = (0..MOST_LUNS).filter(|lun| !taken.contains(lun));
        for disk in made.iter_mut().filter(|disk| !disk.system && disk.lun.value.is_none()) {
            disk.lun = Setting { value: free.next(), from: Origin::BuiltIn };
        }
        made
    }
}

/// The range of a network, as far as a mapping that names it says so.
fn range_of(network: &NetworkName, mappings: &[NetworkMapping]) -> Option<Prefix> {
    let ends = mappings.iter().flat_map(|mapping| {
        [(&mapping.target, mapping.target_range), (&mapping.source, mapping.source_range)]
    });
    let mut ends = ends.filter(|(name, _)| *name == network);
    network.range().or_else(|| ends.find_map(|(_, range)| range))
}

/// A disk's number among the data disks, where the cloud gives it one that the machine can see.
fn data_lun(disk: &DiskInventory, cloud: Option<&CloudInventory>) -> Option<u32> {
    let is_azure = cloud.is_some_and(|cloud| cloud.kind == CloudKind::Azure);
    let controller = disk.controller.as_deref().unwrap_or_default();
    let is_data = AZURE_DATA.iter().any(|data| controller.starts_with(data));
    disk.lun.filter(|_| is_azure && is_data)
}

/// What the cloud says of a disk.
fn told_of(cloud: Option<&CloudInventory>, system: bool, lun: Option<u32>) -> Option<&CloudDisk> {
    let mut told = cloud?.disks.iter();
    told.find(|disk| if system { disk.lun.is_none() } else { lun.is_some() && disk.lun == lun })
}
