//! Sessions, heartbeats, commands, certificates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    Epoch, Generation,
    control::{Command, CommandResult, Commands, Heartbeat, HeartbeatAnswer, Order, RenewRequest, Renewed},
};

use super::{
    super::{FromService, ServiceFaultKind as Kind, inventory},
    Authority, DAY, G, World, health, ok, payload, policy, soon,
};
use crate::service::fake::refused;

#[test]
fn heartbeats_bring_turns_policies_and_what_was_taken_in() {
    let beats = AtomicU64::new(0);
    let world = World::new(
        |_| Some((201, "", Vec::new())),
        move |request| {
            if request.path != "/v1/heartbeat" {
                return None;
            }
            let (policy, turn) = match beats.fetch_add(1, Ordering::SeqCst) {
                0 => (Some(policy(9)), 5),
                // The answer is lost.
                1 => return Some(None),
                beat => (None, 5 + beat),
            };
            Some(ok(&HeartbeatAnswer { turn, next_s: 1, policy, generation: G, taken_in: Epoch(turn) }))
        },
    );
    let news = world.listen();
    world.begin();
    world.agent.report(None, health(), true);
    assert!(matches!(soon(&news), FromService::PolicyChanged(policy) if policy.version == 9));
    assert!(matches!(soon(&news), FromService::TakenIn(Epoch(5))));
    assert!(matches!(soon(&news), FromService::TakenIn(Epoch(7))));
    assert_eq!(world.agent.remembered_policy(), Some(policy(9)));
    let beats = world.service().await_received("/v1/heartbeat", 4);
    let turns: Vec<_> = beats
        .iter()
        .map(|beat| serde_json::from_slice::<Heartbeat>(&beat.body).unwrap())
        .map(|beat| (beat.turn, beat.policy))
        .collect();
    assert_eq!(turns[..4], [(1, 1), (5, 9), (5, 9), (7, 9)], "a turn whose answer was lost is brought again");
}

#[test]
fn the_log_is_sent_when_it_is_asked_for() {
    let world = World::new(
        |_| None,
        |request| {
            let listed = request.path.starts_with("/v1/commands?");
            listed.then(|| ok(&Commands { commands: vec![Command { id: 8, order: Order::Logs }] }))
        },
    );
    let news = world.listen();
    world.begin();
    let told = world.service().await_received("/v1/commands/8", 1);
    let result: CommandResult = serde_json::from_slice(&told[0].body).unwrap();
    assert!(result.done && news.try_iter().all(|said| matches!(said, FromService::Told(..))));
}

#[test]
fn a_fenced_agent_asks_nothing_any_more() {
    let world = World::new(
        |_| Some((201, "", Vec::new())),
        |request| (request.path == "/v1/heartbeat").then(|| refused(409, "fenced")),
    );
    let news = world.listen();
    world.begin();
    world.agent.report(None, health(), true);
    assert!(matches!(soon(&news), FromService::Fenced(why) if why.contains("says fenced")));
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap_err().kind, Kind::Fenced);
    assert_eq!(world.agent.start_session(inventory::collect(), None).unwrap_err().kind, Kind::Fenced);
    assert!(world.store.received("/").is_empty() && world.service().received("/v1/session").len() == 1);
}

#[test]
fn a_revoked_machine_asks_every_hour() {
    let world = World::new(
        |_| Some((201, "", Vec::new())),
        |request| (request.path == "/v1/session").then(|| refused(403, "revoked")),
    );
    let news = world.listen();
    for _ in 0..3 {
        let fault = world.agent.start_session(inventory::collect(), None).unwrap_err();
        assert_eq!(fault.kind, Kind::Revoked);
    }
    assert!(matches!(soon(&news), FromService::Revoked(_)));
    assert_eq!(world.service().received("/v1/session").len(), 1);
    let again = world.agent.put_segment(G, &payload(9)).unwrap_err();
    assert!(again.retry_after > Some(Duration::from_secs(3000)));
}

