//! From a commit to a recovery point: taken in, restored, or refused and sent again.
//!
//! Deliberately not here: services that die meanwhile (`kills`).

use mobility_format::{
    Digest, Epoch, MachineId,
    control::{CommandResult, CommitState, Order},
    manifest::SignedManifest,
};
use mobility_recovery::{Catalog, Vault, restore_to_directory};
use reqwest::StatusCode;

use crate::{
    agent::Agent,
    rig::{Rig, wait_for},
};

/// Waits until the service has taken an epoch in.
pub(crate) fn taken_in(rig: &Rig, agent: &Agent, epoch: u64) {
    let machine = agent.machine.to_string();
    wait_for("an epoch to be taken in", || {
        let shown = rig.admin(&["machine", "show", &machine]);
        (shown["taken_in"].as_u64()? >= epoch).then_some(())
    });
}

/// Restores the newest point and compares it with what the agent's disks hold.
pub(crate) fn newest_point_is(rig: &Rig, agent: &Agent) {
    let vault = Vault::open(&rig.data().join("storage")).unwrap();
    let catalog = Catalog::load_locked(&vault, agent.machine).unwrap();
    let point = catalog.points().next_back().unwrap();
    assert_eq!(Some(point.epoch()), agent.head.as_ref().map(|head| head.epoch));
    let dir = tempfile::tempdir().unwrap();
    let disks = restore_to_directory(&catalog, point.epoch(), &[], dir.path(), false, |_, _| {}).unwrap();
    assert_eq!(disks.len(), agent.disks.len());
    let states = &point.manifest().disks;
    let names = mobility_recovery::image_names(states);
    for disk in &agent.disks {
        let at = states.iter().position(|state| state.id == disk.id).unwrap();
        let image = std::fs::read(dir.path().join(&names[at])).unwrap();
        assert!(image == disk.content, "{} is not what the disk holds", names[at]);
    }
}

pub(crate) fn ready(rig: &Rig, seed: u64) -> Agent {
    let mut agent = Agent::enrol(rig, seed);
    agent.try_session().unwrap();
    agent.new_generation();
    agent.add_disk("one", 300);
    agent.add_disk("two", 64);
    agent
}

#[test]
fn what_was_committed_is_restored_byte_for_byte() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    for epoch in 1..=12 {
        agent.write(20);
        assert_eq!(agent.commit().state, CommitState::Present);
        if epoch % 4 == 0 {
            taken_in(&rig, &agent, epoch);
            newest_point_is(&rig, &agent);
        }
    }
    let head = agent.head.clone().unwrap();
    assert_eq!(agent.notice(head.epoch, head.digest).unwrap().state, CommitState::TakenIn);
    assert_eq!(agent.notice(head.epoch, Digest([1; 32])).unwrap().state, CommitState::Other);
    assert_eq!(agent.notice(head.epoch.next(), Digest([1; 32])).unwrap().state, CommitState::Absent);
    // A restarted agent hears where it was.
    let started = agent.restart();
    let known = started.head.unwrap();
    assert_eq!((known.epoch, known.digest, known.previous), (head.epoch, head.digest, head.previous));
    assert_eq!(known.disks.len(), 2);
    assert!(agent.try_heartbeat().unwrap().taken_in == head.epoch);
}

#[test]
fn the_head_is_known_before_it_is_taken_in() {
    let mut rig = Rig::new();
    let mut agent = ready(&rig, 1);
    agent.write(5);
    agent.commit();
    taken_in(&rig, &agent, 1);
    // Two commits of which the service hears nothing.
    for _ in 0..2 {
        agent.write(5);
        let epoch = agent.next_epoch();
        let (manifest, digest) = agent.send(epoch);
        let grants = agent.try_grants(0, epoch, 1).unwrap();
        assert_eq!(agent.put(&grants.manifests[0].grant, &manifest), StatusCode::CREATED);
        agent.committed(epoch, digest);
    }
    let digest = agent.head.as_ref().unwrap().digest;
    let started = agent.restart();
    assert_eq!(started.head.unwrap().digest, digest);
    // It takes them in by itself, at the latest when it is started again.
    rig.stop();
    rig.start();
    let started = agent.restart();
    assert_eq!(started.head.unwrap().digest, digest);
    agent.new_generation();
    assert_eq!(agent.head.as_ref().unwrap().digest, digest);
    agent.commit();
    taken_in(&rig, &agent, 4);
    newest_point_is(&rig, &agent);
}

