//! Templates for Azure: as they were when somebody last looked at them, and as Microsoft says that they may be.
//!
//! They are held to two things. A schema of our own, written from Microsoft's reference, lets nothing pass that it does not name; it was
//! compared with the published schemas, which come with no package that a test could take. And Microsoft's own models, which do
//! (`azure_models/checker.py`), know what is required, read-only or of another type, whether or not we thought of it. To change a template, remove
//! its file and make it again with `MOBILITY_WRITE_GOLDEN=1 cargo test -p mobility-tests --test golden`, and look at what is different.
//! Deliberately not here: whether Azure takes a template, which only Azure can say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use boon::{Compiler, Schemas};
use mobility_format::{ByteCount, DiskId, control::Inventory};
use mobility_recovery::{
    azure::{DiskSource, TemplateDisk, TemplateError, commands, creating, isolated, parameters, template},
    target::{Direction, Known, NetworkMapping, Place, PlaceKind, Settings, TargetSettings},
};
use mobility_tests::azure_models::AzureModels;
use serde_json::{Value, json};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/azure").join(name)
}

/// Compares with what is checked in.
fn is_golden(name: &str, text: &str) {
    let path = file(name);
    if !path.exists() && std::env::var("MOBILITY_WRITE_GOLDEN").as_deref() == Ok("1") {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    assert_eq!(text, golden, "{name}");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

/// What is wrong with a template by the reference.
fn wrong_with(template: &Value) -> Option<String> {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(file("template.schema.json")).unwrap()).unwrap();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("https://golden/template.json", schema).unwrap();
    let compiled = compiler.compile("https://golden/template.json", &mut schemas).unwrap();
    schemas.validate(template, compiled).err().map(|err| err.to_string())
}

/// A machine in Azure with two interfaces and three disks, one of them temporary.
fn inventory() -> Inventory {
    let data = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";
    let disk = |name: &str, mounts: Value, controller: &str, lun: u32, temporary: bool| {
        json!({
            "id": DiskId::derive(name), "name": name, "size": 32_u64 << 30, "mounts": mounts, "labels": [],
            "temporary": temporary, "controller": controller, "lun": lun,
        })
    };
    let interface = |name: &str, mac: &str, address: &str, default: bool| json!({ "name": name, "mac": mac, "addresses": [{ "address": address, "prefix": 24 }], "default_route": default });
    serde_json::from_value(json!({
        "name": "web.example", "system": "Debian GNU/Linux 12", "kernel": "6.1", "architecture": "x86_64", "agent": "0.1.0",
        "hardware": "hardware",
        "disks": [
            disk("/dev/sda", json!(["/boot/efi", "/"]), "f8b3781a-1e82-4818-a1c3-63d806ec15bb", 0, false),
            disk("/dev/sdb", json!(["/mnt"]), "f8b3781a-1e82-4818-a1c3-63d806ec15bb", 1, true),
            disk("/dev/sdc", json!(["/srv"]), data, 4, false),
        ],
        "shape": {
            "boot": "uefi", "processors": 2, "memory": 8_u64 << 30,
            "interfaces": [
                interface("eth0", "00:0d:3a:00:00:01", "10.1.0.7", true),
                interface("eth1", "00:0d:3a:00:00:02", "10.9.0.7", false),
            ],
            "cloud": {
                "kind": "azure", "name": "web_1", "subscription": "8d10da13", "resource_group": "shop",
                "location": "westeurope", "size": "Standard_D2s_v5", "zone": "2",
                // Azure would compute this one if it were not told that it is a text.
                "tags": { "owner": "shop", "note": "[resourceGroup().id]" },
                "interfaces": [],
                "disks": [{ "name": "os", "disk_type": "Premium_LRS" }, { "lun": 4, "name": "data" }],
            },
        },
    }))
    .unwrap()
}

fn settings(set: Value, inventory: &Inventory) -> Settings {
    let mapping = |source: &str, range: &str, target: &str, there: &str| NetworkMapping {
        source: source.parse().unwrap(),
        source_range: Some(range.parse().unwrap()),
        target: target.parse().unwrap(),
        target_range: Some(there.parse().unwrap()),
    };
    let backup = "/subscriptions/8d10da13/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/dr/subnets/backup";
    let mappings = [
        mapping("prod/web", "10.1.0.0/24", "dr/web", "10.1.0.0/24"),
        mapping("prod/backup", "10.9.0.0/24", backup, "10.8.0.0/24"),
    ];
    let places = [Place {
        location: Some("northeurope".to_owned()),
        target_storage_account: Some("drdisks".to_owned()),
        ..Place::new("north", PlaceKind::Azure)
    }];
    let known = Known { inventory, mappings: &mappings, places: &places, direction: Direction::Forth };
    let set: TargetSettings = serde_json::from_value(set).unwrap();
    let settings = set.effective(&known);
    assert!(set.problems(&known, &settings).iter().all(|problem| !problem.blocks));
    settings
}

fn imported() -> Vec<TemplateDisk> {
    let disk = |name: &str, size: u64| TemplateDisk {
        id: DiskId::derive(name),
        size: ByteCount(size),
        source: DiskSource::Import {
            uri: format!("https://drdisks.blob.core.windows.net/restored/{}.vhd", &name[5..]),
        },
    };
    // The order is not the one that they get.
    vec![disk("/dev/sdc", (32 << 30) + 4096), disk("/dev/sda", 32 << 30)]
}

fn uploaded() -> Vec<TemplateDisk> {
    let file = |disk: TemplateDisk| {
        let DiskSource::Import { uri } = &disk.source else { panic!() };
        let file = uri.rsplit('/').next().unwrap().to_owned();
        TemplateDisk { source: DiskSource::Upload { file }, ..disk }
    };
    imported().into_iter().map(file).collect()
}

/// Every resource that is depended on is made in the same template.
fn holds_together(template: &Value) {
    let resources = template["resources"].as_array().unwrap();
    let names: BTreeSet<String> = resources
        .iter()
        .map(|one| one["name"].as_str().unwrap().trim_matches(['[', ']']).to_owned())
        .collect();
    let machine = resources.last().unwrap();
    let needs: Vec<&str> =
        machine["dependsOn"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!(needs.len(), resources.len() - 1);
    for need in needs {
        let found = names
            .iter()
            .any(|name| need.contains(&format!(", {name})")) || need.contains(&format!(", '{name}')")));
        assert!(found, "{need} is not among {names:?}");
    }
    // Parameters that are used are those that there are.
    let text = template.to_string();
    let used: BTreeSet<&str> =
        text.split("parameters('").skip(1).map(|rest| rest.split('\'').next().unwrap()).collect();
    let known: BTreeSet<&str> =
        template["parameters"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(used, known);
}

#[test]
fn templates_are_as_they_were_and_as_the_reference_says() {
    let inventory = inventory();
    let in_zone = settings(json!({}), &inventory);
    let in_set = settings(
        json!({ "availability_set": "web set", "tags": {}, "boot": "bios", "name": "web's", "disk_type": "Standard_LRS" }),
        &inventory,
    );
    for (name, settings, disks) in [("import", &in_zone, imported()), ("upload", &in_set, uploaded())] {
        let made = template(settings, &disks).unwrap();
        assert_eq!(wrong_with(&made), None, "{name}");
        holds_together(&made);
        let given = parameters(&made);
        is_golden(&format!("{name}.json"), &pretty(&made));
        is_golden(&format!("{name}.parameters.json"), &pretty(&given));
        let script = commands(settings, &disks, "azure.json", "azure.parameters.json").unwrap();
        is_golden(&format!("{name}.sh"), &script);
        let says = script.contains("az deployment group create --resource-group shop-recovery");
        assert!(says && !made.to_string().contains("adminPassword"), "{script}");
    }
}

#[test]
fn an_isolated_machine_has_a_group_around_every_interface() {
    let inventory = inventory();
    for disks in [imported(), uploaded()] {
        let made = template(&settings(json!({}), &inventory), &disks).unwrap();
        let alone = isolated(made.clone());
        assert_eq!(wrong_with(&alone), None);
        let mut interfaces = 0;
        for resource in alone["resources"].as_array().unwrap() {
            let group = &resource["properties"]["networkSecurityGroup"]["id"];
            let is_interface = resource["type"] == "Microsoft.Network/networkInterfaces";
            assert_eq!(group.is_string(), is_interface, "{resource}");
            if is_interface {
                interfaces += 1;
                assert_eq!(resource["dependsOn"], json!([group]));
            }
        }
        assert_eq!(interfaces, 2);
        let group = &alone["resources"][0];
        let rules = group["properties"]["securityRules"].as_array().unwrap();
        let denied: BTreeSet<_> = rules
            .iter()
            .map(|rule| (&rule["properties"]["access"], &rule["properties"]["direction"]))
            .map(|(access, way)| (access.as_str(), way.as_str()))
            .collect();
        assert_eq!(
            denied,
            BTreeSet::from([(Some("Deny"), Some("Inbound")), (Some("Deny"), Some("Outbound"))])
        );
        assert_eq!(
            alone["resources"].as_array().unwrap().len(),
            made["resources"].as_array().unwrap().len() + 1
        );
    }
}

#[test]
fn microsofts_models_allow_what_is_made() {
    let Some(models) = AzureModels::find() else { return };
    let read = |path: PathBuf| serde_json::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    let mut held_to = BTreeMap::new();
    for name in ["import", "upload"] {
        let (made, given) =
            (read(file(&format!("{name}.json"))), read(file(&format!("{name}.parameters.json"))));
        models.allow(&made, Some(&given));
        held_to.extend(models.judge(&isolated(made), None).held_to);
    }
    // The package with networks has one version alone, a later one.
    let compute = |version: &str| format!("azure-mgmt-compute 33.0.0, {version}");
    let network = "azure-mgmt-network 28.1.0, 2024-05-01".to_owned();
    let expected = [
        ("Microsoft.Compute/availabilitySets 2022-11-01", compute("2022-11-01")),
        ("Microsoft.Compute/disks 2022-07-02", compute("2022-07-02")),
        ("Microsoft.Compute/virtualMachines 2022-11-01", compute("2022-11-01")),
        ("Microsoft.Network/networkInterfaces 2022-11-01", network.clone()),
        ("Microsoft.Network/networkSecurityGroups 2022-11-01", network),
    ];
    let expected = expected.map(|(kind, package)| (kind.to_owned(), package));
    assert_eq!(held_to, BTreeMap::from(expected));

    let mut other = inventory();
    other.architecture = "aarch64".to_owned();
    let six = json!({ "address": "fd00::7", "prefix": 64 });
    other.shape.as_mut().unwrap().interfaces[0].addresses.push(serde_json::from_value(six).unwrap());
    let other = settings(json!({ "availability_set": "one" }), &other);
    for disks in [imported(), uploaded()] {
        let made = template(&other, &disks).unwrap();
        let given = parameters(&made);
        models.allow(&isolated(made), Some(&given));
    }
}

/// Where something is put into a template, its name and its value, or nothing where it is removed; and what is said of that.
const PLANTED: [(&str, &str, &str, &str); 18] = [
    (
        "/resources/4/properties/storageProfile/osDisk",
        "cacheing",
        "'None'",
        "osDisk.cacheing: there is no such",
    ),
    ("/resources/4/properties/storageProfile/osDisk", "createOption", "'Atach'", "'Atach' is none of Attach"),
    ("/resources/4/properties/storageProfile/dataDisks/0", "lun", "", "dataDisks[0].lun: it is required"),
    ("/resources/4/properties/storageProfile/dataDisks/0", "lun", "'4'", "'4' is no int"),
    ("/resources/4/properties/networkProfile/networkInterfaces/0", "id", "1", "[0].id: 1 is no str"),
    ("/resources/4/properties", "vmId", "'a'", "properties.vmId: it is only ever an answer"),
    ("/resources/4/properties", "networkProfile", "[]", "networkProfile: [] is no object"),
    ("/resources/4", "zones", "\"[concat('2')]\"", "zones: an expression that comes to str is no [str]"),
    ("/resources/4", "dependsOn", "{}", "dependsOn: {} is no list"),
    ("/resources/4", "type", "'Microsoft.Compute/x'", "no model of 'Microsoft.Compute/x'"),
    (
        "/resources/3",
        "location",
        "\"[parameters('place')]\"",
        "parameter place: it is used, and there is none",
    ),
    ("/resources/0", "location", "", "resources[0].location: it is required"),
    ("/resources/0/sku", "name", "'Premium'", "sku.name: 'Premium' is none of"),
    ("/resources/2/properties/ipConfigurations/0/properties", "primary", "1", "primary: 1 is no bool"),
    (
        "/resources/2/properties/ipConfigurations/0/properties",
        "privateIPAddressPrefixLength",
        "129",
        "129 is less or more",
    ),
    ("/parameters/tags/defaultValue", "owner", "1", "tags[owner]: 1 is no str"),
    ("/parameters/location", "type", "'int'", "'northeurope' is no int"),
    ("/parameters/location", "allowedValues", "['west']", "'northeurope' is not allowed"),
];

#[test]
fn what_microsofts_models_do_not_allow_is_found() {
    let Some(models) = AzureModels::find() else { return };
    let made = template(&settings(json!({}), &inventory()), &imported()).unwrap();
    for (place, name, value, said) in PLANTED {
        let mut other = made.clone();
        let object = other.pointer_mut(place).unwrap().as_object_mut().unwrap();
        let value = if value.contains('"') { value.to_owned() } else { value.replace('\'', "\"") };
        match value.as_str() {
            "" => drop(object.remove(name).unwrap()),
            value => drop(object.insert(name.to_owned(), serde_json::from_str(value).unwrap())),
        }
        let wrong = models.judge(&other, None).wrong;
        assert!(wrong.iter().any(|one| one.contains(said)), "{place}/{name}: {wrong:?}");
    }
    let given = json!({ "parameters": { "machinesize": { "value": "Standard_D2s_v5" } } });
    let wrong = models.judge(&made, Some(&given)).wrong;
    assert!(wrong.len() == 1 && wrong[0].contains("machinesize: the template has no such"), "{wrong:?}");
    // Whether a whole object comes out of it, nobody knows.
    let mut unknown = made;
    unknown["resources"][2]["tags"] = "[resourceGroup()]".into();
    models.allow(&unknown, None);
}

#[test]
fn the_command_that_makes_the_machine_is_the_last_of_its_script() {
    let inventory = inventory();
    for disks in [imported(), uploaded()] {
        let phase = if disks == imported() { "" } else { " phase=machine" };
        let script = commands(&settings(json!({}), &inventory), &disks, "azure.json", "p.json").unwrap();
        let expected = format!(
            "az deployment group create --resource-group shop-recovery --name recover-web-1 --template-file azure.json --parameters @p.json{phase}"
        );
        assert_eq!(creating(&script), Some(expected));
    }
    assert_eq!(creating("#!/bin/sh\n"), None);
}

#[test]
fn a_text_stays_a_text() {
    let inventory = inventory();
    let made = template(&settings(json!({}), &inventory), &imported()).unwrap();
    assert_eq!(made["parameters"]["tags"]["defaultValue"]["note"], "[[resourceGroup().id]");
    // In a file of parameters nothing is computed.
    assert_eq!(parameters(&made)["parameters"]["tags"]["value"]["note"], "[resourceGroup().id]");
    assert_eq!(parameters(&made)["parameters"]["networkResourceGroup"], Value::Null);
}

#[test]
fn what_is_not_in_the_reference_is_found() {
    let inventory = inventory();
    let made = template(&settings(json!({}), &inventory), &imported()).unwrap();
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 8] = [
        ("a profile of an operating system", |made| {
            made["resources"][4]["properties"]["osProfile"] = json!({})
        }),
        ("another version", |made| made["resources"][0]["apiVersion"] = "2099-01-01".into()),
        ("an address with a signature", |made| {
            made["resources"][0]["properties"]["creationData"]["sourceUri"] = "https://a/b?sig=x".into();
        }),
        ("a name with a space", |made| made["resources"][0]["name"] = "a b".into()),
        ("a number beyond the last", |made| {
            made["resources"][4]["properties"]["storageProfile"]["dataDisks"][0]["lun"] = 64.into();
        }),
        ("a fixed address that is none", |made| {
            let address = &mut made["resources"][2]["properties"]["ipConfigurations"][0]["properties"];
            address.as_object_mut().unwrap().remove("privateIPAddress");
        }),
        ("no machine", |made| drop(made["resources"].as_array_mut().unwrap().pop())),
        ("a parameter of an unknown kind", |made| made["parameters"]["location"]["type"] = "text".into()),
    ];
    for (name, change) in changes {
        let mut other = made.clone();
        change(&mut other);
        assert!(wrong_with(&other).is_some(), "{name}");
    }
}

#[test]
fn what_azure_would_not_take_is_no_template() {
    let inventory = inventory();
    let good = settings(json!({}), &inventory);
    let lacking = |change: fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        template(&settings, &imported()).unwrap_err()
    };
    let missing = |what: &str| TemplateError::Missing(what.to_owned());
    assert_eq!(lacking(|settings| settings.size.value = None), missing("the size"));
    assert_eq!(lacking(|settings| settings.location.value = None), missing("the location"));
    assert_eq!(lacking(|settings| settings.interfaces.clear()), missing("a network interface"));
    let subnet = missing("the network and subnet of interface eth0");
    assert_eq!(lacking(|settings| settings.interfaces[0].network.value = None), subnet);
    let other = |change: fn(&mut TemplateDisk)| {
        let mut disks = imported();
        change(&mut disks[1]);
        template(&good, &disks).unwrap_err()
    };
    let import = |uri: &str| DiskSource::Import { uri: uri.to_owned() };
    assert_eq!(template(&good, &imported()[..1]).unwrap_err(), TemplateError::NoSystemDisk);
    assert!(matches!(other(|disk| disk.id = DiskId::derive("other")), TemplateError::UnknownDisk(_)));
    assert!(matches!(other(|disk| disk.size = ByteCount(1 << 20)), TemplateError::Size(_)));
    assert!(matches!(other(|disk| disk.size = ByteCount(33 << 40)), TemplateError::Size(_)));
    for address in ["http://a/b.vhd", "https://a/b.vhd?sig=secret", "https://name@a/b.vhd"] {
        let mut disks = imported();
        disks[0].source = import(address);
        assert_eq!(template(&good, &disks).unwrap_err(), TemplateError::Address, "{address}");
    }
}
