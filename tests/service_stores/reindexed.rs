//! The database is lost while an agent is at work, and rebuilt from what is stored.
//!
//! Deliberately not here: a database that is lost together with target storage, which is the end of all points.

use std::{fs, process::Command, time::Duration};

use mobility_tests::{
    agent_process::SOON,
    binary::program,
    load::scribble,
    object_stores::s3,
    requirement::Requirement,
    scratch::{Scratch, eventually},
};
use serde_json::Value;

use crate::{PAUSE, SEED, SIZE, World, epoch};

/// Every file of the database.
fn lose_database(world: &World) {
    let lost = ["service.db", "service.db-wal", "service.db-shm"];
    let removed = lost.iter().filter(|name| fs::remove_file(world.service.data().join(name)).is_ok());
    assert!(removed.count() > 0);
}

fn reindex(world: &World) -> (Option<i32>, String) {
    let mut command = Command::new(program("recovery-service"));
    let output = command.arg("reindex").arg("--json").arg("--config").arg(world.service.config()).output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    (output.status.code(), said.concat())
}

fn machines(world: &World) -> Vec<Value> {
    world.service.admin(&["machine", "list"])["machines"].as_array().unwrap().clone()
}

#[test]
fn an_agent_goes_on_after_the_database_was_lost() {
    let Some(server) = Requirement::Stores.or_skip(s3()) else { return };
    let tables = |scratch: &Scratch| {
        server.table("cache", "cache", scratch.dir()) + &server.table("target", "target", scratch.dir())
    };
    let mut world = World::new(tables, None);
    world.service.admin(&["policy", "set", "gold", "--interval", "1"]);
    let mut agent = world.setup.start();
    world.replicate(&mut agent, SEED + 2);
    let protected = machines(&world)[0]["id"].as_str().unwrap().to_owned();
    world.service.admin(&["machine", "policy", &protected, "gold"]);
    let pinned = world.setup.points()[0].listed["epoch"].to_string();
    world.service.admin(&["point", "pin", &protected, &pinned]);
    // Another one, which has enrolled and never sent anything, is taken out of protection.
    world.service.enrol(&world.scratch.path("stolen"));
    let stolen = machines(&world).into_iter().find(|machine| machine["id"] != *protected).unwrap();
    let stolen = stolen["id"].as_str().unwrap().to_owned();
    world.service.admin(&["machine", "revoke", &stolen]);

    let before = agent.wait_for("a point", |status| epoch(status) > 0);
    let writer = scribble(&world.image, 0, SIZE, SEED + 3, PAUSE);
    let (code, said) = reindex(&world);
    assert!(code != Some(0) && said.contains("service.lock"), "beside a running service: {said}");
    world.service.stop();
    let (code, said) = reindex(&world);
    assert!(code != Some(0) && said.contains("only an empty database"), "over a database: {said}");
    lose_database(&world);
    // An empty database is not taken for a new one.
    let refused = world.service.serve().output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("reindex"), "{refused:?}");
    // Slots that were granted before are still used meanwhile.
    agent.wait_for("commits without the service", |status| epoch(status) > epoch(&before));
    let (code, said) = reindex(&world);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"machines\": 2"), "{said}");

    world.service.start();
    assert!(writer.stop() > 0);
    world.settle(&mut agent);
    let after = agent.status().unwrap();
    assert_eq!(after["generation"], before["generation"], "a resync: {after}\n{}", world.setup.log_tail());
    let known = machines(&world);
    let of = |id: &str| known.iter().find(|machine| machine["id"] == *id).unwrap().clone();
    assert_eq!(of(&protected)["policy"], "gold");
    assert!(of(&protected)["revoked"].is_null() && !of(&stolen)["revoked"].is_null(), "{known:?}");
    let pins = world.service.admin(&["point", "pins", &protected]);
    assert_eq!(pins["epochs"].to_string(), format!("[{pinned}]"));
    agent.terminate();
    world.demand_equal();
    let events = || world.service.admin(&["event", "list"]).to_string().contains("epoch-refused");
    eventually("a quiet history", SOON.min(Duration::from_secs(5)), || (!events()).then_some(()));
}