#[test]
fn a_damaged_segment_leads_to_one_command_to_resync() {
    let rig = Rig::new();
    let (mut agent, mut sound) = (ready(&rig, 1), ready(&rig, 2));
    agent.commit();
    sound.commit();
    taken_in(&rig, &agent, 1);
    // Of the next epoch something else arrives than was sent.
    agent.write(10);
    let epoch = agent.next_epoch();
    let (damaged_slot, grant) = agent.slot();
    assert_eq!(agent.put(&grant, b"not a segment"), StatusCode::CREATED);
    let (manifest, digest) = damage(&mut agent, epoch, damaged_slot);
    let grants = agent.try_grants(0, epoch, 1).unwrap();
    assert_eq!(agent.put(&grants.manifests[0].grant, &manifest), StatusCode::CREATED);
    agent.committed(epoch, digest);
    agent.notice(epoch, digest).unwrap();
    let command = wait_for("the command", || {
        let commands = agent.commands(5).unwrap().commands;
        assert!(commands.len() <= 1, "{commands:?}");
        commands.into_iter().next()
    });
    let Order::Resync { generation, through, disks, .. } = &command.order else { panic!("{command:?}") };
    assert_eq!((*generation, *through), (agent.generation, epoch));
    let named: Vec<_> = disks.iter().map(|disk| disk.id).collect();
    assert!(!named.is_empty() && disks.iter().all(|disk| !disk.ranges.is_empty()), "{disks:?}");
    // Told again or asked again, there is one command.
    agent.notice(epoch, digest).unwrap();
    let again = agent.commands(0).unwrap().commands;
    assert_eq!(again, std::slice::from_ref(&command));
    // The machine's head is the last good one; other machines go on.
    assert_eq!(agent.restart().head.unwrap().epoch, Epoch(1));
    sound.write(3);
    sound.commit();
    taken_in(&rig, &sound, 2);
    agent.new_generation();
    assert_eq!(agent.head.as_ref().unwrap().epoch, Epoch(1));
    let done = CommandResult::done("compared");
    agent.post::<()>(&format!("/v1/commands/{}", command.id), &done).unwrap();
    agent.post::<()>(&format!("/v1/commands/{}", command.id), &done).unwrap();
    assert!(agent.commands(0).unwrap().commands.is_empty());
    agent.commit();
    taken_in(&rig, &agent, 2);
    newest_point_is(&rig, &agent);
    newest_point_is(&rig, &sound);
}

/// Sends an epoch whose manifest names a slot that holds something else.
fn damage(agent: &mut Agent, epoch: Epoch, slot: u64) -> (Vec<u8>, Digest) {
    let (bytes, _) = agent.send(epoch);
    let mut manifest = SignedManifest::parse(&bytes).unwrap().manifest;
    manifest.disks[0].segments[0].slot = Some(slot);
    let bytes = manifest.sign(&agent.keys.signing).unwrap();
    let digest = SignedManifest::parse(&bytes).unwrap().digest;
    (bytes, digest)
}

#[test]
fn digests_are_those_of_the_head() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    agent.write(40);
    agent.commit();
    taken_in(&rig, &agent, 1);
    let get = |disk: mobility_format::DiskId, query: &str| {
        let url = format!("{}/v1/digests/{disk}?{query}", agent.address);
        agent.client.get(url).send().unwrap()
    };
    for disk in &agent.disks {
        let answer = get(disk.id, "window=0&count=3&epoch=1");
        assert_eq!(answer.status(), StatusCode::OK);
        let mut expected = Vec::new();
        for window in 0..3_usize {
            let start = (window << 20).min(disk.content.len());
            let end = ((window + 1) << 20).min(disk.content.len());
            let mut plain = disk.content[start..end].to_vec();
            plain.resize(1 << 20, 0);
            if plain.iter().all(|byte| *byte == 0) {
                expected.push(0);
                continue;
            }
            expected.push(1);
            for block in plain.chunks(4096) {
                expected.extend_from_slice(&blake3::hash(block).as_bytes()[..16]);
            }
        }
        assert!(answer.bytes() == expected, "the digests of {} differ", disk.id);
    }
    let disk = agent.disks[0].id;
    assert_eq!(get(disk, "window=0&count=1&epoch=0").status(), StatusCode::CONFLICT);
    assert_eq!(get(disk, "window=0&count=1&epoch=2").status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(disk, "window=0&count=65&epoch=1").status(), StatusCode::BAD_REQUEST);
    let unknown = mobility_format::DiskId([9; 16]);
    assert_eq!(get(unknown, "window=0&count=1&epoch=1").status(), StatusCode::NOT_FOUND);
}

#[test]
fn a_manifest_that_the_machine_did_not_sign_for_this_place_is_refused() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    let machine = agent.machine.to_string();
    for name in ["another key", "another machine"] {
        agent.commit();
        taken_in(&rig, &agent, agent.head.as_ref().unwrap().epoch.0);
        agent.write(3);
        let epoch = agent.next_epoch();
        let (bytes, _) = agent.send(epoch);
        let mut manifest = SignedManifest::parse(&bytes).unwrap().manifest;
        let bytes = match name {
            "another key" => manifest.sign(&crate::agent::Keys::new(77).signing).unwrap(),
            _ => {
                manifest.machine = MachineId([7; 16]);
                manifest.sign(&agent.keys.signing).unwrap()
            }
        };
        let digest = SignedManifest::parse(&bytes).unwrap().digest;
        let grants = agent.try_grants(0, epoch, 1).unwrap();
        assert_eq!(agent.put(&grants.manifests[0].grant, &bytes), StatusCode::CREATED, "{name}");
        agent.notice(epoch, digest).unwrap();
        let refused = format!("epoch {epoch} was refused");
        wait_for(name, || {
            let events = rig.admin(&["event", "list", "--machine", &machine]);
            let said = |event: &serde_json::Value| {
                event["message"].as_str().is_some_and(|m| m.starts_with(&refused))
            };
            events["events"].as_array()?.iter().any(said).then_some(())
        });
        agent.restart();
        agent.new_generation();
    }
    agent.commit();
    taken_in(&rig, &agent, agent.head.as_ref().unwrap().epoch.0);
    newest_point_is(&rig, &agent);
}
