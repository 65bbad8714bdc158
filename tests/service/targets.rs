//! Where machines are to run when they are failed over: what follows from what they told, what an administrator says, and that neither is
//! lost with the database.
//!
//! Deliberately not here: which value follows from what, which tests beside the code show by table; and failing over.

use mobility_format::DiskId;
use mobility_tests::azure_models::AzureModels;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{agent::Agent, database::rebuild, rig::Rig};

/// Has a machine tell what it is made of, as an agent in Azure does, whose cloud may not have answered.
fn tells(agent: &Agent, cloud: bool) {
    let disk = |name: &str, mounts: Value| {
        json!({
            "id": DiskId::derive(name), "name": name, "size": 32_u64 << 30, "mounts": mounts, "labels": ["a label"],
            "temporary": false, "controller": "f8b3781b-1e82-4818-a1c3-63d806ec15bb", "lun": 5, "serial": "S1",
        })
    };
    let mut inventory = json!(crate::agent::inventory("hardware"));
    inventory["disks"] = json!([disk("/dev/sdc", json!(["/srv"])), disk("/dev/sda", json!(["/", "/var"]))]);
    inventory["shape"] = json!({
        "boot": "uefi", "secure_boot": false, "processors": 2, "memory": 4_u64 << 30,
        "interfaces": [{
            "name": "eth0", "mac": "00:0d:3a:00:00:01", "addresses": [{ "address": "10.1.0.7", "prefix": 24 }],
            "gateway": "10.1.0.1", "default_route": true, "mtu": 1500,
        }],
    });
    if cloud {
        inventory["shape"]["cloud"] = json!({
            "kind": "azure", "id": "02aab8a4", "name": "web", "subscription": "8d10da13", "resource_group": "shop",
            "location": "westeurope", "size": "Standard_D2s_v5", "zone": "2", "tags": { "owner": "shop" },
            "interfaces": [], "disks": [{ "lun": 5, "name": "data", "disk_type": "Standard_LRS" }],
        });
    }
    let began = json!({ "session": agent.session, "boot": "boot", "inventory": inventory, "claim": null });
    agent.post::<Value>("/v1/session", &began).unwrap();
}

fn value<'a>(shown: &'a Value, field: &str) -> (&'a Value, &'a str) {
    let setting = &shown["effective"][field];
    (&setting["value"], setting["from"].as_str().unwrap())
}

#[test]
fn what_nobody_set_is_as_the_machine_told() {
    let rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    let machine = agent.machine.to_string();
    let show = || rig.admin(&["machine", "target", "show", &machine]);
    let before = show();
    assert_eq!(value(&before, "processors"), (&Value::Null, "unknown"));
    assert_eq!(value(&before, "name"), (&json!("small"), "inventory"));
    tells(&agent, true);
    let shown = show();
    assert_eq!(value(&shown, "processors"), (&json!(2), "inventory"));
    assert_eq!(value(&shown, "size"), (&json!("Standard_D2s_v5"), "metadata"));
    assert_eq!(value(&shown, "zone"), (&json!("2"), "metadata"));
    assert_eq!(value(&shown, "resource_group"), (&json!("shop-recovery"), "metadata"));
    assert_eq!(value(&shown, "boot"), (&json!("uefi"), "inventory"));
    let disks = shown["effective"]["disks"].as_array().unwrap();
    assert_eq!((disks[0]["system"].as_bool(), disks[0]["serial"].as_str()), (Some(true), Some("S1")));
    assert_eq!(disks[1]["lun"], json!({ "value": 5, "from": "inventory" }));
    assert_eq!(shown["set"], json!({}));
    // Its configuration names no place yet.
    let blocked = shown["problems"].as_array().unwrap().iter().find(|problem| problem["field"] == "place");
    assert_eq!(blocked.unwrap()["blocks"], true);
    // A cloud that does not answer once has not changed the machine.
    tells(&agent, false);
    assert_eq!(show()["effective"], shown["effective"]);
}

