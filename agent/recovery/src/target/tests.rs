//! Settings by table: what is known, what was said, and what has to follow.

use std::collections::BTreeMap;

use mobility_format::{
    ByteCount, DiskId,
    control::{
        BootMode, CloudDisk, CloudInterface, CloudInventory, CloudKind, DiskInventory, InterfaceAddress,
        InterfaceInventory, Inventory, Shape,
    },
};

use super::*;

fn disk(name: &str, mounts: &[&str], controller: &str, lun: u32) -> DiskInventory {
    DiskInventory {
        id: DiskId::derive(name),
        name: name.to_owned(),
        size: ByteCount(32 << 30),
        mounts: mounts.iter().map(|mount| (*mount).to_owned()).collect(),
        labels: Vec::new(),
        temporary: false,
        controller: Some(controller.to_owned()),
        lun: Some(lun),
        serial: None,
    }
}

fn interface(name: &str, mac: &str, address: &str, default_route: bool) -> InterfaceInventory {
    InterfaceInventory {
        name: name.to_owned(),
        mac: mac.to_owned(),
        addresses: vec![InterfaceAddress { address: address.parse().unwrap(), prefix: 24 }],
        gateway: None,
        default_route,
        mtu: Some(1500),
    }
}

/// A machine in Azure with a system disk, two data disks and a temporary one.
fn machine() -> Inventory {
    let data = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";
    let temporary = DiskInventory { temporary: true, ..disk("/dev/sdb", &["/mnt"], "f8b3781a", 1) };
    let cloud = CloudInventory {
        kind: CloudKind::Azure,
        id: "02aab8a4-74ef-476e-8182-f6d2ba4166a6".to_owned(),
        name: "web".to_owned(),
        subscription: "8d10da13-8125-4ba9-a717-bf7490507b3d".to_owned(),
        resource_group: "shop".to_owned(),
        location: "westeurope".to_owned(),
        size: "Standard_D2s_v5".to_owned(),
        zone: Some("3".to_owned()),
        tags: BTreeMap::from([("owner".to_owned(), "shop".to_owned())]),
        interfaces: vec![CloudInterface {
            mac: "00:0d:3a:00:00:01".to_owned(),
            addresses: vec!["10.1.0.7".parse().unwrap()],
            subnet: Some("10.1.0.0/24".to_owned()),
        }],
        disks: vec![
            CloudDisk { lun: None, name: "os".to_owned(), disk_type: Some("Premium_LRS".to_owned()) },
            CloudDisk { lun: Some(3), name: "data".to_owned(), disk_type: Some("Standard_LRS".to_owned()) },
        ],
    };
    Inventory {
        name: "web.example".to_owned(),
        disks: vec![
            disk("/dev/sdc", &["/srv"], data, 3),
            temporary,
            disk("/dev/sda", &["/", "/boot/efi"], "f8b3781a-1e82-4818-a1c3-63d806ec15bb", 0),
            disk("/dev/sdd", &[], "elsewhere", 3),
        ],
        shape: Some(Shape {
            boot: Some(BootMode::Uefi),
            secure_boot: Some(false),
            processors: Some(2),
            memory: Some(ByteCount(8 << 30)),
            interfaces: vec![
                interface("eth1", "00:0d:3a:00:00:02", "10.9.0.7", false),
                interface("eth0", "00:0d:3a:00:00:01", "10.1.0.7", true),
            ],
            cloud: Some(cloud),
        }),
        ..Inventory::default()
    }
}

fn mapping(source: &str, source_range: &str, target: &str, target_range: Option<&str>) -> NetworkMapping {
    NetworkMapping {
        source: source.parse().unwrap(),
        source_range: Some(source_range.parse().unwrap()),
        target: target.parse().unwrap(),
        target_range: target_range.map(|range| range.parse().unwrap()),
    }
}

fn mappings() -> [NetworkMapping; 2] {
    [
        mapping("prod/web", "10.1.0.0/24", "dr/web", Some("10.2.0.0/24")),
        mapping("prod/backup", "10.9.0.0/24", "dr/backup", None),
    ]
}

fn azure() -> Place {
    Place { location: Some("northeurope".to_owned()), ..Place::new("north", PlaceKind::Azure) }
}

