//! Where a machine is failed over to: what is asked of every kind of place.
//!
//! A provider makes a machine of restored disks and takes it away again. Whatever it is asked it can be asked again, since an
//! instance may be killed after it did something and before it noted that. All it makes it makes under the failover's id, so that
//! it can find and remove it without having been told of it. Deliberately not here: points, disks' content, and when what is done.

mod azure;
mod host;
mod identity;
mod images;
mod libvirt;
mod objects;
mod qemu;

use std::time::Duration;

use mobility_format::{ByteCount, DiskId};
use serde::{Deserialize, Serialize};

use crate::{
    Destination,
    target::{NetworkName, Problem, Settings},
};

pub(crate) use azure::Azure;
pub(crate) use host::{Acceleration, Host};
pub(crate) use images::Images;
pub(crate) use libvirt::Libvirt;
pub(crate) use objects::Objects;
pub(crate) use qemu::Qemu;

/// A machine as it is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The failover's id.
    pub failover: String,
    /// The machine's name.
    pub name: String,
    /// Whether it must reach nothing but itself.
    pub isolated: bool,
    /// Whether its firmware is UEFI.
    pub uefi: bool,
    /// How much memory it had, where that is known.
    pub memory: Option<ByteCount>,
    /// How many processors.
    pub processors: Option<u32>,
    /// In the order of the machine's own inventory: the first is booted from unless another one holds the root.
    pub disks: Vec<Disk>,
    /// Its network cards, the one with the default route first. It gets one as well where nobody knows them.
    #[serde(default)]
    pub cards: Vec<Card>,
    /// All that was said of it and follows from that, where it is known.
    #[serde(skip)]
    pub target: Option<Target>,
}

/// The target settings of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What holds.
    pub settings: Settings,
    /// What is wrong with that.
    pub problems: Vec<Problem>,
}

impl Target {
    /// What keeps the settings from being used, each with its field.
    pub(crate) fn blocking(&self) -> Vec<String> {
        let blocking = self.problems.iter().filter(|problem| problem.blocks);
        blocking.map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
    }
}

/// What to do about settings that keep a machine from being made.
const SETTINGS: &str = "`machine target set` sets what is named, and `failover resume` goes on";

/// Demands that nothing keeps target settings from being used.
fn usable(problems: &[String]) -> Outcome<()> {
    match problems {
        [] => Ok(()),
        some => {
            let problem = format!("the machine's target settings cannot be used: {}", some.join("; "));
            Err(Failure::new(problem, SETTINGS))
        }
    }
}

/// A disk of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which.
    pub id: DiskId,
    /// What the machine calls it.
    pub name: String,
    /// How large it is.
    pub size: ByteCount,
    /// The serial number that it had, by which the machine's agent knows it again.
    pub serial: Option<String>,
    /// Whether the machine's root is on it.
    pub is_root: bool,
}

/// A network card of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// What the machine calls it.
    pub name: String,
    /// The network that it gets to, where one is named.
    pub network: Option<NetworkName>,
}

/// How a machine is that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is up: somebody could log in.
    Up(String),
    /// It runs, and has not said yet that it is up.
    Running,
    /// It will not come up; why.
    Stuck(String),
    /// It does not run.
    Off,
    /// It is somebody else who makes it run; how.
    ByHand(String),
}

/// A provider could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct Failure {
    /// What went wrong, with what.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

impl Failure {
    /// What went wrong, and what to do about it.
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { problem: problem.into(), hint: hint.into() }
    }
}

/// What comes of asking a provider.
pub type Outcome<T> = Result<T, Failure>;

/// A kind of place.
pub trait Provider: Send + Sync {
    /// Sees that the place can take such a machine; what there is to say of it.
    ///
    /// # Errors
    /// What is missing.
    fn check(&self, spec: &Spec) -> Outcome<String>;

    /// Where the disk is to be restored to, and in which format.
    ///
    /// # Errors
    /// When that cannot be.
    fn image(&self, spec: &Spec, disk: &Disk) -> Outcome<Destination>;

    /// The hardware addresses of the network cards that it gives the machine, in the order of [`Spec::cards`]; nothing where somebody else
    /// makes the machine.
    fn cards(&self, _spec: &Spec) -> Option<Vec<String>> {
        None
    }

    /// Makes the machine, of disks that are there, and its network.
    ///
    /// # Errors
    /// When that cannot be.
    fn make(&self, spec: &Spec) -> Outcome<String>;

    /// Switches it on. One that is on stays on. Somebody else does where nothing is said of it.
    ///
    /// # Errors
    /// When that cannot be.
    fn start(&self, _failover: &str) -> Outcome<String> {
        Ok("nothing is started here".to_owned())
    }

    /// How it is.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn look(&self, failover: &str) -> Outcome<Seen>;

    /// For how long to wait until it is up; not at all where somebody else starts it.
    fn boot_limit(&self) -> Duration {
        Duration::ZERO
    }

    /// Switches it off, if it is on, without asking it: what it would still write is going to be removed.
    ///
    /// # Errors
    /// When it stays on.
    fn stop(&self, _failover: &str) -> Outcome<String> {
        Ok("nothing was started here".to_owned())
    }

    /// Removes it and all that was made for it, as far as that is there.
    ///
    /// # Errors
    /// When something stays.
    fn remove(&self, failover: &str) -> Outcome<String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with two disks, of which the second is booted from, and no known card.
    pub(super) fn spec(failover: &str) -> Spec {
        let disk = |name: &str, serial: Option<&str>, is_root: bool| Disk {
            id: DiskId::derive(name),
            name: name.to_owned(),
            size: ByteCount(1 << 30),
            serial: serial.map(str::to_owned),
            is_root,
        };
        Spec {
            failover: failover.to_owned(),
            name: "web1".to_owned(),
            isolated: false,
            uefi: false,
            memory: None,
            processors: None,
            disks: vec![disk("/dev/sdb", None, false), disk("/dev/sda", Some("disk-1"), true)],
            cards: Vec::new(),
            target: None,
        }
    }

    #[test]
    fn a_machine_that_was_made_before_cards_were_noted_is_known() {
        let mut noted = serde_json::to_value(spec("0123456789abcdef")).unwrap();
        noted.as_object_mut().unwrap().remove("cards");
        assert_eq!(serde_json::from_value::<Spec>(noted).unwrap(), spec("0123456789abcdef"));
    }
}
