//! What an export shows: a point, its disks and their addresses.
//!
//! Deliberately not here: the content of the disks.

use jiff::Timestamp;
use mobility_format::{ByteCount, Digest, DiskId, Epoch, MachineId, manifest::Consistency};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Point;

/// A point that is exported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) machine: MachineId,
    pub(crate) epoch: Epoch,
    /// The point's id.
    pub(crate) point: String,
    /// When it was made, by the machine's clock.
    pub(crate) time: Timestamp,
    pub(crate) consistency: Consistency,
    /// Of its manifest.
    pub(crate) digest: Digest,
    pub(crate) disks: Vec<ViewedDisk>,
}

/// One of its disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ViewedDisk {
    pub(crate) id: DiskId,
    pub(crate) name: String,
    pub(crate) size: ByteCount,
}

impl View {
    /// Of a point of a machine.
    pub(crate) fn of(machine: MachineId, point: &Point<'_>) -> View {
        let manifest = point.manifest();
        let disk = |disk: &mobility_format::manifest::DiskState| ViewedDisk {
            id: disk.id,
            name: disk.name.clone(),
            size: disk.size,
        };
        View {
            machine,
            epoch: manifest.epoch,
            point: point.id.to_string(),
            time: point.time(),
            consistency: point.consistency,
            digest: point.signed.digest,
            disks: manifest.disks.iter().map(disk).collect(),
        }
    }

    /// The disk of which this is the id.
    pub(crate) fn disk(&self, id: &str) -> Option<&ViewedDisk> {
        let id: DiskId = id.parse().ok()?;
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// The strong tag of a disk: the same bytes for as long as there is the point.
    pub(crate) fn tag(&self, disk: &ViewedDisk) -> String {
        format!("\"{}-{}\"", self.digest, disk.id)
    }

    /// As it is shown; with addresses where the export is at `base`.
    pub(crate) fn shown(&self, base: Option<&str>) -> Value {
        let disk = |disk: &ViewedDisk| {
            let mut shown = json!({ "id": disk.id, "name": disk.name, "size": disk.size });
            if let Some(base) = base {
                shown["address"] = format!("{base}/disks/{}", disk.id).into();
            }
            shown
        };
        json!({
            "machine": self.machine,
            "point": self.point,
            "epoch": self.epoch,
            "time": self.time,
            "consistency": self.consistency,
            "disks": self.disks.iter().map(disk).collect::<Vec<_>>(),
        })
    }
}

/// An export as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What it is called; says nothing of its key.
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) view: View,
}

impl Kept {
    /// As it is shown; with addresses where the export is at `base`.
    pub(crate) fn shown(&self, base: Option<&str>) -> Value {
        let mut shown = self.view.shown(base);
        shown["id"] = self.id.as_str().into();
        shown["created"] = self.created.to_string().into();
        shown["expires"] = self.expires.to_string().into();
        shown
    }
}
