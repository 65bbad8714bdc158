//! A small agent: enrols, keeps a session, writes disks in memory and commits them, as `docs/PROTOCOL.md` says.
//!
//! Deliberately not here: whatever makes a real one reliable. It fails where it is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mobility_format::{
    BLOCK_SIZE, BlockRange, ByteCount, Digest, DiskId, Epoch, Generation, Head, MachineId, PublicKey,
    SessionId,
    control::{
        Claim, Commands, CommitNotice, CommitSeen, EnrolRequest, Enrolled, ErrorBody, ErrorCode,
        GenerationRequest, Grant, GrantRequest, Grants, Heartbeat, HeartbeatAnswer, Inventory, MachineHealth,
        NewGeneration, SessionRequest, SessionStarted,
    },
    envelope::SigningKey,
    manifest::{Commit, Consistency, Cut, CutMethod, DiskState, Manifest, SegmentRef},
    segment::{ExtentEncoder, SegmentHeader, SegmentWriter},
};
use mobility_tests::dice::Dice;
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{client::Client, rig::Rig};

/// A refusal: the status and what was said.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) retry_after: Option<u64>,
}

/// Asks the service something.
pub(crate) fn ask<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    url: &str,
    message: Option<&impl Serialize>,
) -> Result<T, Refused> {
    let mut request = client.request(method, url);
    if let Some(message) = message {
        request = request.json(message);
    }
    // No answer is as good as that one: a service that was killed gives none.
    let gone =
        Refused { status: StatusCode::SERVICE_UNAVAILABLE, code: ErrorCode::Unavailable, retry_after: None };
    let Ok(answer) = request.send() else { return Err(gone) };
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    if status == StatusCode::OK {
        return Ok(answer.json());
    }
    let said: ErrorBody = answer.json();
    assert_eq!(said.code.status(), status.as_u16(), "{said:?}");
    Err(Refused { status, code: said.code, retry_after })
}

/// What a machine makes before it enrols.
pub(crate) struct Keys {
    pub(crate) tls: KeyPair,
    pub(crate) signing: SigningKey,
}

impl Keys {
    pub(crate) fn new(seed: u64) -> Keys {
        let mut dice = Dice::new(seed);
        let signing = SigningKey::from_bytes(&std::array::from_fn(|_| dice.below(256) as u8));
        Keys { tls: KeyPair::generate().unwrap(), signing }
    }

    pub(crate) fn csr(&self) -> String {
        CertificateParams::default().serialize_request(&self.tls).unwrap().pem().unwrap()
    }

    pub(crate) fn request(&self, token: &str) -> EnrolRequest {
        EnrolRequest {
            token: token.to_owned(),
            csr: self.csr(),
            signing_key: PublicKey(self.signing.verifying_key().to_bytes()),
            inventory: inventory("hardware"),
        }
    }
}

pub(crate) fn inventory(hardware: &str) -> Inventory {
    Inventory { name: "small".to_owned(), hardware: hardware.to_owned(), ..Inventory::default() }
}

/// A disk of a small agent.
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) content: Vec<u8>,
    last_segment: Digest,
    /// Blocks that were written since the last commit.
    dirty: BTreeMap<u64, ()>,
}

/// An enrolled machine.
pub(crate) struct Agent {
    pub(crate) address: String,
    pub(crate) keys: Keys,
    pub(crate) machine: MachineId,
    pub(crate) identity: String,
    pub(crate) client: Client,
    pub(crate) session: SessionId,
    pub(crate) boot: String,
    pub(crate) hardware: String,
    pub(crate) turn: u64,
    pub(crate) policy: u64,
    pub(crate) paused: bool,
    pub(crate) generation: Generation,
    pub(crate) head: Option<Head>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) slots: Vec<(u64, Grant)>,
    pub(crate) dice: Dice,
    stubborn: bool,
    encoder: ExtentEncoder,
}

pub(crate) fn health() -> MachineHealth {
    MachineHealth {
        agent: "small agent".to_owned(),
        clock: Timestamp::now(),
        phase: "idle".to_owned(),
        last_point: None,
        churn_per_s: ByteCount(0),
        backlog: ByteCount(0),
        certificate_expires: None,
        trouble: Vec::new(),
        disks: Vec::new(),
    }
}

impl Agent {
    /// Enrols with a token of its own.
    pub(crate) fn enrol(rig: &Rig, seed: u64) -> Agent {
        let keys = Keys::new(seed);
        let url = format!("{}/v1/enrol", rig.address);
        let enrolled: Enrolled =
            ask(&rig.client(None), Method::POST, &url, Some(&keys.request(&rig.token(1)))).unwrap();
        Agent::enrolled(rig, keys, &enrolled, seed)
    }

