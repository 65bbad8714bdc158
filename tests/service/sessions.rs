//! Which of several agents with one identity goes on.
//!
//! Deliberately not here: waiting for a minute's silence; what is decided after it, a test beside the code shows.

use mobility_format::{SessionId, control::ErrorCode};
use reqwest::StatusCode;

use crate::{agent::Agent, rig::Rig};

/// Another agent with the same identity, as it came from a copy of the machine.
fn copy_of(rig: &Rig, agent: &Agent, session: u8) -> Agent {
    let mut copy = Agent::enrol(rig, u64::from(session));
    copy.client = rig.client(Some(&agent.identity));
    (copy.machine, copy.identity) = (agent.machine, agent.identity.clone());
    copy.session = SessionId([session; 8]);
    copy
}

#[test]
fn a_restarted_agent_goes_on_at_once_and_the_one_before_is_fenced() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.try_heartbeat().unwrap();
    let mut restarted = copy_of(&rig, &agent, 2);
    restarted.try_session().unwrap();
    restarted.try_heartbeat().unwrap();
    let refused = agent.try_heartbeat().unwrap_err();
    assert_eq!((refused.code, refused.status), (ErrorCode::Fenced, StatusCode::CONFLICT));
    assert_eq!(agent.commands(0).unwrap_err().code, ErrorCode::Fenced);
    assert_eq!(agent.try_generation().unwrap_err().code, ErrorCode::Fenced);
    assert_eq!(agent.try_grants(1, mobility_format::Epoch(1), 1).unwrap_err().code, ErrorCode::Fenced);
    restarted.try_heartbeat().unwrap();
}

#[test]
fn another_boot_or_other_hardware_waits_and_is_fenced_once_the_first_is_heard() {
    let rig = Rig::new();
    for (seed, boot, hardware) in [(1, "other", "hardware"), (3, "boot", "other"), (5, "other", "other")] {
        let mut agent = Agent::enrol(&rig, seed);
        agent.try_session().unwrap();
        agent.try_heartbeat().unwrap();
        let mut copy = copy_of(&rig, &agent, seed as u8 + 1);
        (copy.boot, copy.hardware) = (boot.to_owned(), hardware.to_owned());
        let waits = copy.try_session().unwrap_err();
        assert_eq!((waits.code, waits.status), (ErrorCode::NotYet, StatusCode::SERVICE_UNAVAILABLE));
        assert!(waits.retry_after.is_some_and(|seconds| (1..=60).contains(&seconds)));
        assert_eq!(copy.try_session().unwrap_err().code, ErrorCode::NotYet);
        agent.try_heartbeat().unwrap();
        assert_eq!(copy.try_session().unwrap_err().code, ErrorCode::Fenced);
        agent.try_heartbeat().unwrap();
        let machine = agent.machine.to_string();
        let events = rig.admin(&["event", "list", "--machine", &machine]);
        let fenced = events["events"].as_array().unwrap().iter().any(|event| event["kind"] == "fenced");
        assert!(fenced, "{events}");
    }
}

#[test]
fn lost_answers_of_heartbeats_do_no_harm() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    let first = agent.try_session().unwrap().turn;
    // The answer to the session was lost as well.
    agent.try_session().unwrap();
    agent.turn = first;
    for _ in 0..5 {
        let turn = agent.turn;
        agent.try_heartbeat().unwrap();
        let of_first = agent.turn;
        agent.turn = turn;
        agent.try_heartbeat().unwrap();
        agent.turn = turn;
        agent.try_heartbeat().unwrap();
        // A delayed request was answered after its repetition: either answer may be the one that got through.
        agent.turn = of_first;
    }
    agent.try_heartbeat().unwrap();
}

#[test]
fn a_copy_that_shares_the_session_is_found_out_by_its_turn() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.try_heartbeat().unwrap();
    let mut copy = copy_of(&rig, &agent, 2);
    (copy.session, copy.turn) = (agent.session, agent.turn);
    agent.try_heartbeat().unwrap();
    // It looks like a lost answer, once.
    copy.try_heartbeat().unwrap();
    agent.try_heartbeat().unwrap();
    assert_eq!(copy.try_heartbeat().unwrap_err().code, ErrorCode::Fenced);
    agent.try_heartbeat().unwrap();
}

#[test]
fn generations_are_handed_out_once_for_each_request() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    assert_eq!(agent.try_session().unwrap().generation.0, 0);
    agent.try_generation().unwrap();
    assert_eq!(agent.generation.0, 1);
    // The answer was lost.
    agent.generation.0 = 0;
    agent.try_generation().unwrap();
    assert_eq!(agent.generation.0, 1);
    agent.add_disk("disk", 8);
    agent.commit();
    crate::commits::taken_in(&rig, &agent, 1);
    agent.generation.0 = 0;
    assert_eq!(agent.try_generation().unwrap_err().code, ErrorCode::Conflict);
    agent.generation.0 = 7;
    assert_eq!(agent.try_generation().unwrap_err().code, ErrorCode::Conflict);
    agent.generation.0 = 1;
    agent.new_generation();
    assert_eq!(agent.generation.0, 2);
}
