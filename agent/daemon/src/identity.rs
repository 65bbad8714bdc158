//! Who this machine is: its id and the key that signs its recovery points.
//!
//! In debug mode both are drawn when the vault first sees the machine and kept in the vault, readable by their owner
//! alone. Deliberately not here: certificates, which come with enrolment.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use mobility_format::{
    MachineId, PublicKey, SessionId,
    envelope::{self, Magic, SigningKey},
};
use serde::{Deserialize, Serialize};

const VERSION: u16 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    machine: MachineId,
    secret: [u8; 32],
}

/// This machine, in this run of the agent.
pub(crate) struct Identity {
    pub(crate) machine: MachineId,
    pub(crate) session: SessionId,
    pub(crate) key: SigningKey,
}

impl Identity {
    /// The identity kept in `path`, or a new one that is kept there from now on.
    pub(crate) fn load_or_create(path: &Path) -> anyhow::Result<Identity> {
        let bytes = match fs::read(path) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => create(path)?,
            bytes => bytes
                .with_context(|| format!("cannot read the machine's identity from {}", path.display()))?,
        };
        let stored: Stored = envelope::open(Magic::STATE, VERSION, &bytes)
            .with_context(|| {
                format!(
                    "{} does not hold the machine's identity any more; restore it from a copy",
                    path.display()
                )
            })?
            .body;
        let session = SessionId(random()?);
        Ok(Identity { machine: stored.machine, session, key: SigningKey::from_bytes(&stored.secret) })
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }
}

fn create(path: &Path) -> anyhow::Result<Vec<u8>> {
    let stored = Stored { machine: MachineId(random()?), secret: random()? };
    let bytes = envelope::seal(Magic::STATE, VERSION, &stored, None)?;
    let unfinished = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        fs::remove_file(&unfinished).or_else(|err| match err.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(err),
        })?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot keep a new identity in {}", path.display()))?;
    Ok(bytes)
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(bytes)
}
