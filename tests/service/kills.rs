//! The service is killed at random moments while machines commit: nothing that was committed is lost, and no point is wrong.
//!
//! Deliberately not here: power cuts that take what was not synced.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mobility_format::control::{CommitState, ErrorCode};
use mobility_tests::dice::Dice;
use reqwest::StatusCode;

use crate::{
    agent::{Agent, Refused},
    commits::{newest_point_is, taken_in},
    rig::{Rig, wait_for},
};

const KILLS: usize = 12;

/// Tries again while the service is away.
fn stubborn<T>(what: &str, mut ask: impl FnMut() -> Result<T, Refused>) -> T {
    wait_for(what, || match ask() {
        Ok(answer) => Some(answer),
        Err(refused) if matches!(refused.code, ErrorCode::NotYet | ErrorCode::Unavailable) => None,
        Err(refused) => panic!("{what}: {refused:?}"),
    })
}

/// One epoch, however often it has to be asked for.
fn commit(agent: &Mutex<Agent>) {
    let mut agent = agent.lock().unwrap();
    agent.write(6);
    let epoch = agent.next_epoch();
    while agent.slots.len() < 4 {
        let grants = stubborn("grants", || agent.try_grants(8, epoch, 0));
        agent.slots.extend(grants.segments.into_iter().map(|segment| (segment.slot, segment.grant)));
    }
    let (manifest, digest) = agent.send_stubbornly(epoch);
    let grants = stubborn("a grant", || agent.try_grants(0, epoch, 1));
    let url = &grants.manifests[0].grant.url;
    let put = wait_for("the manifest to be taken", || {
        Some(agent.client.put(url).body(manifest.clone()).send().ok()?.status())
    });
    assert!(matches!(put, StatusCode::CREATED | StatusCode::CONFLICT), "{put}");
    agent.committed(epoch, digest);
    let seen = stubborn("the notice", || agent.notice(epoch, digest));
    assert!(matches!(seen.state, CommitState::Present | CommitState::TakenIn), "{seen:?}");
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was() {
    let mut rig = Rig::new();
    let agents: Vec<Mutex<Agent>> = (1..=3)
        .map(|seed| {
            let mut agent = Agent::enrol(&rig, seed);
            agent.try_session().unwrap();
            agent.new_generation();
            agent.add_disk("disk", 200);
            Mutex::new(agent)
        })
        .collect();
    let seed = 7;
    let mut dice = Dice::new(seed);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for agent in &agents {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    commit(agent);
                }
            });
        }
        for _ in 0..KILLS {
            // How long it runs is what is random here.
            std::thread::sleep(Duration::from_millis(30 + dice.below(700)));
            rig.kill();
            rig.start();
        }
        over.store(true, Ordering::Relaxed);
    });
    for agent in &agents {
        let agent = agent.lock().unwrap();
        taken_in(&rig, &agent, agent.head.as_ref().unwrap().epoch.0);
        newest_point_is(&rig, &agent);
        let machine = agent.machine.to_string();
        let events = rig.admin(&["event", "list", "--machine", &machine]);
        let refused =
            events["events"].as_array().unwrap().iter().any(|event| event["kind"] == "epoch-refused");
        assert!(!refused, "seed {seed}: {events}");
    }
}
