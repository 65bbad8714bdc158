//! Three instances of the recovery service on one PostgreSQL database and one object store, any of which may be killed at any
//! time: an agent that knows all three goes on, without a resync, and what it replicated is the disk.
//!
//! PostgreSQL is the real one and needs a user of its own, so this needs root. Deliberately not here: one instance (`service`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup},
    load::scribble,
    load_postgresql::{Programs, Server},
    object_stores::{ObjectStoreServer, free_port, s3},
    requirement::Requirement,
    scratch::{MIB, Scratch, eventually, root_with},
    service_process::ServiceProcess,
};
use serde_json::Value;

const SEED: u64 = 20_261_126;
const SIZE: u64 = 16 * MIB;
const PAUSE: Duration = Duration::from_millis(20);

struct Rig {
    // In this order: instances end before what they use.
    instances: Vec<ServiceProcess>,
    database: Server,
    store: ObjectStoreServer,
    setup: Setup,
    image: PathBuf,
    scratch: Scratch,
}

impl Rig {
    fn new() -> Option<Rig> {
        root_with(&["setpriv"])?;
        let programs = Requirement::Root.or_skip(Programs::find())?;
        let store = Requirement::Stores.or_skip(s3())?;
        let scratch = Scratch::new();
        // The database's user has to get through.
        fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let database = Server::fresh(&programs, scratch.dir());
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let addresses: Vec<String> = ports.iter().map(|port| format!("'https://127.0.0.1:{port}'")).collect();
        let configuration = format!(
            "database = '{}'\nsecrets = '{}'\naddresses = [{}]\n{}{}",
            database.address("postgres"),
            scratch.path("secrets").display(),
            addresses.join(", "),
            store.table("cache", "cache", scratch.dir()),
            store.table("target", "target", scratch.dir()),
        );
        let instances: Vec<ServiceProcess> = ports
            .iter()
            .map(|port| {
                ServiceProcess::instance(scratch.path(&format!("instance-{port}")), *port, &configuration)
            })
            .collect();
        instances[1].admin(&["policy", "set", "default", "--interval", "1"]);
        let image = scratch.path("disk.img");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let setup = Setup::enrolled(&scratch, &[&image], &instances[0]);
        Some(Rig { instances, database, store, setup, image, scratch })
    }

    /// Waits until the agent has made points, and one of them was taken in by whichever instance there is.
    fn goes_on(&self, agent: &mut Agent) {
        agent.wait_for_points(1);
        let last = epoch(&agent.status().unwrap());
        let taken_in =
            || self.setup.points().iter().any(|point| point.listed["epoch"].as_u64() >= Some(last));
        eventually("the intake of a point by another instance", SOON, || taken_in().then_some(()));
    }

    fn finish(self, mut agent: Agent, generation: &Value) {
        self.goes_on(&mut agent);
        let status = agent.status().unwrap();
        assert_eq!(status["generation"], *generation, "a resync: {status}\n{}", self.setup.log_tail());
        agent.terminate();
        self.setup.newest_point_equals(&self.scratch, &[&self.image]);
    }
}

fn epoch(status: &Value) -> u64 {
    status["last_point"]["epoch"].as_u64().unwrap_or(0)
}

#[test]
fn root_two_of_three_instances_are_killed_in_turn() {
    let Some(mut rig) = Rig::new() else { return };
    let mut agent = rig.setup.start();
    let writer = scribble(&rig.image, 0, SIZE, SEED, PAUSE);
    let generation = agent.wait_until_protected()["generation"].clone();
    rig.instances[0].kill();
    rig.goes_on(&mut agent);
    rig.instances[1].kill();
    rig.goes_on(&mut agent);
    rig.instances[0].start();
    rig.instances[2].kill();
    rig.goes_on(&mut agent);
    assert!(writer.stop() > 0);
    rig.finish(agent, &generation);
}

#[test]
fn root_work_that_a_killed_instance_had_claimed_is_gone_on_with() {
    let Some(mut rig) = Rig::new() else { return };
    let mut agent = rig.setup.start();
    let writer = scribble(&rig.image, 0, SIZE, SEED + 1, PAUSE);
    let generation = agent.wait_until_protected()["generation"].clone();
    rig.goes_on(&mut agent);
    rig.instances[1].kill();
    rig.instances[2].kill();
    // While the store stands still, nothing that was claimed comes to an end.
    rig.store.pause();
    let claimed =
        "SELECT count(*) FROM states WHERE claimed_until > EXTRACT(EPOCH FROM clock_timestamp()) * 1000";
    eventually("a claim", SOON, || {
        let _ = rig.database.ask("UPDATE work SET due = 0 WHERE job = 'intake' AND due > 0");
        (rig.database.ask(claimed) == "1").then_some(())
    });
    // One that was free for a moment would be a claim that another one gave back.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rig.database.ask(claimed), "1");
    rig.instances[0].kill();
    assert_eq!(rig.database.ask(claimed), "1", "nobody has given it back");
    rig.store.resume();
    rig.instances[2].start();
    rig.goes_on(&mut agent);
    assert!(writer.stop() > 0);
    rig.finish(agent, &generation);
}
