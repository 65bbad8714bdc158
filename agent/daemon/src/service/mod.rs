//! The agent's side of the recovery service: an identity that was enrolled, requests over TLS that the agent alone begins,
//! uploads into places that were granted, and what the service wants of this machine.
//!
//! All calls block, and are made from threads that may wait. Each makes one try, at every address of the service; when to try
//! again is the caller's to decide ([`ServiceFault::retry_after`] is what the other side wishes). What the service says by
//! itself comes through the function that [`Service::listen`] is given. Deliberately not here: what is uploaded, and what
//! is done about a fault or a command.

mod answer;
mod background;
mod client;
mod commands;
mod connection;
mod digests;
pub(crate) mod enrol;
#[cfg(test)]
mod fake;
mod fault;
mod grants;
mod heartbeat;
mod identity;
pub(crate) mod inventory;
pub(crate) mod lockdown;
mod metadata;
mod objects;
mod pace;
pub(crate) mod policy;
mod proxy;
pub(crate) mod reach;
mod renew;
mod shape;
mod state_dir;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod unenrol;
mod upkeep;
mod upload;
mod waits;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mobility_capture::boot::boot_id;
use mobility_format::{
    BlockDigest, ByteCount, Digest, DiskId, Epoch, Generation, Head, MachineId, SessionId, WINDOW_BLOCKS,
    control::{
        Claim, Command, CommandId, CommandResult, GenerationRequest, Inventory, MachineHealth, NewGeneration,
        Policy, SessionRequest, SessionStarted,
    },
    envelope::SigningKey,
};

use self::{
    client::{Ask, Client},
    connection::{Connection, POLICY, Parts, Report, lock},
    grants::{Granary, Wanted},
    identity::Keys,
    state_dir::StateDir,
};
pub(crate) use self::{
    digests::MOST_WINDOWS,
    fault::{ServiceFault, ServiceFaultKind},
    proxy::ProxySettings,
    state_dir::DEFAULT as DEFAULT_STATE_DIR,
    tls::Fingerprint,
};
use crate::{exit::Failure, identity::random};

/// For how long grants are kept ahead where nothing else is set.
const GRANTS_AHEAD: Duration = Duration::from_secs(4 * 3600);
/// The interval that is assumed until there is a policy.
const INTERVAL: Duration = Duration::from_secs(15);
/// The longest file of authorities that is read.
const LONGEST_CA_FILE: u64 = 4 << 20;

/// What can be set about the way to the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// By which proxy; the environment's, and the one that was enrolled with, where nothing is set.
    pub(crate) proxy: ProxySettings,
    /// A file of authorities that stores' certificates may come from, besides the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// For how long grants are kept ahead; four hours where it is not set.
    pub(crate) grants_ahead: Option<Duration>,
    /// The longest wait of the background threads between two tries; a minute where it is not set.
    pub(crate) retry_wait: Option<Duration>,
}

/// What came of putting a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is stored.
    Done,
    /// The place was taken, by this very manifest: the answer to an earlier try was lost.
    TakenByThis,
    /// The place was taken by another manifest: start a new session to learn the head that left.
    TakenByOther,
}

/// What the service says by itself.
#[derive(Clone, Debug)]
pub(crate) enum FromService {
    /// The policy is another one.
    PolicyChanged(Policy),
    /// Something is to be done. Answer with [`Service::finish_command`]; it is delivered once in a run of the agent.
    /// `Renew` and `Logs` never come here.
    Command(Command),
    /// All epochs up to this one are in target storage.
    TakenIn(Epoch),
    /// What came of this command was told; whether the service took it, which it does not where nobody waits for it any more.
    Told(CommandId, bool),
    /// Another agent goes on with this identity: stop for good.
    Fenced(String),
    /// The machine was taken out of protection: stop. Asked again every hour.
    Revoked(String),
    /// What was revoked is good again: go on with a new session.
    Reinstated,
}

/// The digests of one window's blocks; none for a window of zeros.
pub(crate) type WindowDigests = Option<Box<[BlockDigest; WINDOW_BLOCKS as usize]>>;