fn said(json: serde_json::Value) -> TargetSettings {
    serde_json::from_value(json).unwrap()
}

fn text(setting: &Setting<String>) -> (Option<&str>, Origin) {
    (setting.value.as_deref(), setting.from)
}

#[test]
fn what_nobody_set_follows_from_the_machine_and_its_cloud() {
    let (inventory, mappings, places) = (machine(), mappings(), [azure()]);
    let known =
        Known { inventory: &inventory, mappings: &mappings, places: &places, direction: Direction::Forth };
    let none = TargetSettings::default();
    let settings = none.effective(&known);
    assert_eq!(none.problems(&known, &settings), []);
    assert_eq!(text(&settings.place), (Some("north"), Origin::Place));
    assert_eq!(text(&settings.name), (Some("web"), Origin::Metadata));
    assert_eq!(text(&settings.resource_group), (Some("shop-recovery"), Origin::Metadata));
    assert_eq!(text(&settings.location), (Some("northeurope"), Origin::Place));
    assert_eq!(text(&settings.availability_set), (None, Origin::Unknown));
    assert_eq!(text(&settings.zone), (Some("3"), Origin::Metadata));
    assert_eq!(text(&settings.size), (Some("Standard_D2s_v5"), Origin::Metadata));
    assert_eq!((settings.boot.value, settings.boot.from), (Some(BootMode::Uefi), Origin::Inventory));
    assert_eq!((settings.processors.value, settings.memory.value), (Some(2), Some(ByteCount(8 << 30))));
    assert_eq!(settings.tags.value.as_ref().unwrap()["owner"], "shop");
    let shown = |interface: &InterfaceSettings| {
        let network = interface.network.value.as_ref().map(ToString::to_string);
        (interface.name.clone(), network, interface.address.value.unwrap(), interface.addresses.len())
    };
    let interfaces: Vec<_> = settings.interfaces.iter().map(shown).collect();
    // The address is not in the target's range, so that it cannot be kept; of the other range nothing is known.
    let expected = [
        ("eth0".to_owned(), Some("dr/web".to_owned()), AddressChoice::New, 0),
        ("eth1".to_owned(), Some("dr/backup".to_owned()), AddressChoice::Keep, 1),
    ];
    assert_eq!(interfaces, expected);
    let disks: Vec<_> =
        settings.disks.iter().map(|disk| (disk.name.as_str(), disk.system, disk.lun.value)).collect();
    assert_eq!(disks, [("/dev/sda", true, None), ("/dev/sdc", false, Some(3)), ("/dev/sdd", false, Some(0))]);
    let types: Vec<_> = settings.disks.iter().map(|disk| disk.disk_type.value.as_deref().unwrap()).collect();
    assert_eq!(types, ["Premium_LRS", "Standard_LRS", "Premium_LRS"]);
}

