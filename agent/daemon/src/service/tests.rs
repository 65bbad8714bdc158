//! The whole of the agent's side against a service and a store that do what a test wants: what the tests have in common.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    ByteCount, Epoch, Generation,
    control::{
        Commands, CommitSeen, CommitState, Grant, GrantRequest, Grants, MachineHealth, ManifestGrant, Policy,
        SegmentGrant, SessionStarted,
    },
};

use super::{
    FromService, Payload, Service,
    fake::{Authority, Fake, Received, Reply, enrol, ok, open},
};

mod control;
mod uploads;

const G: Generation = Generation(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn payload(length: usize) -> Payload {
    Arc::new(vec![7u8; length])
}

fn policy(version: u64) -> Policy {
    let text = r#"{"version":1,"name":"p","interval_s":15,"retention":"1h","scripts":true}"#;
    Policy { version, ..serde_json::from_str(text).unwrap() }
}

fn started() -> Reply {
    ok(&SessionStarted { policy: policy(1), generation: G, head: None, turn: 1 })
}

/// Grants into `store`, numbered on from `next`.
fn granted(request: &Received, store: &str, next: &AtomicU64) -> Reply {
    let asked: GrantRequest = serde_json::from_slice(&request.body).unwrap();
    let grant = |kind: &str, n: u64| Grant {
        url: format!("{store}{kind}/{n}"),
        headers: BTreeMap::from([("x-kind".to_owned(), kind.to_owned())]),
    };
    let first = next.fetch_add(u64::from(asked.segments), Ordering::SeqCst);
    let epochs = asked.first_epoch.0..asked.first_epoch.0 + u64::from(asked.manifests);
    ok(&Grants {
        generation: asked.generation,
        expires: Timestamp::now() + SignedDuration::from_hours(10),
        longest: ByteCount(64 << 20),
        segments: (first..first + u64::from(asked.segments))
            .map(|slot| SegmentGrant { slot, grant: grant("slot", slot) })
            .collect(),
        manifests: epochs
            .map(|epoch| ManifestGrant { epoch: Epoch(epoch), grant: grant("epoch", epoch) })
            .collect(),
    })
}

/// An enrolled machine, its service and its store.
struct World {
    dir: tempfile::TempDir,
    service: Option<Fake>,
    store: Fake,
    agent: Service,
}

impl World {
    /// `store` answers uploads; `service` what the usual service does not, or does otherwise.
    fn new(
        store: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        service: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
    ) -> World {
        World::with(&Authority::new(), DAY, store, service)
    }

    fn with(
        authority: &Authority,
        life: SignedDuration,
        store: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        service: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
    ) -> World {
        let store = Fake::start(authority, store);
        let (url, next) = (store.url(""), AtomicU64::new(10));
        let service = Fake::start(authority, move |request| {
            if let Some(reply) = service(request) {
                return reply;
            }
            match request.path.split('?').next().unwrap() {
                "/v1/session" => started(),
                "/v1/grants" => granted(request, &url, &next),
                "/v1/commands" => {
                    std::thread::sleep(Duration::from_millis(200));
                    ok(&Commands::default())
                }
                "/v1/commits" => ok(&CommitSeen { state: CommitState::Present }),
                path if path.starts_with("/v1/commands/") => ok(&()),
                path => panic!("nobody expects {path}"),
            }
        });
        let dir = tempfile::tempdir().unwrap();
        enrol(dir.path(), authority, &service, life);
        let agent = open(dir.path());
        World { dir, service: Some(service), store, agent }
    }

    fn service(&self) -> &Fake {
        self.service.as_ref().unwrap()
    }

    fn begin(&self) {
        self.agent.start_session(super::inventory::collect(), None).unwrap();
    }

    fn listen(&self) -> Receiver<FromService> {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        let deliver = move |what| {
            let _ = sender.lock().unwrap().send(what);
        };
        self.agent.listen(deliver).unwrap();
        receiver
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent.stop();
    }
}

fn health() -> MachineHealth {
    serde_json::from_str(
        r#"{"agent":"0","clock":"2026-01-01T00:00:00Z","phase":"idle","last_point":null,"churn_per_s":0,"backlog":0,
            "certificate_expires":null,"trouble":[],"disks":[]}"#,
    )
    .unwrap()
}

fn soon<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).expect("it did not come")
}
