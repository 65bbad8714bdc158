//! Failover to Azure: what is wrong with settings is said first, then there are page blobs and a template, and nothing of either when it
//! is undone, wherever the service is killed.
//!
//! Deliberately not here: what every kind of place must do (`places`), and whether Azure takes a template.

use std::{fs, path::Path, time::Duration};

use mobility_format::DiskId;
use mobility_recovery::{AzureCredentials, Objects, Remote, RemoteAccount};
use mobility_tests::{
    azure_models::AzureModels,
    dice::Dice,
    object_stores::{ObjectStoreServer, azurite},
    requirement::Requirement,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    agent::Agent,
    commits::taken_in,
    failover::{Failover, begin, place},
    rig::Rig,
};

const NAMES: [&str; 2] = ["/dev/sda", "/dev/sdb"];
/// 21 MiB, more than the least that Azure takes.
const BLOCKS: usize = 21 << 8;

/// A container that is looked into from outside.
struct Container {
    server: ObjectStoreServer,
    remote: Remote,
    _runtime: Runtime,
}

impl Container {
    fn start() -> Option<Container> {
        let server = Requirement::Stores.or_skip(azurite())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let remote = Remote::open(&server.settings("disks"), runtime.handle().clone()).unwrap();
        Some(Container { server, remote, _runtime: runtime })
    }

    /// A service with this one place.
    fn rig(&self) -> Rig {
        Rig::with(|dir| {
            let table = self.server.table("north", "disks", dir);
            let of_place =
                format!("[failover.north]\ndirectory = '{}'\nlocation = 'northeurope'", place(dir).display());
            table.replace("[storage.north]", &of_place)
        })
    }

    fn blobs(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.remote.list("", &mut |listed| keys.push(listed.key)).unwrap();
        keys.sort();
        keys
    }

    /// Demands that there are the disks of a failover, and nothing else.
    #[track_caller]
    fn has(&self, id: &str, agent: &Agent) {
        let mut expected: Vec<_> = agent.disks.iter().map(|disk| format!("{id}/{}.vhd", disk.id)).collect();
        expected.sort();
        assert_eq!(self.blobs(), expected);
        for disk in &agent.disks {
            let bytes = self.remote.read(&format!("{id}/{}.vhd", disk.id), u64::MAX).unwrap();
            assert!(bytes[..disk.content.len()] == disk.content, "{} is not what it was", disk.id);
            assert!(bytes[bytes.len() - 512..].starts_with(b"conectix"));
        }
    }
}