    pub(crate) fn enrolled(rig: &Rig, keys: Keys, enrolled: &Enrolled, seed: u64) -> Agent {
        let identity = format!("{}{}", enrolled.certificate, keys.tls.serialize_pem());
        let mut dice = Dice::new(seed ^ 0x5eed);
        Agent {
            address: rig.address.clone(),
            keys,
            machine: enrolled.machine,
            client: rig.client(Some(&identity)),
            identity,
            session: SessionId(std::array::from_fn(|_| dice.below(256) as u8)),
            boot: "boot".to_owned(),
            hardware: "hardware".to_owned(),
            turn: 0,
            policy: 0,
            paused: false,
            generation: Generation(0),
            head: None,
            disks: Vec::new(),
            slots: Vec::new(),
            dice,
            stubborn: false,
            encoder: ExtentEncoder::new().unwrap(),
        }
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<T, Refused> {
        ask(&self.client, Method::POST, &format!("{}{path}", self.address), Some(message))
    }

    pub(crate) fn try_session(&mut self) -> Result<SessionStarted, Refused> {
        let request = SessionRequest {
            session: self.session,
            boot: self.boot.clone(),
            inventory: inventory(&self.hardware),
            claim: None,
        };
        let started: SessionStarted = self.post("/v1/session", &request)?;
        (self.turn, self.policy, self.generation) =
            (started.turn, started.policy.version, started.generation);
        self.head.clone_from(&started.head);
        Ok(started)
    }

    /// The agent is started again: a new session, which knows nothing of the one before.
    pub(crate) fn restart(&mut self) -> SessionStarted {
        self.session = SessionId(std::array::from_fn(|_| self.dice.below(256) as u8));
        self.slots.clear();
        self.try_session().unwrap()
    }

    pub(crate) fn try_heartbeat(&mut self) -> Result<HeartbeatAnswer, Refused> {
        let head = self.head.as_ref();
        let beat = Heartbeat {
            session: self.session,
            turn: self.turn,
            policy: self.policy,
            paused: self.paused,
            head: head.map(|h| Claim { generation: h.generation, epoch: h.epoch, digest: h.digest }),
            health: health(),
        };
        let answer: HeartbeatAnswer = self.post("/v1/heartbeat", &beat)?;
        self.turn = answer.turn;
        Ok(answer)
    }

    pub(crate) fn try_generation(&mut self) -> Result<NewGeneration, Refused> {
        let reason = "a test".to_owned();
        let request = GenerationRequest { session: self.session, after: self.generation, reason };
        let answer: NewGeneration = self.post("/v1/generation", &request)?;
        self.generation = answer.generation;
        self.head.clone_from(&answer.head);
        let heads: BTreeMap<_, _> = answer
            .head
            .iter()
            .flat_map(|head| &head.disks)
            .map(|disk| (disk.id, disk.last_segment))
            .collect();
        for disk in &mut self.disks {
            disk.last_segment = heads.get(&disk.id).copied().unwrap_or(Digest::NONE);
            let blocks = disk.content.len() / BLOCK_SIZE;
            disk.dirty = (0..blocks as u64).map(|block| (block, ())).collect();
        }
        self.slots.clear();
        Ok(answer)
    }

    /// A resync: a new generation, in which everything is sent again.
    pub(crate) fn new_generation(&mut self) {
        crate::rig::wait_for("a new generation", || match self.try_generation() {
            Ok(_) => Some(()),
            Err(err) if err.code == ErrorCode::NotYet => None,
            Err(err) => panic!("{err:?}"),
        });
    }

    pub(crate) fn commands(&self, wait_s: u64) -> Result<Commands, Refused> {
        let url = format!("{}/v1/commands?session={}&wait_s={wait_s}", self.address, self.session);
        ask(&self.client, Method::GET, &url, None::<&()>)
    }

    pub(crate) fn try_grants(&self, segments: u32, first: Epoch, manifests: u32) -> Result<Grants, Refused> {
        let (session, generation) = (self.session, self.generation);
        self.post(
            "/v1/grants",
            &GrantRequest { session, generation, segments, first_epoch: first, manifests },
        )
    }

    pub(crate) fn add_disk(&mut self, name: &str, blocks: usize) {
        let (id, content) = (DiskId::derive(name), vec![0; blocks * BLOCK_SIZE]);
        let dirty = (0..blocks as u64).map(|block| (block, ())).collect();
        self.disks.push(Disk { id, content, last_segment: Digest::NONE, dirty });
        self.disks.sort_by_key(|disk| disk.id);
    }

    /// Writes some blocks of each disk.
    pub(crate) fn write(&mut self, blocks: u64) {
        for disk in &mut self.disks {
            for _ in 0..blocks {
                let block = self.dice.below((disk.content.len() / BLOCK_SIZE) as u64);
                let start = block as usize * BLOCK_SIZE;
                let seed = self.dice.below(u64::MAX).to_le_bytes();
                blake3::Hasher::new()
                    .update(&seed)
                    .finalize_xof()
                    .fill(&mut disk.content[start..start + BLOCK_SIZE]);
                disk.dirty.insert(block, ());
            }
        }
    }

    pub(crate) fn next_epoch(&self) -> Epoch {
        self.head.as_ref().map_or(Epoch(1), |head| head.epoch.next())
    }

    /// Puts an object as a grant says.
    pub(crate) fn put(&self, grant: &Grant, bytes: &[u8]) -> StatusCode {
        self.client.put(&grant.url).body(bytes.to_vec()).send().unwrap().status()
    }

    /// Commits a point of what was written; its notice's answer.
    pub(crate) fn commit(&mut self) -> CommitSeen {
        let epoch = self.next_epoch();
        let (manifest, digest) = self.send(epoch);
        let grants = self.try_grants(0, epoch, 1).unwrap();
        assert_eq!(self.put(&grants.manifests[0].grant, &manifest), StatusCode::CREATED);
        self.committed(epoch, digest);
        self.notice(epoch, digest).unwrap()
    }

    pub(crate) fn notice(&self, epoch: Epoch, digest: Digest) -> Result<CommitSeen, Refused> {
        let (session, generation) = (self.session, self.generation);
        self.post("/v1/commits", &CommitNotice { session, generation, epoch, digest })
    }

    /// The epoch is this agent's head from now on.
    pub(crate) fn committed(&mut self, epoch: Epoch, digest: Digest) {
        let previous = self.head.as_ref().map_or(Digest::NONE, |head| head.digest);
        let generation = self.generation;
        self.head = Some(Head { generation, epoch, digest, previous, disks: Vec::new() });
    }

    /// Puts the segments of what was written; the manifest that would commit them, and its digest.
    pub(crate) fn send(&mut self, epoch: Epoch) -> (Vec<u8>, Digest) {
        let mut disks = Vec::new();
        for index in 0..self.disks.len() {
            let sent = self.segment(index, epoch).map(|(bytes, mut named)| {
                let (slot, grant) = self.slot();
                let put = match self.stubborn {
                    false => self.put(&grant, &bytes),
                    true => crate::rig::wait_for("a segment to be taken", || {
                        let put = self.client.put(&grant.url).body(bytes.clone()).send().ok()?.status();
                        // That it exists means here that an answer was lost.
                        Some(if put == StatusCode::CONFLICT { StatusCode::CREATED } else { put })
                    }),
                };
                assert_eq!(put, StatusCode::CREATED);
                named.slot = Some(slot);
                named
            });
            let disk = &self.disks[index];
            disks.push(DiskState {
                id: disk.id,
                name: format!("disk-{index}"),
                size: ByteCount(disk.content.len() as u64),
                segments: sent.into_iter().collect(),
                missing: false,
                audited_blocks: 0,
                missed_blocks: 0,
            });
        }
        let manifest = Manifest {
            machine: self.machine,
            generation: self.generation,
            epoch,
            session: self.session,
            time: Timestamp::now(),
            commit: point(),
            disks,
            previous: self.head.as_ref().map_or(Digest::NONE, |head| head.digest),
            agent: "small agent".to_owned(),
        };
        let bytes = manifest.sign(&self.keys.signing).unwrap();
        let digest = mobility_format::manifest::SignedManifest::parse(&bytes).unwrap().digest;
        (bytes, digest)
    }

    /// As [`Agent::send`], whatever becomes of the service meanwhile.
    pub(crate) fn send_stubbornly(&mut self, epoch: Epoch) -> (Vec<u8>, Digest) {
        self.stubborn = true;
        self.send(epoch)
    }

    pub(crate) fn slot(&mut self) -> (u64, Grant) {
        if self.slots.is_empty() {
            let grants = self.try_grants(8, Epoch(1), 0).unwrap();
            self.slots = grants.segments.into_iter().map(|segment| (segment.slot, segment.grant)).collect();
        }
        self.slots.remove(0)
    }

    /// A segment of what was written to a disk, if anything was.
    fn segment(&mut self, index: usize, epoch: Epoch) -> Option<(Vec<u8>, SegmentRef)> {
        let disk = &mut self.disks[index];
        let dirty = std::mem::take(&mut disk.dirty);
        if dirty.is_empty() {
            return None;
        }
        let header = SegmentHeader {
            machine: self.machine,
            disk: disk.id,
            generation: self.generation,
            first_epoch: epoch,
            last_epoch: epoch,
            session: self.session,
            part: 0,
            previous: disk.last_segment,
        };
        let mut writer = SegmentWriter::new(Vec::new(), header).unwrap();
        for block in dirty.into_keys() {
            let start = block as usize * BLOCK_SIZE;
            let plain = &disk.content[start..start + BLOCK_SIZE];
            let range = BlockRange::new(block, 1);
            match plain.iter().all(|byte| *byte == 0) {
                true => writer.append_zero(range).unwrap(),
                false => writer.append(&self.encoder.encode(range, plain).unwrap()).unwrap(),
            }
        }
        let (bytes, summary) = writer.finish().unwrap();
        let named = summary.named(header.session, header.part);
        disk.last_segment = named.digest;
        Some((bytes, named))
    }
}

fn point() -> Commit {
    let cut = Cut {
        method: CutMethod::Optimistic,
        t0: Timestamp::now(),
        window_us: 1,
        tries: 1,
        read: ByteCount(0),
        held_us: 0,
        dirty_rate: ByteCount(0),
        reason: None,
    };
    Commit::Point { consistency: Consistency::Crash, cut }
}
