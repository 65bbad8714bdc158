//! What can go wrong around the agent: storage full, read-only, gone, put back; a disk that grows, or is exchanged. Each has
//! a state and a message that says what to do, and once it is over replication goes on by itself and forgets nothing.
//!
//! Deliberately not here: what needs no device (`e2e`), and damaged objects (`vault`). Storage that hangs in the kernel
//! cannot be made here without a driver for it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use mobility_tests::{
    agent_process::{Agent, Setup, protected, refusal},
    load::{Worker, scribble},
    scratch::{LoopDevice, MIB, Mounted, Scratch, root_with, run, try_run},
};
use serde_json::Value;

/// A protected disk that is written to.
struct Scene {
    agent: Agent,
    writer: Worker,
    setup: Setup,
    vault: Option<Mounted>,
    disk: LoopDevice,
    scratch: Scratch,
}

impl Scene {
    /// With the vault on a file system of its own where a size is given.
    fn new(vault_size: Option<u64>) -> Scene {
        let scratch = Scratch::new();
        let disk = LoopDevice::new(scratch.path("disk.img"), 64 * MIB);
        let vault = vault_size.map(|size| Mounted::in_memory(scratch.path("vault"), size));
        let setup = Setup::new(&scratch, &[&disk.device]);
        let mut agent = setup.start();
        agent.wait_until_protected();
        let writer = scribble(&disk.device, 0, 64 * MIB, 5, Duration::from_millis(10));
        Scene { agent, writer, setup, vault, disk, scratch }
    }

    /// Waits for an outage of a kind whose message names the vault and the remedy.
    #[track_caller]
    fn outage(&mut self, kind: &str, remedy: &str) -> Value {
        let status = self.agent.wait_for(kind, |status| status["outage"]["kind"] == kind);
        let message = status["outage"]["message"].as_str().unwrap();
        assert!(message.contains(remedy), "{message}");
        assert!(message.contains(self.setup.vault.to_str().unwrap()), "{message}");
        assert!(!status["outage"]["retry"].is_null() && !status["outage"]["since"].is_null(), "{status}");
        status
    }

    /// Demands that replication goes on, and that nothing was forgotten.
    #[track_caller]
    fn goes_on(mut self) {
        let status =
            self.agent.wait_for("no outage", |status| status["outage"].is_null() && protected(status));
        assert!(!status["last_error"].is_null(), "what went wrong can still be seen: {status}");
        self.agent.wait_for_points(2);
        self.ends_equal();
    }

    /// Stops the writer, waits for a last point, and compares it with the disk.
    #[track_caller]
    fn ends_equal(mut self) {
        assert!(self.writer.stop() > 0);
        self.agent.wait_for_points(1);
        self.agent.terminate();
        self.setup.newest_point_equals(&self.scratch, &[&self.disk.file]);
    }
}

#[test]
fn root_full_storage_is_waited_for() {
    let Some(()) = root_with(&[]) else { return };
    let mut scene = Scene::new(Some(256 * MIB));
    let ballast = scene.setup.vault.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let filler = vec![1; MIB as usize];
    while file.write_all(&filler).is_ok() {}
    let _ = (0..256).try_for_each(|_| file.write_all(&filler[..4096]));
    drop(file);
    let full = scene.outage("storage-full", "make room");
    assert_eq!(full["disks"][0]["state"], "protected", "tracking goes on meanwhile: {full}");
    scene.agent.wait_for("a backlog", |status| status["backlog"].as_u64().unwrap() > 0);
    fs::remove_file(ballast).unwrap();
    scene.goes_on();
}

#[test]
fn root_read_only_storage_is_waited_for() {
    let Some(()) = root_with(&[]) else { return };
    let mut scene = Scene::new(Some(256 * MIB));
    let vault = scene.vault.take().unwrap();
    vault.remount("ro");
    scene.outage("storage-read-only", "make it writable");
    vault.remount("rw");
    scene.vault = Some(vault);
    scene.goes_on();
}

#[test]
fn root_a_vault_that_was_moved_away_is_waited_for() {
    let Some(()) = root_with(&[]) else { return };
    let mut scene = Scene::new(None);
    let away = scene.scratch.path("away");
    fs::rename(&scene.setup.vault, &away).unwrap();
    scene.outage("storage-gone", "back");
    // An empty directory in its place, as an unmounted file system leaves one, is not filled.
    fs::create_dir(&scene.setup.vault).unwrap();
    let epoch = scene.agent.wait_for("a state", |_| true)["epoch"].clone();
    scene.agent.wait_for("the same outage", |status| {
        status["outage"]["message"].as_str().is_some_and(|message| message.contains("is not a vault"))
    });
    assert_eq!(fs::read_dir(&scene.setup.vault).unwrap().count(), 0);
    assert_eq!(scene.agent.status().unwrap()["epoch"], epoch);
    fs::remove_dir(&scene.setup.vault).unwrap();
    fs::rename(&away, &scene.setup.vault).unwrap();
    scene.goes_on();
}

