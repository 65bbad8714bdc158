//! Names of the objects under `target/<machine>/`, to and from paths. To the format's own keys come three small records
//! that only the recovery service writes and reads, and that restoring does not depend on.
//!
//! Deliberately not here: what the objects hold.

use std::{fmt, str::FromStr};

use mobility_format::{Digest, DiskId, Epoch, MachineId, SessionId, key::TargetKey};

/// An object in target storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// An object that restoring reads.
    Target(TargetKey),
    /// `target/<machine>/points/<epoch>.received`: when the service took a manifest in.
    Received {
        /// Whose.
        machine: MachineId,
        /// The manifest's epoch.
        epoch: Epoch,
    },
    /// `target/<machine>/merged/<first>-<last>.merge`: that a range of epochs has been merged, for all disks.
    Merge {
        /// Whose.
        machine: MachineId,
        /// The first epoch merged.
        first: Epoch,
        /// The last epoch merged.
        last: Epoch,
    },
    /// `target/<machine>/machine`: the machine's key and its newest generation.
    Machine {
        /// Which.
        machine: MachineId,
    },
}

impl From<TargetKey> for ObjectKey {
    fn from(key: TargetKey) -> Self {
        ObjectKey::Target(key)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectKey::Target(key) => key.fmt(f),
            ObjectKey::Received { machine, epoch } => {
                write!(f, "target/{machine}/points/{:020}.received", epoch.0)
            }
            ObjectKey::Merge { machine, first, last } => {
                write!(f, "target/{machine}/merged/{:020}-{:020}.merge", first.0, last.0)
            }
            ObjectKey::Machine { machine } => write!(f, "target/{machine}/machine"),
        }
    }
}

impl ObjectKey {
    /// The object that `path`, relative to the vault, is the name of; nothing where it is no object's exact name.
    #[must_use]
    pub fn parse(path: &str) -> Option<ObjectKey> {
        let parts: Vec<&str> = path.split('/').collect();
        let ["target", machine, rest @ ..] = &parts[..] else { return None };
        let machine = machine.parse().ok()?;
        let key = parse_in_machine(machine, rest)?;
        (key.to_string() == path).then_some(key)
    }

    /// The last epoch that the object says something about; nothing for the machine's record.
    #[must_use]
    pub fn last_epoch(&self) -> Option<Epoch> {
        match *self {
            ObjectKey::Target(TargetKey::Manifest { epoch, .. } | TargetKey::Segment { epoch, .. })
            | ObjectKey::Received { epoch, .. } => Some(epoch),
            ObjectKey::Target(TargetKey::Run { last, .. } | TargetKey::MergedSegment { last, .. })
            | ObjectKey::Merge { last, .. } => Some(last),
            ObjectKey::Machine { .. } => None,
        }
    }
}

fn parse_in_machine(machine: MachineId, rest: &[&str]) -> Option<ObjectKey> {
    match rest {
        ["machine"] => Some(ObjectKey::Machine { machine }),
        ["points", name] => match name.rsplit_once('.')? {
            (epoch, "point") => Some(TargetKey::Manifest { machine, epoch: number(epoch)? }.into()),
            (epoch, "received") => Some(ObjectKey::Received { machine, epoch: number(epoch)? }),
            _ => None,
        },
        ["segments", epoch, name] => {
            let mut parts = name.strip_suffix(".seg")?.split('-');
            let disk: DiskId = parts.next()?.parse().ok()?;
            let session: SessionId = parts.next()?.parse().ok()?;
            let part = parts.next()?.parse().ok()?;
            Some(TargetKey::Segment { machine, epoch: number(epoch)?, disk, session, part }.into())
        }
        ["merged", name] => {
            let (first, last) = range(name.strip_suffix(".merge")?)?;
            Some(ObjectKey::Merge { machine, first, last })
        }
        ["merged", disk, name, file] => {
            let ((first, last), disk) = (range(name)?, disk.parse().ok()?);
            if *file == "run" {
                return Some(TargetKey::Run { machine, disk, first, last }.into());
            }
            let digest = Digest::from_str(file.strip_suffix(".seg")?).ok()?;
            Some(TargetKey::MergedSegment { machine, disk, first, last, digest }.into())
        }
        _ => None,
    }
}

fn number(text: &str) -> Option<Epoch> {
    text.parse().ok().map(Epoch)
}

fn range(text: &str) -> Option<(Epoch, Epoch)> {
    let (first, last) = text.split_once('-')?;
    Some((number(first)?, number(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_from_its_text_and_nothing_else_is() {
        let (machine, disk, first, last) = (MachineId([1; 16]), DiskId([2; 16]), Epoch(3), Epoch(40));
        let keys: [ObjectKey; 7] = [
            TargetKey::Manifest { machine, epoch: first }.into(),
            TargetKey::Segment { machine, epoch: first, disk, session: SessionId([5; 8]), part: 6 }.into(),
            TargetKey::Run { machine, disk, first, last }.into(),
            TargetKey::MergedSegment { machine, disk, first, last, digest: Digest([7; 32]) }.into(),
            ObjectKey::Received { machine, epoch: first },
            ObjectKey::Merge { machine, first, last },
            ObjectKey::Machine { machine },
        ];
        for key in keys {
            let text = key.to_string();
            assert_eq!(ObjectKey::parse(&text), Some(key));
            for bad in [
                format!("{text}x"),
                format!("x{text}"),
                text.replace("0003", "003"),
                text.replace("target", "t"),
            ] {
                assert!(bad == text || ObjectKey::parse(&bad).is_none(), "{bad}");
            }
        }
    }
}
