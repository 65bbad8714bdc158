//! Target storage is an object store that stands still or dies in the middle of a failover or a plan run: it waits or says so, goes on
//! where it was, and no disk is wrong.
//!
//! Deliberately not here: target storage in a directory (`failover_faults`), and what stores do by themselves (`stores`).

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use mobility_tests::{
    dice::Dice,
    object_stores::{ObjectStoreServer, s3},
    requirement::Requirement,
};
use serde_json::json;

use crate::{
    agent::Agent,
    commits::{ready, taken_in},
    database::rebuild,
    failover::{Failover, begin, images_are, place},
    plan_site::{Site, contains, group, plan, step},
    rig::{PATIENCE, Rig},
};

/// A service whose target storage is in an object store, with a place to fail over to.
fn rig(store: &ObjectStoreServer) -> Rig {
    Rig::with(|dir| {
        let place = format!("[failover.shelf]\nkind = 'images'\ndirectory = '{}'\n", place(dir).display());
        let scripts = format!("[plans]\nscripts = '{}'\n", dir.join("scripts").display());
        format!("{place}{scripts}{}", store.table("target", "target", dir))
    })
}

/// A machine with one point on many disks.
fn machine(rig: &Rig, seed: u64) -> (Agent, Vec<Vec<u8>>) {
    let mut agent = ready(rig, seed);
    (0..6).for_each(|number| agent.add_disk(&format!("more-{number}"), 1000));
    agent.write(500);
    agent.commit();
    taken_in(rig, &agent, 1);
    let held = agent.disks.iter().map(|disk| disk.content.clone()).collect();
    (agent, held)
}

/// Waits until so many images are there, of any failover.
fn images(place: &Path, count: usize) -> Vec<PathBuf> {
    let end = Instant::now() + PATIENCE;
    let files =
        |of: &Path| fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    loop {
        let failovers: Vec<PathBuf> = files(place);
        let found: Vec<_> = failovers.iter().flat_map(|of| -> Vec<PathBuf> { files(of) }).collect();
        let is_image = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "img");
        if found.iter().filter(is_image).count() >= count {
            return found;
        }
        assert!(Instant::now() < end, "no image");
    }
}

#[test]
fn a_store_that_stands_still_or_dies_midway_is_waited_for() {
    let Some(mut store) = Requirement::Stores.or_skip(s3()) else { return };
    let rig = rig(&store);
    let (mut agent, held) = machine(&rig, 1);
    let place = place(rig.data().parent().unwrap());
    let mut dice = Dice::new(61);
    for stands_still in [true, false] {
        let id = begin(&rig, &agent, &["--kind", "unplanned"]).id;
        let over = Failover { rig: &rig, id };
        // At which disk is what is random here; none at all is while the point is being chosen.
        images(&place, dice.index(held.len()));
        let shown = if stands_still {
            store.pause();
            // Shorter than a request may take.
            thread::sleep(Duration::from_millis(500 + dice.below(2000)));
            assert_eq!(over.show()["phase"], "running");
            store.resume();
            over.rests("ready")
        } else {
            store.kill();
            let shown = over.rests("failed");
            contains(&shown["hint"], "resume");
            assert!(shown["disks"].as_array().unwrap().len() < held.len(), "{shown:#}");
            store.start();
            over.act(&["resume"], "ready")
        };
        images_are(&shown, &agent, &held);
        store.kill();
        // Nothing of the store is needed to undo it.
        over.act(&["cancel"], "cancelled");
        store.start();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        agent.try_heartbeat().unwrap();
    }
}

#[test]
fn a_plan_run_whose_store_dies_midway_goes_on_and_is_stored_when_it_is_back() {
    let Some(mut store) = Requirement::Stores.or_skip(s3()) else { return };
    let mut site = Site::around(rig(&store));
    let machines = [machine(&site.rig, 1), machine(&site.rig, 2)];
    let [(a, _), (b, _)] = &machines;
    site.set(&plan(&[group(&[a, b], &json!([]), &json!([{ "kind": "manual", "text": "look" }]))]));
    let run = site.run(&["--kind", "unplanned"]);
    images(&place(site.rig.data().parent().unwrap()), 1);
    store.kill();
    let report = site.rests(&run, "failed");
    contains(&report["hint"], "resume");
    contains(&step(&report, "fail-over", 1)["result"], "machines are not up");
    store.start();
    site.act(&run, "resume", "waiting");
    // What could not be stored meanwhile is stored now, and would be enough.
    site.rig.kill();
    assert_eq!(rebuild(&mut site.rig)["problems"], json!([]));
    let report = site.act(&run, "confirm", "ready");
    site.are_failed_over(&report, &machines, 1);
    site.act(&run, "cancel", "cancelled");
    site.is_clean();
}
