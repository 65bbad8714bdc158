//! Addresses that are rights: to create one object once, and to nothing else.
//!
//! Deliberately not here: what becomes of the objects.

use std::thread;

use mobility_format::{
    Epoch,
    control::{ErrorCode, GrantRequest, Grants},
};
use reqwest::{Method, StatusCode};

use crate::{
    agent::{Agent, ask},
    rig::Rig,
};

/// How often something is tried to be hit that takes a moment.
const ROUNDS: usize = 100;

fn ready(rig: &Rig, seed: u64) -> Agent {
    let mut agent = Agent::enrol(rig, seed);
    agent.try_session().unwrap();
    agent.new_generation();
    agent
}

#[test]
fn an_object_is_created_once_and_never_touched_again() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    let (slot, grant) = agent.slot();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    assert_eq!(agent.put(&grant, &content), StatusCode::CREATED);
    assert_eq!(agent.put(&grant, b"other"), StatusCode::CONFLICT);
    for method in [Method::GET, Method::DELETE, Method::POST, Method::PATCH, Method::HEAD] {
        let answer = agent.client.request(method.clone(), &grant.url).send().unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{method}");
    }
    let path = format!("storage/cache/{}/{:020}/slots/{slot:020}.seg", agent.machine, agent.generation.0);
    assert_eq!(std::fs::read(rig.data().join(path)).unwrap(), content);
}

/// An agent asks for grants beside all that it does. One that was told that another agent is there would never come back.
#[test]
fn who_begins_a_generation_is_not_taken_for_another() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    let (client, url) = (agent.client.clone(), format!("{}/v1/grants", agent.address));
    for round in 0..ROUNDS {
        let (session, generation) = (agent.session, agent.generation);
        let request = GrantRequest { session, generation, segments: 1, first_epoch: Epoch(1), manifests: 0 };
        let until_refused = || {
            (0..100_000)
                .find_map(|_| ask::<Grants>(&client, Method::POST, &url, Some(&request)).err())
                .unwrap()
        };
        let refused = thread::scope(|scope| {
            let asking = [(); 2].map(|()| scope.spawn(until_refused));
            agent.new_generation();
            asking.map(|asking| asking.join().unwrap())
        });
        for refused in refused {
            assert_eq!(refused.code, ErrorCode::Conflict, "round {round}: {refused:?}");
        }
    }
}

#[test]
fn a_tampered_address_is_no_right() {
    let rig = Rig::new();
    let (mut agent, mut other) = (ready(&rig, 1), ready(&rig, 2));
    let (slot, grant) = agent.slot();
    let (_, of_other) = other.slot();
    let url = &grant.url;
    let number = format!("{slot:020}.seg");
    let until = url.split("until=").nth(1).unwrap().split('&').next().unwrap();
    let later = (until.parse::<u64>().unwrap() + 1).to_string();
    let mac = url.split("mac=").nth(1).unwrap();
    let flipped: String = mac.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    let bad = [
        ("another slot", url.replace(&number, &format!("{:020}.seg", slot + 1))),
        ("another machine's prefix", url.replace(&agent.machine.to_string(), &other.machine.to_string())),
        ("another machine's code", url.replace(mac, of_other.url.split("mac=").nth(1).unwrap())),
        ("another generation", url.replace(&format!("{:020}/slots", 1), &format!("{:020}/slots", 2))),
        ("a path that leads up", url.replace("/slots/", "/slots/../")),
        ("later", url.replace(until, &later)),
        ("longer", url.replace("longest=", "longest=9")),
        ("another code", url.replace(mac, &flipped)),
        ("no code", url.replace(mac, "")),
        ("no question", url.split('?').next().unwrap().to_owned()),
    ];
    for (name, url) in bad {
        let status = agent.client.put(&url).body("x").send().unwrap().status();
        assert!(matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND), "{name}: {status}");
    }
    assert_eq!(agent.put(&grant, b"x"), StatusCode::CREATED);
    assert_eq!(other.put(&of_other, b"x"), StatusCode::CREATED);
}

#[test]
fn grants_are_for_the_current_generation_and_slots_are_never_given_twice() {
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    let (first, second) =
        (agent.try_grants(3, Epoch(1), 2).unwrap(), agent.try_grants(3, Epoch(1), 2).unwrap());
    let slots: std::collections::BTreeSet<u64> =
        first.segments.iter().chain(&second.segments).map(|segment| segment.slot).collect();
    assert_eq!(slots.len(), 6);
    assert_eq!(first.manifests.iter().map(|m| m.epoch.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(agent.try_grants(5000, Epoch(1), 0).unwrap_err().code, ErrorCode::BadRequest);
    let old = agent.generation;
    agent.new_generation();
    assert!(agent.generation > old);
    agent.generation = old;
    assert_eq!(agent.try_grants(1, Epoch(1), 0).unwrap_err().code, ErrorCode::Conflict);
}

#[test]
fn an_object_that_breaks_off_is_not_there() {
    use std::io::{self, Read};
    /// Some bytes, and then an error.
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("broken"));
            }
            let count = buffer.len().min(self.0);
            buffer[..count].fill(7);
            self.0 -= count;
            Ok(count)
        }
    }
    let rig = Rig::new();
    let mut agent = ready(&rig, 1);
    let (_, grant) = agent.slot();
    let body = reqwest::blocking::Body::sized(Broken(2 << 20), 4 << 20);
    assert!(agent.client.put(&grant.url).body(body).send().is_err());
    assert_eq!(agent.put(&grant, b"whole"), StatusCode::CREATED);
    let (_, grant) = agent.slot();
    let chunked = reqwest::blocking::Body::new(Broken(2 << 20));
    assert!(agent.client.put(&grant.url).body(chunked).send().is_err());
    assert_eq!(agent.put(&grant, b"whole"), StatusCode::CREATED);
}