/// What is uploaded: held together, so that nothing is copied however often it is tried.
pub(crate) type Payload = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The connection to the recovery service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    connection: Arc<Connection>,
}

impl Service {
    /// Loads the identity that was enrolled and keeps other agents away from it. Connects to nobody.
    ///
    /// # Errors
    /// [`Failure::NotEnrolled`], and what else is wrong with the state directory or the options.
    pub(crate) fn open(state_dir: &Path, options: &Options) -> Result<Service, Failure> {
        let not_enrolled = || {
            let shown = state_dir.display();
            Failure::NotEnrolled(format!(
                "this machine is not enrolled ({shown}): run `mobility-agent enroll` first"
            ))
        };
        if !state_dir.exists() {
            return Err(not_enrolled());
        }
        let state = StateDir::open(state_dir)?;
        let keys = Keys::load(&state)?.ok_or_else(not_enrolled)?;
        let enrolment = keys.enrolment.clone().ok_or_else(not_enrolled)?;
        let session = SessionId(random().map_err(|err| Failure::State(err.to_string()))?);
        let policy: Option<Policy> = state.read(POLICY).ok().flatten();
        let more = match &options.ca_file {
            Some(path) => Some(read_authorities(path)?),
            None => enrolment.more_authorities.clone(),
        };
        let proxy = options.proxy.or(&enrolment.proxy);
        let ways = renew::ways(&keys, &enrolment, &proxy, more.as_deref()).map_err(Failure::Config)?;
        let client =
            Client::start(ways).map_err(|err| Failure::State(format!("no thread can be started: {err}")))?;
        let granary = Granary::load(&state, wanted(options, policy.as_ref(), 1));
        let (machine, options) = (enrolment.machine, Options { proxy, ..options.clone() });
        let parts =
            Parts { state, keys, client, machine, session, granary, policy, options, more_authorities: more };
        Ok(Service { connection: Arc::new(Connection::new(parts)) })
    }

    /// Who this machine is.
    pub(crate) fn machine(&self) -> MachineId {
        self.connection.machine
    }

    /// This run.
    pub(crate) fn session(&self) -> SessionId {
        self.connection.session
    }

    /// The key that signs manifests.
    pub(crate) fn signing_key(&self) -> SigningKey {
        lock(&self.connection.keys).signing_key()
    }

    /// The policy that was last heard of, also in an earlier run: what an agent goes by that starts while the service is away.
    pub(crate) fn remembered_policy(&self) -> Option<Policy> {
        lock(&self.connection.policy).clone()
    }

    /// Begins this run at the service (`POST /v1/session`). Heartbeats begin with it. May be repeated.
    pub(crate) fn start_session(
        &self,
        inventory: Inventory,
        claim: Option<Claim>,
    ) -> Result<SessionStarted, ServiceFault> {
        let boot = boot_id()
            .map_err(|err| ServiceFault::new(ServiceFaultKind::Local, format!("the boot's id: {err}")))?;
        let request = SessionRequest { session: self.connection.session, boot, inventory, claim };
        let ask = Ask::post("session", &request)?;
        let mut turn = lock(&self.connection.turn);
        let started: SessionStarted = match self.connection.call(&ask) {
            // A machine that was off for days comes with a certificate that is good for one thing only.
            Err(fault) if fault.kind == ServiceFaultKind::Unauthenticated => {
                renew::renew(&self.connection)?;
                self.connection.call(&ask)?
            }
            started => started?,
        };
        *turn = Some(started.turn);
        drop(turn);
        self.connection.follow(&started.policy);
        self.note_head(started.head.as_ref());
        self.connection.begin();
        Ok(started)
    }

    /// Gives up generation `after` for a new one (`POST /v1/generation`).
    pub(crate) fn new_generation(
        &self,
        after: Generation,
        reason: &str,
    ) -> Result<NewGeneration, ServiceFault> {
        let request =
            GenerationRequest { session: self.connection.session, after, reason: answer::clean(reason) };
        let given: NewGeneration = self.connection.call(&Ask::post("generation", &request)?)?;
        self.connection.begin_generation(given.generation);
        self.note_head(given.head.as_ref());
        Ok(given)
    }

