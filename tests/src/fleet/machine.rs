//! One machine of a fleet: enrols, keeps a session, beats, waits for commands, commits.
//!
//! Deliberately not here: when it does (`fleet`).

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use mobility_format::{
    ByteCount, Digest, DiskId, Epoch, Generation, MachineId, PublicKey, SessionId,
    control::{
        Claim, Commands, CommitNotice, CommitSeen, CommitState, DiskHealth, EnrolRequest, Enrolled,
        ErrorBody, ErrorCode, GenerationRequest, Grant, GrantRequest, Grants, Heartbeat, HeartbeatAnswer,
        Inventory, MachineHealth, NewGeneration, SessionRequest, SessionStarted,
    },
    envelope::SigningKey,
    manifest::SignedManifest,
};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client, Identity, Method, StatusCode, tls::Version};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Mutex as AsyncMutex;

use super::{Place, point};
use crate::dice::Dice;

/// How long any request may take.
const PATIENCE: Duration = Duration::from_secs(100);
/// How long a connection is kept that is not used: less than the service does, as agents do.
const KEPT: Duration = Duration::from_secs(45);
/// How long it waits for commands, in seconds.
const WAIT_S: u64 = 50;
/// How many grants it asks for at once.
const AHEAD: u32 = 16;
/// As many addresses of the loopback are connected from, since each has only so many ports.
const SOURCES: usize = 16;
/// How often a new generation is asked for while it is not to be had yet.
const TRIES: usize = 50;

/// What was not done, and why.
#[derive(Debug)]
pub struct Failed {
    /// What the service said, if it did.
    pub code: Option<ErrorCode>,
    said: String,
}

impl Failed {
    fn new(said: impl Into<String>) -> Failed {
        Failed { code: None, said: said.into() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl From<reqwest::Error> for Failed {
    fn from(err: reqwest::Error) -> Failed {
        let mut said = err.to_string();
        let mut cause = std::error::Error::source(&err);
        while let Some(err) = cause {
            said += &format!(": {err}");
            cause = err.source();
        }
        Failed::new(said)
    }
}

/// One machine.
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    number: usize,
    seed: u64,
    client: Client,
    address: Mutex<String>,
    session: SessionId,
    signing: SigningKey,
    /// The turn and the policy that the next heartbeat names. Heartbeats go one by one.
    beat: AsyncMutex<(u64, u64)>,
    chain: AsyncMutex<Chain>,
    taken_in: AtomicU64,
    committed: AtomicU64,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine {}", self.id)
    }
}

/// What the next commit follows.
struct Chain {
    generation: Generation,
    epoch: Epoch,
    manifest: Digest,
    segment: Digest,
    slots: VecDeque<(u64, Grant)>,
    places: BTreeMap<Epoch, Grant>,
    dice: Dice,
}

impl Machine {
    /// Enrols one, with a session and a generation.
    ///
    /// # Errors
    /// Where it is refused.
    pub(super) async fn enrol(
        place: &Place,
        token: &str,
        seed: u64,
        number: usize,
    ) -> Result<Machine, Failed> {
        let mut dice = Dice::new(seed.wrapping_add(number as u64));
        let signing = SigningKey::from_bytes(&std::array::from_fn(|_| dice.below(256) as u8));
        let tls = KeyPair::generate().unwrap();
        let request = EnrolRequest {
            token: token.to_owned(),
            csr: CertificateParams::default().serialize_request(&tls).unwrap().pem().unwrap(),
            signing_key: PublicKey(signing.verifying_key().to_bytes()),
            inventory: inventory(number),
        };
        let address = place.addresses[number % place.addresses.len()].clone();
        let stranger = client(&place.authority, number, None);
        let enrolled: Enrolled =
            ask(&stranger, Method::POST, &format!("{address}/v1/enrol"), Some(&request)).await?;
        let identity = format!("{}{}", enrolled.certificate, tls.serialize_pem());
        let session = SessionId(std::array::from_fn(|_| dice.below(256) as u8));
        let mut machine = Machine {
            id: enrolled.machine,
            number,
            seed,
            client: client(&place.authority, number, Some(&identity)),
            address: Mutex::new(address),
            session,
            signing,
            beat: AsyncMutex::new((0, 0)),
            chain: AsyncMutex::new(Chain {
                generation: Generation(0),
                epoch: Epoch(0),
                manifest: Digest::NONE,
                segment: Digest::NONE,
                slots: VecDeque::new(),
                places: BTreeMap::new(),
                dice,
            }),
            taken_in: AtomicU64::new(0),
            committed: AtomicU64::new(0),
        };
        machine.begin().await?;
        Ok(machine)
    }

