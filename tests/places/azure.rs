//! What only Azure's kind of place has: settings that it cannot do without, rights in a container, and a template for somebody else to run.
//!
//! Deliberately not here: what a template looks like (`golden/azure.rs`), and whether Azure takes it.

use std::fs;

use mobility_tests::azure_models::AzureModels;
use serde_json::{Value, json};

use crate::{
    rig::{Kind, World, azure_table, place, provider},
    suite::nothing_is_left,
};

#[test]
fn wrong_target_settings_are_named_before_anything_is_touched() {
    let Some(world) = World::new(Kind::AzureByKey) else { return };
    let many: serde_json::Map<String, Value> =
        (0..50).map(|number| (format!("tag-{number}"), "x".into())).collect();
    for (set, named) in [
        (json!({ "size": null }), vec!["size: Azure needs a size"]),
        (
            json!({ "resource_group": "a.", "zone": "9" }),
            vec!["resource_group: ", "zone: a zone is 1, 2 or 3"],
        ),
        (json!({ "network": "dr" }), vec!["interfaces[0]: dr names no subnet"]),
        (
            json!({ "target_storage_account": "another" }),
            vec!["target_storage_account: disks are brought to"],
        ),
        (json!({ "tags": many }), vec!["tags: Azure takes 50"]),
    ] {
        let failure = world.provider.check(&world.spec_with("00000000000000b0", &set)).unwrap_err();
        assert!(named.iter().all(|named| failure.problem.contains(named)), "{failure:?}");
        assert!(failure.hint.contains("machine target set"), "{failure:?}");
        assert!(!place(world.dir.path()).exists());
        nothing_is_left(&world, "00000000000000b0");
    }
    let mut nothing = world.spec("00000000000000b0");
    nothing.target = None;
    assert!(world.provider.check(&nothing).is_err());
    let mut small = world.spec("00000000000000b0");
    small.disks[1].size.0 = 1 << 20;
    assert!(world.provider.check(&small).unwrap_err().problem.contains("from 20 MiB"));
}

#[test]
fn rights_that_are_missing_show_before_a_disk_is_written() {
    let Some(world) = World::new(Kind::AzureBySignature) else { return };
    let (spec, server) = (world.spec("00000000000000b1"), &world.store.as_ref().unwrap().server);
    for rights in ["r", "rcwl", "rcwd", "cwdl"] {
        let lacking = provider(
            world.dir.path(),
            &azure_table(server, Kind::AzureBySignature, rights, world.dir.path()),
        );
        let failure = lacking.check(&spec).unwrap_err();
        assert!(failure.hint.contains("rcwdl"), "{rights}: {failure:?}");
        assert!(!format!("{failure:?}").contains("sig="), "{failure:?}");
    }
    let elsewhere = azure_table(server, Kind::AzureByKey, "", world.dir.path())
        .replace("container = 'recovery'", "container = 'nowhere'");
    let failure = provider(world.dir.path(), &elsewhere).check(&spec).unwrap_err();
    assert!(failure.problem.contains("nowhere") && !failure.hint.is_empty(), "{failure:?}");
    world.provider.remove(&spec.failover).unwrap();
    nothing_is_left(&world, &spec.failover);
}

#[test]
fn the_template_makes_the_machine_of_the_blobs_and_holds_no_secret() {
    let Some(world) = World::new(Kind::AzureBySignature) else { return };
    let models = AzureModels::find();
    let mut made = Vec::new();
    for isolated in [true, false] {
        let mut spec = world.spec("00000000000000b2");
        spec.isolated = isolated;
        for disk in 0..2 {
            world.restored(&spec, disk, world.epochs[1]);
        }
        world.provider.make(&spec).unwrap();
        let read = |name: &str| {
            fs::read_to_string(place(world.dir.path()).join("00000000000000b2").join(name)).unwrap()
        };
        let text = read("azure.json");
        let template: Value = serde_json::from_str(&text).unwrap();
        let (parameters, script) = (read("azure.parameters.json"), read("azure.sh"));
        assert!([&text, &parameters, &script].iter().all(|text| !text.contains("sig=")));
        if let Some(models) = &models {
            models.allow(&template, Some(&serde_json::from_str(&parameters).unwrap()));
        }
        let resources = template["resources"].as_array().unwrap();
        let of = |kind: &'static str| resources.iter().filter(move |one| one["type"] == kind);
        for (number, disk) in of("Microsoft.Compute/disks").enumerate() {
            let source = disk["properties"]["creationData"]["sourceUri"].as_str().unwrap();
            let blob = format!("/recovery/dr/disks/00000000000000b2/{}.vhd", world.maker.disks[number].id);
            assert!(source.starts_with("https://127.0.0.1:") && source.ends_with(&blob), "{source}");
        }
        assert_eq!(template["parameters"]["tags"]["defaultValue"]["recovery-failover"], "00000000000000b2");
        let name = template["parameters"]["machineName"]["defaultValue"].as_str().unwrap();
        let group = of("Microsoft.Network/networkSecurityGroups").count();
        assert_eq!((name, group), if isolated { ("web-test", 1) } else { ("web", 0) });
        assert!(
            script.contains("az deployment group create --resource-group dr --name recover-web"),
            "{script}"
        );
        made.push(text);
        // What was there is replaced as a whole, and nothing stays beside it.
        let names = fs::read_dir(place(world.dir.path()).join("00000000000000b2")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["azure.json", "azure.parameters.json", "azure.sh"]);
    }
    assert_ne!(made[0], made[1]);
    world.provider.remove("00000000000000b2").unwrap();
    nothing_is_left(&world, "00000000000000b2");
}
