//! The whole way over object stores: a real agent that enrolled puts what it reads straight into cache storage, a real service
//! takes it in into target storage, and the offline commands bring it back from there, byte for byte.
//!
//! Each test has the stores of a mix. The disk is a file that is scanned, so none of it needs root. Deliberately not here: what a
//! grant is not good for (`service`), and the stores' own behaviour (`stores`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod reindexed;

use std::{fs::File, path::PathBuf, time::Duration};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup},
    load::scribble,
    object_stores::{ObjectStoreServer, azurite, s3},
    requirement::Requirement,
    scratch::{MIB, Scratch, eventually},
    service_process::ServiceProcess,
};
use serde_json::Value;

const SEED: u64 = 20_261_125;
const SIZE: u64 = 16 * MIB;
const PAUSE: Duration = Duration::from_millis(20);

/// A service over some stores, and an agent that protects a file there.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) service: ServiceProcess,
    pub(crate) image: PathBuf,
    pub(crate) scratch: Scratch,
}

impl World {
    /// `storage` is the part of the service's configuration that names the stores.
    pub(crate) fn new(storage: impl Fn(&Scratch) -> String, authorities: Option<&[u8]>) -> World {
        let scratch = Scratch::new();
        let image = scratch.path("disk.img");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let service = ServiceProcess::configured(scratch.path("service"), &storage(&scratch));
        service.admin(&["policy", "set", "default", "--interval", "1"]);
        let setup = Setup::enrolled(&scratch, &[&image], &service);
        if let Some(pem) = authorities {
            let file = scratch.path("authorities.pem");
            std::fs::write(&file, pem).unwrap();
            let service = format!("[service]\nca-file = '{}'\n", file.display());
            setup.configure(&format!("interval = '1s'\n{service}[limits]\nretry-wait = '1s'\n"));
        }
        World { setup, service, image, scratch }
    }

    /// Has the agent follow a writer for some points, and ends both; what was written last is in target storage then.
    pub(crate) fn replicate(&self, agent: &mut Agent, seed: u64) {
        let writer = scribble(&self.image, 0, SIZE, seed, PAUSE);
        agent.wait_until_protected();
        agent.wait_for_points(2);
        assert!(writer.stop() > 0);
        self.settle(agent);
    }

    /// Waits until a point that was begun after now is in target storage.
    pub(crate) fn settle(&self, agent: &mut Agent) {
        agent.wait_for_points(1);
        let last = epoch(&agent.status().unwrap());
        let taken_in =
            || self.setup.points().iter().any(|point| point.listed["epoch"].as_u64() >= Some(last));
        eventually("the intake of the last point", SOON, || taken_in().then_some(()));
    }

    pub(crate) fn demand_equal(&self) {
        self.setup.newest_point_equals(&self.scratch, &[&self.image]);
    }

    /// The whole way, with the agent killed once in between.
    fn journey(&self) {
        let mut agent = self.setup.start();
        self.replicate(&mut agent, SEED);
        let generation = agent.status().unwrap()["generation"].clone();
        agent.kill();
        let mut agent = self.setup.start();
        self.replicate(&mut agent, SEED + 1);
        assert_eq!(agent.status().unwrap()["generation"], generation, "a resync:\n{}", self.setup.log_tail());
        agent.terminate();
        self.demand_equal();
    }
}

pub(crate) fn epoch(status: &Value) -> u64 {
    status["last_point"]["epoch"].as_u64().unwrap_or(0)
}

/// How many objects there are below `prefix` of a server, by looking into it from outside.
fn objects(server: &ObjectStoreServer, prefix: &str) -> usize {
    use mobility_recovery::{Objects, Remote};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let remote = Remote::open(&server.settings(prefix), runtime.handle().clone()).unwrap();
    let mut count = 0;
    remote.list("", &mut |_| count += 1).unwrap();
    count
}

#[test]
fn cache_and_target_on_azure() {
    let Some(server) = Requirement::Stores.or_skip(azurite()) else { return };
    let tables = |scratch: &Scratch| {
        server.table("cache", "cache", scratch.dir()) + &server.table("target", "target", scratch.dir())
    };
    let world = World::new(tables, server.authorities());
    world.journey();
    assert!(objects(&server, "target") > 0 && !world.service.storage().exists());
}

#[test]
fn cache_and_target_on_s3() {
    let Some(server) = Requirement::Stores.or_skip(s3()) else { return };
    let tables = |scratch: &Scratch| {
        server.table("cache", "cache", scratch.dir()) + &server.table("target", "target", scratch.dir())
    };
    let world = World::new(tables, None);
    world.journey();
    assert!(objects(&server, "target") > 0 && !world.service.storage().exists());
}

#[test]
fn cache_on_s3_and_target_on_azure() {
    let Some(near) = Requirement::Stores.or_skip(s3()) else { return };
    let Some(far) = Requirement::Stores.or_skip(azurite()) else { return };
    let tables =
        |scratch: &Scratch| near.table("cache", "", scratch.dir()) + &far.table("target", "", scratch.dir());
    let world = World::new(tables, None);
    world.journey();
    assert!(objects(&far, "") > 0 && !world.service.storage().exists());
}

#[test]
fn cache_in_a_directory_and_target_on_s3() {
    let Some(far) = Requirement::Stores.or_skip(s3()) else { return };
    let world = World::new(|scratch| far.table("target", "far", scratch.dir()), None);
    world.journey();
    assert!(objects(&far, "far") > 0 && !world.service.storage().join("target").exists());
}

#[test]
fn replication_goes_on_while_the_service_is_away() {
    let Some(server) = Requirement::Stores.or_skip(s3()) else { return };
    let tables = |scratch: &Scratch| {
        server.table("cache", "cache", scratch.dir()) + &server.table("target", "target", scratch.dir())
    };
    let mut world = World::new(tables, None);
    let mut agent = world.setup.start();
    world.replicate(&mut agent, SEED + 2);
    let known = agent.status().unwrap();
    world.service.stop();
    let cached = objects(&server, "cache");
    let writer = scribble(&world.image, 0, SIZE, SEED + 3, PAUSE);
    agent.wait_for_points(4);
    assert!(writer.stop() > 0);
    let away = agent.wait_for_points(1);
    assert!(away["outage"].is_null(), "what is uploaded is uploaded: {away}");
    assert!(objects(&server, "cache") >= cached + 5, "points are in cache storage");
    world.service.start();
    world.settle(&mut agent);
    let status = agent.status().unwrap();
    assert_eq!(status["generation"], known["generation"], "a resync:\n{}", world.setup.log_tail());
    agent.terminate();
    world.demand_equal();
    let kept = world
        .setup
        .points()
        .iter()
        .filter(|point| point.listed["epoch"].as_u64() > Some(epoch(&known)))
        .count();
    assert!(kept >= 5, "{kept} points of the time without the service");
}
