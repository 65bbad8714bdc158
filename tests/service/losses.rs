//! Commits that a store has lost.
//!
//! Deliberately not here: segments that are lost or damaged (`commits`), and what an agent does about a loss that it hears of.

use mobility_format::{
    Digest, Epoch,
    control::{CommitState, Order},
};
use reqwest::StatusCode;

use crate::{
    agent::Agent,
    commits::{newest_point_is, ready, taken_in},
    rig::{Rig, wait_for},
};

/// Sends an epoch, but for its manifest.
fn without_manifest(agent: &mut Agent) -> (Epoch, Vec<u8>, Digest) {
    agent.write(5);
    let epoch = agent.next_epoch();
    let (manifest, digest) = agent.send(epoch);
    agent.committed(epoch, digest);
    (epoch, manifest, digest)
}

/// That the machine is told to compare all its disks, and goes on from the last sound epoch.
fn is_told_to_compare(rig: &Rig, agent: &mut Agent, sound: u64) {
    let head = agent.head.clone().unwrap();
    let order = wait_for("the command to resync", || {
        // As an agent does that goes on committing.
        agent.notice(head.epoch, head.digest).unwrap();
        agent.commands(0).unwrap().commands.pop().map(|command| command.order)
    });
    let Order::Resync { generation, disks, through, reason } = order else { panic!("{order:?}") };
    assert_eq!((generation, through), (agent.generation, Epoch(sound + 1)), "{reason}");
    assert!(disks.is_empty(), "nobody knows what the lost commit covered");
    assert!(reason.contains("the store has lost it"), "{reason}");
    agent.new_generation();
    assert_eq!(agent.head.as_ref().unwrap().epoch, Epoch(sound));
    agent.commit();
    taken_in(rig, agent, sound + 1);
    newest_point_is(rig, agent);
}

#[test]
fn a_commit_that_was_lost_leads_to_a_resync() {
    let rig = Rig::with(|_| "[limits]\nmissing-s = 1\n".to_owned());
    let mut agent = ready(&rig, 1);
    agent.commit();
    taken_in(&rig, &agent, 1);
    without_manifest(&mut agent);
    agent.write(5);
    assert_eq!(agent.commit().state, CommitState::Present);
    is_told_to_compare(&rig, &mut agent, 1);
}

#[test]
fn several_that_were_lost_are_found_once_an_interval_was_missed() {
    let rig = Rig::with(|_| "[limits]\nmissing-s = 1\n".to_owned());
    rig.admin(&["policy", "set", "default", "--interval", "1"]);
    let mut agent = ready(&rig, 1);
    agent.commit();
    taken_in(&rig, &agent, 1);
    without_manifest(&mut agent);
    without_manifest(&mut agent);
    agent.write(5);
    assert_eq!(agent.commit().state, CommitState::Present);
    is_told_to_compare(&rig, &mut agent, 1);
}

#[test]
fn a_commit_that_is_put_again_in_time_is_taken_in_with_what_follows() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    agent.commit();
    taken_in(&rig, &agent, 1);
    let (epoch, manifest, digest) = without_manifest(&mut agent);
    agent.write(5);
    assert_eq!(agent.commit().state, CommitState::Present);
    assert_eq!(agent.notice(epoch, digest).unwrap().state, CommitState::Absent);
    let grants = agent.try_grants(0, epoch, 1).unwrap();
    assert_eq!(agent.put(&grants.manifests[0].grant, &manifest), StatusCode::CREATED);
    agent.notice(epoch, digest).unwrap();
    taken_in(&rig, &agent, 3);
    newest_point_is(&rig, &agent);
    assert!(agent.commands(0).unwrap().commands.is_empty());
}