#[test]
fn root_a_disk_that_grows_stays_protected() {
    let Some(()) = root_with(&[]) else { return };
    let mut scene = Scene::new(None);
    scene.disk.grow(96 * MIB);
    let status = scene.agent.wait_for("the new size", |status| status["disks"][0]["size"] == 96 * MIB);
    assert_eq!(status["disks"][0]["resync_reason"], Value::Null, "{status}");
    let above = scribble(&scene.disk.device, 64 * MIB, 96 * MIB, 6, Duration::from_millis(5));
    scene.agent.wait_for_points(2);
    assert!(above.stop() > 0);
    // Points of both sizes are there, each as long as the disk was.
    let sizes: Vec<_> = scene.setup.points().iter().map(|p| p.listed["disks"][0]["size"].clone()).collect();
    assert_eq!(
        (sizes.first().unwrap(), sizes.last().unwrap()),
        (&Value::from(64 * MIB), &Value::from(96 * MIB))
    );
    scene.ends_equal();
}

#[test]
fn root_a_disk_that_is_exchanged_and_comes_back_is_compared() {
    let Some(()) = root_with(&[]) else { return };
    let mut scene = Scene::new(None);
    // The identity of a loop device is the name of its file: with another one it is another disk.
    let other = scene.scratch.path("other.img");
    fs::rename(&scene.disk.file, &other).unwrap();
    let gone = scene.agent.wait_for("the disk gone", |status| status["disks"][0]["state"] == "gone");
    let message = gone["disks"][0]["problem"].as_str().unwrap();
    assert!(message.contains("another disk is in its place"), "{message}");
    fs::rename(&other, &scene.disk.file).unwrap();
    scene.agent.wait_for("the disk protected", protected);
    scene.agent.wait_for_points(1);
    scene.ends_equal();
}

#[test]
fn root_a_vault_that_was_put_back_to_an_earlier_state_is_compared() {
    let Some(()) = root_with(&[]) else { return };
    // What is named last is taken away first.
    let Scene { scratch, disk, setup, writer, mut agent, .. } = Scene::new(None);
    agent.wait_for_points(1);
    agent.terminate();
    let (vault, copy) = (setup.vault.to_str().unwrap(), scratch.path("copy"));
    run("cp", &["-a", vault, copy.to_str().unwrap()]);
    let mut agent = setup.start();
    agent.wait_for_points(2);
    agent.terminate();
    fs::remove_dir_all(&setup.vault).unwrap();
    fs::rename(&copy, &setup.vault).unwrap();

    let mut agent = setup.start();
    let why = |status: &Value| status["disks"][0]["resync_reason"].as_str().map(str::to_owned);
    let status =
        agent.wait_for("a comparison, or its end", |status| why(status).is_some() || protected(status));
    let log = fs::read_to_string(&setup.log).unwrap();
    assert!(
        why(&status).is_some() || log.contains("is not the one that tracking went on from"),
        "{status}\n{log}"
    );
    agent.wait_until_protected();
    assert!(writer.stop() > 0);
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &[&disk.file]);
}

#[test]
fn root_what_cannot_be_protected_is_refused_with_a_remedy() {
    let Some(()) = root_with(&["mkfs.ext4"]) else { return };
    let scratch = Scratch::new();
    let disk = LoopDevice::new(scratch.path("disk.img"), 64 * MIB);
    run("addpart", &[disk.name(), "1", "2048", "4096"]);
    let partition = format!("{}p1", disk.name());
    let said = |disks: &[&Path]| refusal(Setup::new(&scratch, disks).command(), &scratch);
    let (code, message) = said(&[Path::new(&partition)]);
    assert!(code == 4 && message.contains(&format!("name {} instead", disk.name())), "{code}: {message}");
    let (code, message) = said(&[&disk.device, Path::new(&partition)]);
    assert!(code == 4 && message.contains("is a partition of"), "{code}: {message}");
    let (code, message) = said(&[&disk.device, &disk.file]);
    assert!(code == 4 && message.contains("name only the device"), "{code}: {message}");
    let (code, message) = said(&[&disk.device, &disk.device]);
    assert!(code == 4 && message.contains("name it once"), "{code}: {message}");
    run("delpart", &[disk.name(), "1"]);

    let mounted = Mounted::fresh(scratch.path("mounted"), &disk.device, "ext4");
    let mut setup = Setup::new(&scratch, &[&disk.device]);
    setup.vault = mounted.point().join("vault");
    let (code, message) = refusal(setup.command(), &scratch);
    assert!(code == 4 && message.contains("put the vault on another disk"), "{code}: {message}");
    drop(mounted);

    run("blockdev", &["--setro", disk.name()]);
    let (code, message) = said(&[&disk.device]);
    assert!(code == 4 && message.contains("--setrw"), "{code}: {message}");
    let _ = try_run("blockdev", &["--setrw", disk.name()]);
}
