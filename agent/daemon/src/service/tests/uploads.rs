//! Segments and manifests, grants, rates.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    ByteCount, Digest, Epoch,
    control::{CommitSeen, CommitState, Grants},
};

use super::{
    super::{Put, Service, ServiceFaultKind as Kind, inventory},
    Authority, DAY, Fake, G, World, enrol, granted, ok, open, payload, policy, started,
};
use crate::service::fake::eventually;

#[test]
fn segments_go_into_free_places_with_the_given_headers() {
    let world = World::new(|_| Some((201, "", Vec::new())), |_| None);
    world.begin();
    let slots: Vec<_> = (0..3).map(|_| world.agent.put_segment(G, &payload(300_000)).unwrap()).collect();
    assert_eq!(slots, [10, 11, 12]);
    let put = world.store.received("/slot/11");
    assert_eq!((put.len(), put[0].method.as_str(), put[0].body.len()), (1, "PUT", 300_000));
    assert!(put[0].head.to_lowercase().contains("x-kind: slot") && put[0].certificate.is_none());
    assert!(put[0].body.iter().all(|byte| *byte == 7));
    assert!(world.service().received("/v1/session")[0].certificate.is_some());
}

#[test]
fn a_place_that_is_taken_is_given_up_and_the_next_used() {
    let world = World::new(
        |request| match request.path.as_str() {
            "/slot/10" => Some((409, "", Vec::new())),
            "/slot/11" => Some((412, "", Vec::new())),
            "/slot/12" => Some((403, "", b"<Code>UnauthorizedBlobOverwrite</Code>".to_vec())),
            "/slot/13" => Some((403, "", b"<Code>AuthorizationPermissionMismatch</Code>".to_vec())),
            _ => Some((200, "", Vec::new())),
        },
        |_| None,
    );
    world.begin();
    assert_eq!(world.agent.put_segment(G, &payload(1)).unwrap(), 14);
    assert_eq!(world.agent.put_segment(G, &payload(1)).unwrap(), 15);
}

#[test]
fn grants_that_are_refused_are_replaced_and_not_for_ever() {
    let world = World::new(
        |request| match request.path.strip_prefix("/slot/").unwrap().parse::<u64>().unwrap() {
            ..100 => Some((403, "", b"expired".to_vec())),
            _ => Some((201, "", Vec::new())),
        },
        |_| None,
    );
    world.begin();
    assert!(world.agent.put_segment(G, &payload(1)).unwrap() >= 100, "from another batch");
    assert_eq!(world.store.received("/slot").len(), 3);
    let never = World::new(|_| Some((404, "", Vec::new())), |_| None);
    never.begin();
    assert_eq!(never.agent.put_segment(G, &payload(1)).unwrap_err().kind, Kind::Storage);
    assert!(never.store.received("/slot").len() < 10);
}

#[test]
fn a_store_that_cannot_now_is_left_to_the_caller_and_the_place_is_kept() {
    let tries = AtomicU64::new(0);
    let world = World::new(
        move |_| match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Some((503, "Retry-After: 7\r\n", b"ServerBusy".to_vec())),
            1 => Some((507, "", Vec::new())),
            2 | 4 | 5 => None,
            _ => Some((201, "", Vec::new())),
        },
        |_| None,
    );
    world.begin();
    let busy = world.agent.put_segment(G, &payload(9)).unwrap_err();
    assert_eq!((busy.kind, busy.retry_after), (Kind::Storage, Some(Duration::from_secs(7))));
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap_err().kind, Kind::StorageFull);
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap_err().kind, Kind::Unreachable);
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap(), 10);
    for _ in 0..2 {
        assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap_err().kind, Kind::Unreachable);
    }
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap(), 12, "what broke twice is given up");
}

#[test]
fn uploads_go_on_without_the_service_and_over_a_restart() {
    let mut world = World::new(|_| Some((201, "", Vec::new())), |_| None);
    world.begin();
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap(), 10);
    assert_eq!(world.agent.put_manifest(G, Epoch(1), Digest::NONE, &payload(9)).unwrap(), Put::Done);
    world.service = None;
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap(), 11);
    world.agent.stop();
    let dir = world.dir.path().to_owned();
    let stopped = world.agent.put_segment(G, &payload(9)).unwrap_err();
    assert_eq!(stopped.kind, Kind::Stopped);
    world.agent = open_again(&dir, &mut world);
    assert_eq!(world.agent.remembered_policy(), Some(policy(1)));
    assert_eq!(world.agent.put_segment(G, &payload(9)).unwrap(), 13, "12 was begun with");
    assert_eq!(world.agent.put_manifest(G, Epoch(2), Digest::NONE, &payload(9)).unwrap(), Put::Done);
    let fault = world.agent.start_session(inventory::collect(), None).unwrap_err();
    assert_eq!(fault.kind, Kind::Unreachable);
}

/// Opens the state directory of a service that is dropped for it.
fn open_again(dir: &std::path::Path, world: &mut World) -> Service {
    let other = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    enrol(other.path(), &authority, &world.store, DAY);
    drop(std::mem::replace(&mut world.agent, open(other.path())));
    open(dir)
}