    async fn begin(&mut self) -> Result<(), Failed> {
        let (session, boot) = (self.session, format!("boot {}", self.number));
        let request = SessionRequest { session, boot, inventory: inventory(self.number), claim: None };
        let started: SessionStarted = self.post("session", &request).await?;
        *self.beat.get_mut() = (started.turn, started.policy.version);
        let request = GenerationRequest { session, after: started.generation, reason: "new".to_owned() };
        for _ in 0..TRIES {
            match self.post::<NewGeneration>("generation", &request).await {
                Err(Failed { code: Some(ErrorCode::NotYet), .. }) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                begun => {
                    self.chain.get_mut().generation = begun?.generation;
                    return Ok(());
                }
            }
        }
        Err(Failed::new("no generation was to be had"))
    }

    /// A source of chance of its own.
    pub(super) fn dice(&self, what: u64) -> Dice {
        Dice::new(self.seed.wrapping_add(self.number as u64) ^ (what << 40))
    }

    /// Uses the instance at this address from now on.
    pub(super) fn go_to(&self, address: &str) {
        address.clone_into(&mut self.address.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.address.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, message: &impl Serialize) -> Result<T, Failed> {
        ask(&self.client, Method::POST, &self.url(path), Some(message)).await
    }

    /// The newest epoch that it was told was taken in.
    pub fn taken_in(&self) -> u64 {
        self.taken_in.load(Ordering::Relaxed)
    }

    /// The newest epoch that it has committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// One heartbeat.
    ///
    /// # Errors
    /// Where it is refused or not answered.
    pub async fn beat(&self) -> Result<HeartbeatAnswer, Failed> {
        let mut beat = self.beat.lock().await;
        let (session, (turn, policy)) = (self.session, *beat);
        let message =
            Heartbeat { session, turn, policy, paused: false, head: None::<Claim>, health: health() };
        let answer: HeartbeatAnswer = self.post("heartbeat", &message).await?;
        *beat = (answer.turn, answer.policy.as_ref().map_or(policy, |policy| policy.version));
        self.taken_in.fetch_max(answer.taken_in.0, Ordering::Relaxed);
        Ok(answer)
    }

    /// Waits for commands once.
    ///
    /// # Errors
    /// Where it is refused or not answered.
    pub async fn wait_for_commands(&self) -> Result<Commands, Failed> {
        let url = self.url(&format!("commands?session={}&wait_s={WAIT_S}", self.session));
        ask(&self.client, Method::GET, &url, None::<&()>).await
    }

    /// Commits a recovery point, and hears that the service sees it.
    ///
    /// # Errors
    /// Where any part of it is refused or not answered.
    pub async fn commit(&self) -> Result<(), Failed> {
        let mut chain = self.chain.lock().await;
        let epoch = chain.epoch.next();
        self.provide(&mut chain, epoch).await?;
        let header = point::header(self.id, self.session, chain.generation, epoch, chain.segment);
        let seed = chain.dice.number();
        let (bytes, mut named) = point::segment(header, seed);
        let (slot, grant) = chain.slots.pop_front().ok_or_else(|| Failed::new("no slot was granted"))?;
        named.slot = Some(slot);
        let last = named.digest;
        self.put(&grant, bytes).await?;
        let bytes = point::manifest(&header, named, chain.manifest).sign(&self.signing).unwrap();
        let digest = SignedManifest::parse(&bytes).unwrap().digest;
        let place = chain.places.remove(&epoch).ok_or_else(|| Failed::new("no place was granted"))?;
        self.put(&place, bytes).await?;
        (chain.epoch, chain.manifest, chain.segment) = (epoch, digest, last);
        self.committed.store(epoch.0, Ordering::Relaxed);
        let notice = CommitNotice { session: self.session, generation: chain.generation, epoch, digest };
        let seen: CommitSeen = self.post("commits", &notice).await?;
        match seen.state {
            CommitState::Present | CommitState::TakenIn => Ok(()),
            other => Err(Failed::new(format!("epoch {epoch} is {other:?}"))),
        }
    }

    /// Grants ahead of need.
    async fn provide(&self, chain: &mut Chain, epoch: Epoch) -> Result<(), Failed> {
        if !chain.slots.is_empty() && chain.places.contains_key(&epoch) {
            return Ok(());
        }
        let (session, generation) = (self.session, chain.generation);
        let request =
            GrantRequest { session, generation, segments: AHEAD, first_epoch: epoch, manifests: AHEAD };
        let grants: Grants = self.post("grants", &request).await?;
        chain.slots.extend(grants.segments.into_iter().map(|granted| (granted.slot, granted.grant)));
        chain.places.extend(grants.manifests.into_iter().map(|granted| (granted.epoch, granted.grant)));
        Ok(())
    }

    async fn put(&self, grant: &Grant, bytes: Vec<u8>) -> Result<(), Failed> {
        let mut request = self.client.put(&grant.url);
        for (name, value) in &grant.headers {
            request = request.header(name, value);
        }
        let answer = request.body(bytes).send().await?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED => Ok(()),
            status => Err(Failed::new(format!("an object was refused: {status}"))),
        }
    }
}

/// A client as agents have one: its own connections, its own certificate, nobody else's authority.
fn client(authority: &str, number: usize, identity: Option<&str>) -> Client {
    let source = Ipv4Addr::new(127, 0, 0, u8::try_from(2 + number % SOURCES).unwrap_or(2));
    let builder = Client::builder()
        .tls_certs_only([Certificate::from_pem(authority.as_bytes()).unwrap()])
        .tls_version_min(Version::TLS_1_3)
        .http1_only()
        .pool_idle_timeout(KEPT)
        .no_proxy()
        .local_address(IpAddr::V4(source))
        .timeout(PATIENCE);
    match identity {
        Some(pem) => builder.identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

async fn ask<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    url: &str,
    message: Option<&impl Serialize>,
) -> Result<T, Failed> {
    let mut request = client.request(method, url);
    if let Some(message) = message {
        request = request.json(message);
    }
    let answer = request.send().await?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.json().await?);
    }
    let body = answer.bytes().await?;
    let said: Option<ErrorBody> = serde_json::from_slice(&body).ok();
    let words = said.as_ref().map_or(String::new(), |said| said.message.clone());
    Err(Failed { code: said.map(|said| said.code), said: format!("{status}: {words}") })
}

fn inventory(number: usize) -> Inventory {
    Inventory {
        name: format!("simulated-{number}"),
        hardware: format!("hardware {number}"),
        ..Inventory::default()
    }
}

/// As much as an agent with one disk tells.
fn health() -> MachineHealth {
    let disk = DiskHealth {
        id: DiskId::derive("disk"),
        name: "disk".to_owned(),
        size: ByteCount(1 << 18),
        capture: "tracker".to_owned(),
        state: "tracked".to_owned(),
        remaining: ByteCount(0),
        resync_reason: None,
        audited_blocks: 64,
        missed_blocks: 0,
    };
    MachineHealth {
        agent: "simulated agent".to_owned(),
        clock: Timestamp::now(),
        phase: "idle".to_owned(),
        last_point: None,
        churn_per_s: ByteCount(4096),
        backlog: ByteCount(0),
        certificate_expires: Some(Timestamp::now()),
        trouble: Vec::new(),
        disks: vec![disk],
    }
}