#[test]
fn what_was_set_goes_before_what_follows() {
    let (inventory, mappings, places) = (machine(), mappings(), [azure()]);
    let known =
        Known { inventory: &inventory, mappings: &mappings, places: &places, direction: Direction::Forth };
    let set = said(serde_json::json!({
        "name": "web-dr", "resource_group": "dr", "location": "uksouth", "availability_set": "web-set", "size": "Standard_E4s_v5",
        "processors": 4, "memory": 1 << 30, "boot": "bios", "disk_type": "StandardSSD_LRS", "tags": {},
        "network": "dr/all",
        "interfaces": [
            { "mac": "00:0D:3A:00:00:01", "network": "dr/web", "address": "10.2.0.9", "keep_mac": false },
        ],
        "disks": [{ "disk": DiskId::derive("/dev/sdd"), "lun": 7, "disk_type": "Premium_ZRS" }],
    }));
    let settings = set.effective(&known);
    assert_eq!(set.problems(&known, &settings), []);
    for setting in [
        &settings.name,
        &settings.resource_group,
        &settings.location,
        &settings.availability_set,
        &settings.size,
    ] {
        assert_eq!(setting.from, Origin::Set, "{setting:?}");
    }
    assert_eq!(text(&settings.zone), (None, Origin::Unknown), "a set was wanted instead");
    assert_eq!(settings.tags, Setting { value: Some(BTreeMap::new()), from: Origin::Set });
    let first = &settings.interfaces[0];
    assert_eq!(first.addresses, ["10.2.0.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(first.mac, Setting { value: None, from: Origin::Place }, "in Azure nobody can choose");
    assert_eq!(settings.interfaces[1].network.value.as_ref().unwrap().as_str(), "dr/all");
    let types: Vec<_> = settings.disks.iter().map(|disk| disk.disk_type.value.as_deref().unwrap()).collect();
    assert_eq!(types, ["StandardSSD_LRS", "StandardSSD_LRS", "Premium_ZRS"]);
    assert_eq!(settings.disks[2].lun.value, Some(7));
}

#[test]
fn on_the_way_back_mappings_are_read_the_other_way() {
    let (mut inventory, mappings) = (machine(), mappings());
    let shape = inventory.shape.as_mut().unwrap();
    shape.cloud = None;
    shape.interfaces = vec![interface("eth0", "00:0d:3a:00:00:01", "10.2.0.9", true)];
    let known = |direction| Known { inventory: &inventory, mappings: &mappings, places: &[], direction };
    let network = |direction| {
        let settings = TargetSettings::default().effective(&known(direction));
        settings.interfaces[0].network.value.as_ref().unwrap().to_string()
    };
    assert_eq!(network(Direction::Back), "prod/web");
    assert_eq!(network(Direction::Forth), "prod/web", "there is no other mapping for it");
}

#[test]
fn a_range_that_is_the_same_at_both_ends_goes_by_the_direction() {
    let same = [mapping("prod/web", "10.1.0.0/24", "dr/web", Some("10.1.0.0/24"))];
    let inventory = machine();
    for (direction, expected) in [(Direction::Forth, "dr/web"), (Direction::Back, "prod/web")] {
        let known = Known { inventory: &inventory, mappings: &same, places: &[], direction };
        let settings = TargetSettings::default().effective(&known);
        let first = &settings.interfaces[0];
        assert_eq!(first.network.value.as_ref().unwrap().as_str(), expected);
        assert_eq!(first.address.value, Some(AddressChoice::Keep), "it fits there");
        assert_eq!(text(&first.mac), (Some("00:0d:3a:00:00:01"), Origin::Inventory));
    }
}

/// The fields in which something blocks.
fn blocked(set: &serde_json::Value, change: impl FnOnce(&mut Inventory), places: &[Place]) -> Vec<String> {
    let (mut inventory, mappings) = (machine(), mappings());
    change(&mut inventory);
    let known = Known { inventory: &inventory, mappings: &mappings, places, direction: Direction::Forth };
    let set = said(set.clone());
    let problems = set.problems(&known, &set.effective(&known));
    problems.into_iter().filter(|problem| problem.blocks).map(|problem| problem.field).collect()
}

#[test]
fn what_would_fail_is_told_before() {
    let (azure, qemu) = (azure(), Place::new("host", PlaceKind::Qemu));
    let first = "00:0d:3a:00:00:01";
    let own = |value: serde_json::Value| serde_json::json!({ "interfaces": [value] });
    let many: BTreeMap<String, String> = (0..51).map(|number| (number.to_string(), String::new())).collect();
    let sdd = DiskId::derive("/dev/sdd");
    let cases = [
        (serde_json::json!({ "place": "south" }), "place"),
        (serde_json::json!({ "resource_group": "a/b" }), "resource_group"),
        (serde_json::json!({ "location": "North Europe" }), "location"),
        (serde_json::json!({ "size": "large one" }), "size"),
        (serde_json::json!({ "zone": "1", "availability_set": "set" }), "zone"),
        (serde_json::json!({ "zone": "north" }), "zone"),
        (serde_json::json!({ "target_storage_account": "Capitals" }), "target_storage_account"),
        (serde_json::json!({ "cache_storage_account": "no" }), "cache_storage_account"),
        (serde_json::json!({ "tags": { "a/b": "c" } }), "tags"),
        (serde_json::json!({ "tags": many }), "tags"),
        (serde_json::json!({ "processors": 0 }), "processors"),
        (serde_json::json!({ "memory": 2048 }), "memory"),
        (own(serde_json::json!({ "mac": first, "address": "keep" })), "interfaces[0]"),
        (own(serde_json::json!({ "mac": first, "address": "10.2.0.3" })), "interfaces[0]"),
        (own(serde_json::json!({ "mac": first, "address": "10.2.0.255" })), "interfaces[0]"),
        (own(serde_json::json!({ "mac": first, "address": "10.3.0.9" })), "interfaces[0]"),
        (own(serde_json::json!({ "mac": first, "network": "dr" })), "interfaces[0]"),
        (
            own(serde_json::json!({ "mac": first, "network": "10.7.0.0/24", "address": "new" })),
            "interfaces[0]",
        ),
        (serde_json::json!({ "disks": [{ "disk": sdd, "lun": 3 }] }), "disks"),
        (serde_json::json!({ "disks": [{ "disk": sdd, "lun": 64 }] }), "disks"),
    ];
    for (set, field) in cases {
        let found = blocked(&set, |_| {}, std::slice::from_ref(&azure));
        assert!(found.contains(&field.to_owned()), "{set}: {found:?}");
    }
    let both = [azure.clone(), qemu.clone()];
    let none = serde_json::json!({});
    assert_eq!(blocked(&none, |_| {}, &both), ["place"]);
    assert_eq!(blocked(&none, |_| {}, &[]), ["place"]);
    assert_eq!(blocked(&serde_json::json!({ "place": "host" }), |_| {}, &both), [""; 0]);
    let unknown = |inventory: &mut Inventory| inventory.shape = None;
    assert_eq!(blocked(&none, unknown, &[azure]), ["resource_group", "size", "interfaces"]);
    assert_eq!(blocked(&none, unknown, &[qemu]), [""; 0], "a host can go by what it takes itself");
}

#[test]
fn two_mappings_for_one_network_are_no_guess() {
    let inventory = machine();
    let both = [
        mapping("prod/web", "10.1.0.0/24", "dr/web", None),
        mapping("old/web", "10.1.0.0/24", "dr/old", None),
    ];
    let known =
        Known { inventory: &inventory, mappings: &both, places: &[azure()], direction: Direction::Forth };
    let none = TargetSettings::default();
    let settings = none.effective(&known);
    assert_eq!(settings.interfaces[0].network.value, None);
    let problems = none.problems(&known, &settings);
    assert!(problems.iter().any(|problem| problem.message.contains("2 mappings")), "{problems:?}");
}

#[test]
fn names_of_networks_are_taken_apart() {
    let full =
        "/subscriptions/8d10/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/dr/subnets/web";
    for (text, network, subnet) in [
        ("dr", "dr", None),
        ("dr/web", "dr", Some("web")),
        (full, "dr", Some("web")),
        ("10.1.0.0/24", "10.1.0.0/24", None),
    ] {
        let name: NetworkName = text.parse().unwrap();
        assert_eq!((name.network(), name.subnet()), (network, subnet), "{text}");
        assert_eq!(name.to_string(), text);
    }
    for bad in ["", "/", "a/", "a/b/c", "a b", "/subscriptions/x", "a'b", &"n".repeat(600)] {
        assert!(bad.parse::<NetworkName>().is_err(), "{bad}");
    }
    for bad in ["10.0.0.1/24", "10.0.0.0/33", "10.0.0.0", "x/8", "::1/64"] {
        assert!(bad.parse::<Prefix>().is_err(), "{bad}");
    }
    let all: Prefix = "0.0.0.0/0".parse().unwrap();
    assert!(all.contains("255.1.2.3".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    let six: Prefix = "fd00:1::/32".parse().unwrap();
    assert!(six.contains("fd00:1:2::3".parse().unwrap()) && !six.contains("fd00:2::".parse().unwrap()));
}

#[test]
fn settings_that_are_not_known_are_refused() {
    for bad in [
        r#"{"plaice":"north"}"#,
        r#"{"interfaces":[{"mac":"a","adress":"new"}]}"#,
        r#"{"interfaces":[{"address":"new"}]}"#,
        r#"{"interfaces":[{"mac":"a","address":"10.0.0"}]}"#,
        r#"{"boot":"coreboot"}"#,
        r#"{"network":"a/b/c"}"#,
        r#"{"disks":[{"disk":"x"}]}"#,
    ] {
        assert!(serde_json::from_str::<TargetSettings>(bad).is_err(), "{bad}");
    }
    assert_eq!(serde_json::to_string(&TargetSettings::default()).unwrap(), "{}");
}