#[test]
fn who_took_the_place_of_a_manifest_is_asked() {
    for (state, expected) in [
        (CommitState::Present, Put::TakenByThis),
        (CommitState::TakenIn, Put::TakenByThis),
        (CommitState::Other, Put::TakenByOther),
    ] {
        let world = World::new(
            |_| Some((409, "", Vec::new())),
            move |request| (request.path == "/v1/commits").then(|| ok(&CommitSeen { state })),
        );
        world.begin();
        assert_eq!(world.agent.put_manifest(G, Epoch(5), Digest::NONE, &payload(9)).unwrap(), expected);
    }
    let tries = AtomicU64::new(0);
    let world = World::new(
        move |_| Some((if tries.fetch_add(1, Ordering::SeqCst) == 0 { 403 } else { 201 }, "", Vec::new())),
        |request| (request.path == "/v1/commits").then(|| ok(&CommitSeen { state: CommitState::Absent })),
    );
    world.begin();
    let put = world.agent.put_manifest(G, Epoch(5), Digest::NONE, &payload(9));
    assert_eq!(put.unwrap(), Put::Done, "it was the grant");
    assert_eq!(world.service().received("/v1/grants").len(), 2);
}

#[test]
fn a_store_that_lied_is_given_the_manifest_again() {
    let looked = AtomicU64::new(0);
    let world = World::new(
        |_| Some((201, "", Vec::new())),
        move |request| {
            let state =
                if looked.load(Ordering::SeqCst) == 0 { CommitState::Absent } else { CommitState::Present };
            (request.path == "/v1/commits").then(|| {
                looked.fetch_add(1, Ordering::SeqCst);
                ok(&CommitSeen { state })
            })
        },
    );
    world.begin();
    let _news = world.listen();
    world.agent.put_manifest(G, Epoch(1), Digest([1; 32]), &payload(9)).unwrap();
    world.store.await_received("/epoch/1", 2);
    world.service().await_received("/v1/commits", 2);
}

#[test]
fn a_clock_that_is_wrong_by_a_day_costs_nothing() {
    for ahead in [DAY, -DAY] {
        // What the service calls now: this machine's clock is wrong by that much.
        let now = move || Timestamp::now() + ahead;
        let (authority, next) = (Authority::new(), AtomicU64::new(10));
        let store = Fake::start(&authority, |_| Some((201, "", Vec::new())));
        let url = store.url("");
        let service = Fake::start(&authority, move |request| {
            let (status, _, body) = match request.path.as_str() {
                "/v1/session" => started()?,
                _ => {
                    let (status, headers, body) = granted(request, &url, &next)?;
                    let mut grants: Grants = serde_json::from_slice(&body).unwrap();
                    grants.expires = now() + SignedDuration::from_hours(1);
                    (status, headers, serde_json::to_vec(&grants).unwrap())
                }
            };
            let date =
                jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now()).unwrap();
            Some((status, Box::leak(format!("Date: {date}\r\n").into_boxed_str()), body))
        });
        let dir = tempfile::tempdir().unwrap();
        enrol(dir.path(), &authority, &service, DAY);
        let agent = open(dir.path());
        agent.start_session(inventory::collect(), None).unwrap();
        for slot in 10..15 {
            assert_eq!(agent.put_segment(G, &payload(9)).unwrap(), slot);
        }
        assert_eq!(service.received("/v1/grants").len(), 1, "they do not seem to have expired");
        agent.stop();
    }
}

#[test]
fn the_upload_rate_holds() {
    let world = World::new(|_| Some((201, "", Vec::new())), |_| None);
    world.begin();
    world.agent.put_segment(G, &payload(1)).unwrap();
    world.agent.set_rate(Some(ByteCount(2 << 20)));
    let (start, each) = (Instant::now(), 5 << 20);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| world.agent.put_segment(G, &payload(each)).unwrap());
        }
    });
    let rate = (2 * each) as f64 / start.elapsed().as_secs_f64() / f64::from(2 << 20);
    assert!((0.95..1.05).contains(&rate), "{rate} of what was asked for");
    // A rate that is raised while an upload runs counts at once.
    world.agent.set_rate(Some(ByteCount(16 << 10)));
    std::thread::scope(|scope| {
        let upload = scope.spawn(|| world.agent.put_segment(G, &payload(each)).unwrap());
        let pace = &world.agent.connection.pace;
        eventually("the upload", || (pace.reserve(1).wait > Duration::from_millis(50)).then_some(()));
        world.agent.set_rate(None);
        let start = Instant::now();
        upload.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
fn the_end_of_the_agent_ends_what_waits() {
    let world = World::new(
        |_| {
            std::thread::sleep(Duration::from_secs(30));
            None
        },
        |_| None,
    );
    world.begin();
    let agent = world.agent.clone();
    let upload = std::thread::spawn(move || agent.put_segment(G, &payload(9)).unwrap_err().kind);
    eventually("the upload", || (!world.store.received("/slot").is_empty()).then_some(()));
    let start = Instant::now();
    world.agent.stop();
    assert_eq!(upload.join().unwrap(), Kind::Stopped);
    assert!(start.elapsed() < Duration::from_secs(2));
}