#[test]
fn a_command_is_handed_on_once_and_its_result_told() {
    let told = Arc::new(AtomicBool::new(false));
    let known = told.clone();
    let world = World::new(
        |_| Some((201, "", Vec::new())),
        move |request| {
            if request.path.starts_with("/v1/commands/") {
                known.store(true, Ordering::SeqCst);
                return Some(ok(&()));
            }
            let listed = request.path.starts_with("/v1/commands?") && !known.load(Ordering::SeqCst);
            listed.then(|| {
                let order = |id| Command {
                    id,
                    order: if id == 4 {
                        Order::Point { application: false }
                    } else {
                        Order::Point { application: true }
                    },
                };
                ok(&Commands { commands: vec![order(3), order(4)] })
            })
        },
    );
    let news = world.listen();
    world.begin();
    for id in [3, 4] {
        assert!(matches!(soon(&news), FromService::Command(command) if command.id == id));
    }
    // It is listed again, and not handed on again.
    world.service().await_received("/v1/commands?", 2);
    world.agent.finish_command(3, CommandResult::done("x".repeat(1 << 20)));
    let result = &world.service().await_received("/v1/commands/3", 1)[0];
    assert!(result.body.len() < 300 << 10, "cut to what may be sent");
    assert!(news.try_iter().all(|said| matches!(said, FromService::Told(..))));
}

#[test]
fn the_certificate_is_renewed_when_told_and_used_at_once() {
    let authority = Arc::new(Authority::new());
    let signing = authority.clone();
    let world = World::with(
        &authority,
        DAY,
        |_| Some((201, "", Vec::new())),
        move |request| match request.path.as_str() {
            "/v1/renew" => {
                let asked: RenewRequest = serde_json::from_slice(&request.body).unwrap();
                Some(ok(&Renewed {
                    certificate: signing.sign(&asked.csr),
                    expires: Timestamp::now() + DAY + DAY,
                    authorities: signing.pem(),
                    addresses: Vec::new(),
                }))
            }
            path if path.starts_with("/v1/commands?") => {
                Some(ok(&Commands { commands: vec![Command { id: 1, order: Order::Renew }] }))
            }
            _ => None,
        },
    );
    let _news = world.listen();
    world.begin();
    let before = world.service().received("/v1/session")[0].certificate.clone();
    let told = world.service().await_received("/v1/commands/1", 1);
    assert!(String::from_utf8_lossy(&told[0].body).contains("true"));
    world.begin();
    let after = world.service().received("/v1/session")[1].certificate.clone();
    assert!(before.is_some() && after.is_some() && before != after);
    assert_eq!(world.service().received("/v1/renew").len(), 1, "once");
}

#[test]
fn a_certificate_near_its_end_or_not_accepted_is_renewed() {
    let authority = Arc::new(Authority::new());
    for (life, unauthenticated) in [(SignedDuration::from_millis(1), false), (DAY, true)] {
        let signing = authority.clone();
        let world = World::with(
            &authority,
            life,
            |_| None,
            move |request| match request.path.as_str() {
                // What cannot be used is not taken, and asked for again later.
                "/v1/renew" => Some(ok(&Renewed {
                    certificate: "rubbish".to_owned(),
                    expires: Timestamp::now() + DAY,
                    authorities: signing.pem(),
                    addresses: Vec::new(),
                })),
                "/v1/session" if unauthenticated => Some(refused(401, "unauthenticated")),
                _ => None,
            },
        );
        let _news = world.listen();
        let result = world.agent.start_session(inventory::collect(), None);
        assert_eq!(result.is_err(), unauthenticated);
        world.service().await_received("/v1/renew", 1);
    }
}

#[test]
fn digests_and_generations_are_asked_for() {
    let world = World::new(
        |_| None,
        |request| match request.path.as_str() {
            "/v1/generation" => Some(ok(&serde_json::json!({ "generation": 2, "head": null }))),
            path if path.contains("window=5&count=2&epoch=9") => Some(Some((200, "", vec![0, 0]))),
            path if path.starts_with("/v1/digests") => Some(refused(503, "not-yet")),
            _ => None,
        },
    );
    world.begin();
    assert_eq!(world.agent.new_generation(G, "why\n").unwrap().generation, Generation(2));
    let disk = mobility_format::DiskId([1; 16]);
    assert_eq!(world.agent.digests(disk, 5, 2, Epoch(9)).unwrap(), [None, None]);
    assert_eq!(world.agent.digests(disk, 0, 1, Epoch(9)).unwrap_err().kind, Kind::NotYet);
}
