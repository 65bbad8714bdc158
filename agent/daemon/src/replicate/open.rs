//! Opens the storage that the configuration names: the vault of debug mode, or the recovery service that this machine is
//! enrolled with; and finds out who this machine is there, and which disks are to be protected.
//!
//! Deliberately not here: the disks' tracking (`start`).

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mobility_capture::disk::Disk;
use mobility_format::Epoch;
use mobility_recovery::{IntakeError, Vault};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Message,
    disk::{chosen_by, inspect_all},
    halt::{Halt, Unbegun},
    orders::Link,
    start::{head_file, remembered_head},
    store::{Newest, ServiceStore, Store, VaultStore},
};
use crate::{
    clock,
    config::Settings,
    exit::Failure,
    identity::Identity,
    service::{Service, ServiceFault, ServiceFaultKind},
    systemd::Systemd,
};

/// The first and the longest wait for a service that does not answer when the agent starts.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keeps a second agent away from the same vault for as long as it lives.
#[derive(Debug)]
pub(crate) struct VaultLock(#[allow(dead_code, reason = "it is held, not read")] File);

/// The storage, and who we are in it.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    pub(super) identity: Identity,
    pub(super) newest: Newest,
    pub(super) inspected: Vec<Disk>,
    /// Where the agent keeps what is its own.
    pub(super) private: PathBuf,
    pub(super) link: Option<Link>,
    pub(super) lock: Option<VaultLock>,
}

/// Opens whichever storage the settings name.
pub(super) fn open(
    settings: &Settings,
    runtime_dir: &Path,
    mailbox: &UnboundedSender<Message>,
) -> anyhow::Result<Opened> {
    match &settings.vault {
        Some(vault) => open_vault(vault, inspect_all(&settings.disks, Some(vault))?),
        None => open_service(settings, runtime_dir, mailbox),
    }
}

fn open_vault(path: &Path, inspected: Vec<Disk>) -> anyhow::Result<Opened> {
    let refused = |err: IntakeError| Failure::Vault(err.to_string());
    let vault = Vault::create(path).map_err(|err| Failure::Vault(err.to_string()))?;
    let private = vault.root().join("agent");
    fs::create_dir_all(&private).map_err(|err| Failure::Vault(format!("{}: {err}", private.display())))?;
    let lock = Some(lock_vault(&private)?);
    let identity = Identity::load_or_create(&private.join("identity"))?;
    let (store, newest) =
        VaultStore::open(&vault, identity.machine, identity.public_key()).map_err(refused)?;
    Ok(Opened { store: Arc::new(store), identity, newest, inspected, private, link: None, lock })
}

fn open_service(
    settings: &Settings,
    runtime_dir: &Path,
    mailbox: &UnboundedSender<Message>,
) -> anyhow::Result<Opened> {
    let state_dir = &settings.service.state_dir;
    let service = Service::open(state_dir, &settings.service.options)?;
    let (machine, session, key) = (service.machine(), service.session(), service.signing_key());
    let identity = Identity { machine, session, key };
    let claim = remembered_head(&head_file(runtime_dir, machine));
    // Nobody who waits for the agent shall wait for a network: a boot, an upgrade of the package.
    let mut systemd = Systemd::new();
    systemd.ready();
    let mut halted = Unbegun::new(Halt::file(runtime_dir, machine), &settings.stop);
    let (store, newest) = patiently(&mut systemd, || {
        let opened = ServiceStore::open(&service, claim);
        opened.inspect_err(|fault| halted.look(&service, fault, clock::wall()))
    })?;
    let Some(policy) = service.remembered_policy() else {
        return Err(Failure::State("the service gave no policy".to_owned()).into());
    };
    let inspected = match settings.disks.as_slice() {
        [] => chosen_by(&policy)?,
        named => inspect_all(named, None)?,
    };
    let mailbox = mailbox.clone();
    // Nobody is there to hear it only when the loop has ended.
    service
        .listen(move |said| drop(mailbox.send(Message::Service(said))))
        .map_err(|err| Failure::State(format!("no thread can be started: {err}")))?;
    let since = newest.head.as_ref().map_or(Epoch(0), |head| head.epoch);
    let link = Some(Link::new(service, policy, since));
    Ok(Opened {
        store: Arc::new(store),
        identity,
        newest,
        inspected,
        private: state_dir.clone(),
        link,
        lock: None,
    })
}

/// Asks again until there is an answer, unless it would be the same for ever.
fn patiently<T>(
    systemd: &mut Systemd,
    mut ask: impl FnMut() -> Result<T, ServiceFault>,
) -> Result<T, Failure> {
    let mut wait = WAITS.0;
    loop {
        systemd.alive();
        let fault = match ask() {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        match fault.kind {
            ServiceFaultKind::Fenced => return Err(Failure::Fenced(fault.to_string())),
            ServiceFaultKind::Revoked => return Err(Failure::Revoked(fault.to_string())),
            ServiceFaultKind::Untrusted => return Err(Failure::Untrusted(fault.to_string())),
            ServiceFaultKind::Local => return Err(Failure::State(fault.to_string())),
            ServiceFaultKind::Refused(_) | ServiceFaultKind::Unauthenticated => {
                return Err(Failure::Unreachable(fault.to_string()));
            }
            _ => {}
        }
        let wait_now = fault.retry_after.unwrap_or(wait);
        tracing::warn!("{fault}; asked again in {} s", wait_now.as_secs());
        systemd.status(&format!("waiting for the recovery service: {fault}"));
        let until = Instant::now() + wait_now;
        while let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            thread::sleep(left.min(WAITS.0));
            systemd.alive();
        }
        wait = (wait * 2).min(WAITS.1);
    }
}

fn lock_vault(private: &Path) -> Result<VaultLock, Failure> {
    let path: PathBuf = private.join("lock");
    let fail = |what: String| Failure::Vault(format!("{}: {what}", path.display()));
    // Held without the right to write, which would keep an operator from mounting the file system read-only.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .and_then(|_| File::open(&path))
        .map_err(|err| fail(err.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(VaultLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(fail(
            "another agent is using this vault; stop it, or give this one a vault of its own".to_owned(),
        )),
        Err(err) => Err(fail(err.to_string())),
    }
}