/// A machine that told of two disks and an interface, and has a point.
fn machine(rig: &Rig) -> Agent {
    let mut agent = Agent::enrol(rig, 1);
    agent.try_session().unwrap();
    agent.new_generation();
    NAMES.iter().for_each(|name| agent.add_disk(name, BLOCKS));
    agent.write(200);
    agent.commit();
    taken_in(rig, &agent, 1);
    let disk = |name: &str, mount: &str| {
        json!({
            "id": DiskId::derive(name), "name": name, "size": BLOCKS << 12, "mounts": [mount], "labels": [],
            "temporary": false,
        })
    };
    let mut inventory = json!(crate::agent::inventory("hardware"));
    inventory["disks"] = json!([disk(NAMES[0], "/"), disk(NAMES[1], "/srv")]);
    inventory["shape"] = json!({
        "boot": "uefi", "processors": 2, "memory": 4_u64 << 30,
        "interfaces": [{
            "name": "eth0", "mac": "00:0d:3a:00:00:01", "addresses": [{ "address": "10.1.0.7", "prefix": 24 }],
            "default_route": true,
        }],
    });
    let began = json!({ "session": agent.session, "boot": "boot", "inventory": inventory, "claim": null });
    agent.post::<Value>("/v1/session", &began).unwrap();
    agent
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn what_is_missing_is_said_first_and_then_there_is_something_to_deploy() {
    let Some(azure) = Container::start() else { return };
    let rig = azure.rig();
    let agent = machine(&rig);
    let (machine, place) = (agent.machine.to_string(), place(rig.data().parent().unwrap()));
    let test = begin(&rig, &agent, &["--kind", "test"]);
    let shown = test.rests("failed");
    let log = shown["log"].to_string();
    assert!(
        ["resource_group: ", "size: ", "interfaces[0]: "].iter().all(|named| log.contains(named)),
        "{log}"
    );
    assert!(shown["hint"].as_str().unwrap().contains("machine target set"), "{shown:#}");
    assert!(azure.blobs().is_empty() && !place.exists(), "something was touched");

    let set = ["--resource-group", "dr", "--size", "Standard_D2s_v5", "--network", "dr/web"];
    rig.admin(&[&["machine", "target", "set", machine.as_str()][..], &set].concat());
    let shown = test.act(&["resume"], "ready");
    azure.has(&test.id, &agent);
    assert_eq!((&shown["booted"], shown["disks"].as_array().unwrap().len()), (&Value::Null, 2));
    let last = shown["steps"].as_array().unwrap().last().unwrap();
    let directory = place.join(&test.id);
    let command = format!(
        "deploy it with: cd {} && az deployment group create --resource-group dr --name recover-small-test --template-file azure.json --parameters @azure.parameters.json",
        directory.display()
    );
    assert!(last["step"] == "watch-boot" && last["result"].as_str().unwrap().contains(&command), "{last:#}");
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(directory.join(name)).unwrap()).unwrap() };
    let template = read("azure.json");
    if let Some(models) = AzureModels::find() {
        models.allow(&template, Some(&read("azure.parameters.json")));
    }
    let sources: Vec<_> = shown["disks"].as_array().unwrap().iter().map(|disk| &disk["path"]).collect();
    let resources = template["resources"].as_array().unwrap();
    let imported = |source: &Value| {
        resources.iter().any(|one| one["properties"]["creationData"]["sourceUri"] == *source)
    };
    assert!(sources.iter().all(|source| imported(source)), "{sources:?}");
    let secret = match azure.server.settings("").account {
        RemoteAccount::Azure { credentials: AzureCredentials::Key(key), .. } => key,
        _ => panic!("Azurite has a key"),
    };
    assert!(!shown.to_string().contains("sig=") && !shown.to_string().contains(secret.reveal()));

    let shown = test.act(&["cancel"], "cancelled");
    assert!(azure.blobs().is_empty() && is_empty(&place), "{:?}", azure.blobs());
    let gone =
        shown["steps"].as_array().unwrap().iter().find(|step| step["step"] == "remove-machine").unwrap();
    let remove = format!("az resource list --tag recovery-failover={}", test.id);
    assert!(gone["result"].as_str().unwrap().contains(&remove), "{gone:#}");
}

#[test]
fn to_azure_killed_at_any_moment_it_comes_to_its_end() {
    let Some(azure) = Container::start() else { return };
    let mut rig = azure.rig();
    let mut agent = machine(&rig);
    let place = place(rig.data().parent().unwrap());
    let set = ["--resource-group", "dr", "--size", "Standard_D2s_v5", "--network", "dr/web"];
    rig.admin(&[&["machine", "target", "set", &agent.machine.to_string()][..], &set].concat());
    let mut dice = Dice::new(12);
    for round in 2..=4 {
        agent.write(1000);
        agent.commit();
        taken_in(&rig, &agent, round);
        let id = begin(&rig, &agent, &["--kind", "unplanned"]).id;
        for _ in 0..3 {
            // How long it runs is what is random here.
            std::thread::sleep(Duration::from_millis(20 + dice.below(900)));
            rig.kill();
            rig.start();
        }
        let over = Failover { rig: &rig, id };
        over.rests("ready");
        azure.has(&over.id, &agent);
        assert_eq!(fs::read_dir(place.join(&over.id)).unwrap().count(), 3, "something was left of a try");
        rig.admin(&["failover", "cancel", &over.id]);
        let id = over.id;
        rig.kill();
        rig.start();
        Failover { rig: &rig, id }.rests("cancelled");
        assert!(azure.blobs().is_empty() && is_empty(&place), "{:?}", azure.blobs());
        agent.try_heartbeat().unwrap();
    }
}