#[test]
fn what_an_administrator_says_goes_first_until_it_is_taken_back() {
    let rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    tells(&agent, true);
    let machine = agent.machine.to_string();
    let target = |arguments: &[&str]| {
        let mut all = vec!["machine", "target", arguments[0], machine.as_str()];
        all.extend(&arguments[1..]);
        rig.try_admin(&all)
    };
    let shown =
        target(&["set", "--size", "Standard_E4s_v5", "--tag", "owner=dr", "--network", "dr/all"]).unwrap();
    assert_eq!(value(&shown, "size"), (&json!("Standard_E4s_v5"), "set"));
    let mac = "00:0D:3A:00:00:01";
    let fixed = format!("{mac}=10.2.0.9");
    let shown = target(&["set", "--location", "northeurope", "--interface-address", &fixed]).unwrap();
    assert_eq!(value(&shown, "size").1, "set", "what is not said stays");
    assert_eq!(value(&shown, "tags"), (&json!({ "owner": "dr" }), "set"));
    let interface = &shown["effective"]["interfaces"][0];
    assert_eq!(interface["addresses"], json!(["10.2.0.9"]));
    assert_eq!(interface["network"], json!({ "value": "dr/all", "from": "set" }));
    for wrong in
        [["--network", "a/b/c"], ["--boot", "coreboot"], ["--interface-address", "10.2.0.9"], ["--name", ""]]
    {
        assert!(target(&["set", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
    }
    let shown = target(&["clear", "size"]).unwrap();
    assert_eq!(value(&shown, "size"), (&json!("Standard_D2s_v5"), "metadata"));
    assert_eq!(value(&shown, "location"), (&json!("northeurope"), "set"));
    assert!(target(&["clear", "size"]).is_err(), "nothing is said of it any more");
    assert_eq!(target(&["clear"]).unwrap()["set"], json!({}));
    let client = rig.client(None);
    let url = format!("{}/v1/admin/machines/{machine}/target", rig.address);
    let put = |body: Value| client.put(&url).bearer_auth(&rig.secret()).json(&body).send().unwrap().status();
    assert_eq!(put(json!({ "plaice": "north" })), StatusCode::BAD_REQUEST);
    assert_eq!(put(json!({ "interfaces": [{ "mac": "a", "adress": "new" }] })), StatusCode::BAD_REQUEST);
    assert_eq!(put(json!({})), StatusCode::OK);
    assert!(rig.try_admin(&["machine", "target", "show", "no such machine"]).is_err());
    let events = rig.admin(&["event", "list", "--machine", &machine]);
    assert!(events["events"].as_array().unwrap().iter().any(|event| event["kind"] == "target-changed"));
}

#[test]
fn a_template_is_written_of_what_holds() {
    let rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    tells(&agent, true);
    let machine = agent.machine.to_string();
    let to = tempfile::tempdir().unwrap();
    let output = to.path().to_str().unwrap();
    let (os, data) = (DiskId::derive("/dev/sda"), DiskId::derive("/dev/sdc"));
    let disks = [format!("{os}=https://dr.blob.core.windows.net/a/os.vhd"), format!("{data}=data.vhd")];
    let all = [
        "machine", "target", "template", &machine, "--output", output, "--disk", &disks[0], "--disk",
        &disks[1],
    ];
    let refused = rig.try_admin(&all).unwrap_err();
    assert!(refused.contains("network"), "{refused}");
    rig.admin(&["machine", "target", "set", &machine, "--network", "dr/web", "--location", "northeurope"]);
    let made = rig.admin(&all);
    let read = |name: &str| std::fs::read_to_string(to.path().join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("azure.json")).unwrap(), made["template"]);
    assert_eq!(made["parameters"]["parameters"]["machineSize"]["value"], "Standard_D2s_v5");
    // One disk is imported, and the other one is uploaded into.
    if let Some(models) = AzureModels::find() {
        models.allow(&made["template"], Some(&made["parameters"]));
    }
    assert!(read("azure.sh").contains("azcopy copy data.vhd"), "{}", read("azure.sh"));
    assert!(rig.try_admin(&all).is_err(), "nothing that is there is replaced");
}

#[test]
fn networks_stand_for_one_another_both_ways() {
    let rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    tells(&agent, true);
    let machine = agent.machine.to_string();
    let network = |way: &[&str]| {
        let mut all = vec!["machine", "target", "show", machine.as_str()];
        all.extend(way);
        let shown = rig.admin(&all);
        shown["effective"]["interfaces"][0]["network"].clone()
    };
    assert_eq!(network(&[]), json!({ "value": null, "from": "unknown" }));
    let ranges = ["--source-range", "10.1.0.0/24", "--target-range", "10.1.0.0/24"];
    rig.admin(&[&["network", "map", "prod/web", "dr/web"][..], &ranges].concat());
    assert_eq!(network(&[]), json!({ "value": "dr/web", "from": "mapping" }));
    assert_eq!(network(&["--back"]), json!({ "value": "prod/web", "from": "mapping" }));
    // One that has no name is mapped by its range, in whose text there is a slash.
    rig.admin(&["network", "map", "10.9.0.0/16", "dr/other"]);
    rig.admin(&["network", "map", "10.9.0.0/16", "dr/another"]);
    let listed = rig.admin(&["network", "list"]);
    let shown: Vec<_> = listed["mappings"].as_array().unwrap().iter().map(|one| &one["target"]).collect();
    assert_eq!(shown, ["dr/another", "dr/web"]);
    for wrong in [["a", "a"], ["a/b/c", "d"], ["a", "d e"]] {
        assert!(rig.try_admin(&["network", "map", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
    }
    rig.admin(&["network", "unmap", "10.9.0.0/16"]);
    assert!(rig.try_admin(&["network", "unmap", "10.9.0.0/16"]).is_err());
    rig.admin(&["network", "unmap", "prod/web"]);
    assert_eq!(rig.admin(&["network", "list"]), json!({ "mappings": [] }));
}

#[test]
fn a_rebuilt_database_knows_it_all_without_the_machine() {
    let mut rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    tells(&agent, true);
    let machine = agent.machine.to_string();
    rig.admin(&["network", "map", "prod/web", "dr/web", "--source-range", "10.1.0.0/24"]);
    rig.admin(&["machine", "target", "set", &machine, "--resource-group", "dr", "--tag", "a=b"]);
    let before = rig.admin(&["machine", "target", "show", &machine]);
    let mappings = rig.admin(&["network", "list"]);
    rig.stop();
    rebuild(&mut rig);
    let after = rig.admin(&["machine", "target", "show", &machine]);
    assert_eq!((&after["set"], &after["effective"]), (&before["set"], &before["effective"]));
    assert_eq!(rig.admin(&["network", "list"]), mappings);
    // What comes after counts, too.
    rig.admin(&["network", "unmap", "prod/web"]);
    rig.admin(&["machine", "target", "clear", &machine]);
    assert_eq!(rig.admin(&["machine", "target", "show", &machine])["set"], json!({}));
}