    fn note_head(&self, head: Option<&Head>) {
        self.connection.set_next_epoch(head.map_or(Epoch(1), |head| head.epoch.next()));
    }

    /// Puts a segment into the next free place of the generation, which is returned.
    pub(crate) fn put_segment(&self, generation: Generation, segment: &Payload) -> Result<u64, ServiceFault> {
        objects::put_segment(&self.connection, generation, segment)
    }

    /// Puts the manifest of an epoch, and has the service look at it.
    pub(crate) fn put_manifest(
        &self,
        generation: Generation,
        epoch: Epoch,
        digest: Digest,
        manifest: &Payload,
    ) -> Result<Put, ServiceFault> {
        objects::put_manifest(&self.connection, (generation, epoch), digest, manifest)
    }

    /// What the head at `epoch` holds of up to 64 windows, from number `window` on.
    pub(crate) fn digests(
        &self,
        disk: DiskId,
        window: u64,
        count: u32,
        epoch: Epoch,
    ) -> Result<Vec<WindowDigests>, ServiceFault> {
        digests::ask(&self.connection, disk, (window, count), epoch)
    }

    /// How fast segments are uploaded from now on, in bytes per second; as fast as goes for none.
    pub(crate) fn set_rate(&self, rate: Option<ByteCount>) {
        self.connection.pace.set(rate.map(|rate| rate.0));
    }

    /// What the next heartbeat will tell. `at_once` sends it now: after a point.
    pub(crate) fn report(&self, head: Option<Claim>, health: MachineHealth, at_once: bool) {
        let first = lock(&self.connection.report).replace(Report { head, health }).is_none();
        if at_once || first {
            self.connection.heart.ring();
        }
    }

    /// Starts the threads for heartbeats, commands, grants and the certificate. They call `deliver`; call this once.
    pub(crate) fn listen(
        &self,
        deliver: impl Fn(FromService) + Send + Sync + 'static,
    ) -> std::io::Result<()> {
        match self.connection.deliver.set(Box::new(deliver)) {
            Ok(()) => background::start(&self.connection),
            Err(_) => Ok(()),
        }
    }

    /// Says what came of a command. Tried until it is heard, in the background.
    pub(crate) fn finish_command(&self, id: CommandId, result: CommandResult) {
        self.connection.finished(id, result);
    }

    /// Says what came of a command of which an earlier run may have said it, whether or not this run may begin.
    ///
    /// # Errors
    /// [`ServiceFaultKind::Refused`] where the command was withdrawn.
    pub(crate) fn say_again(&self, id: CommandId, result: &CommandResult) -> Result<(), ServiceFault> {
        let ask = Ask::post(&format!("commands/{id}"), result)?;
        // Not by `call`: who is fenced has this left to say.
        self.connection.client.ask(&ask).map(drop)
    }

    /// Ends all waits and requests at once: calls return [`ServiceFaultKind::Stopped`]. For the end of the agent.
    pub(crate) fn stop(&self) {
        self.connection.client.stop();
        self.connection.wake_all();
    }
}

/// How many grants to keep.
fn wanted(options: &Options, policy: Option<&Policy>, disks: usize) -> Wanted {
    let ahead = options.grants_ahead.unwrap_or(GRANTS_AHEAD);
    Wanted::new(ahead, policy.map_or(INTERVAL, policy::interval), disks)
}

/// The content of a file of authorities, if it has any.
fn read_authorities(path: &Path) -> Result<String, Failure> {
    let fail = |what: String| Failure::Config(format!("{}: {what}", path.display()));
    let length = fs::metadata(path).map_err(|err| fail(err.to_string()))?.len();
    if length > LONGEST_CA_FILE {
        return Err(fail(format!("it is longer than {LONGEST_CA_FILE} bytes")));
    }
    let pem = fs::read_to_string(path).map_err(|err| fail(err.to_string()))?;
    tls::check_authorities(&pem).map_err(fail)?;
    Ok(pem)
}
