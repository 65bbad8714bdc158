//! What has to be true: of every commit when it is made, and of all of them at the end.
//!
//! Deliberately not here: what is checked on the way, where it is done (limits, waits, one job at a time).

use mobility_engine::{CommitKind, Tracking};

use crate::{
    device::{ZERO, is_torn},
    service::Manifest,
    world::World,
};

impl World {
    /// A manifest has just been committed.
    pub(crate) fn check_commit(&mut self, manifest: &Manifest) {
        match &manifest.kind {
            CommitKind::Checkpoint => {
                let points =
                    self.service.committed.iter().any(|(earlier, _)| earlier.kind != CommitKind::Checkpoint);
                self.mark(if points { "checkpoint" } else { "checkpoint during initial replication" });
            }
            CommitKind::Fuzzy(_, reason) => {
                self.mark("fuzzy point");
                if self.plan.calm() && !reason.contains("tries") && !reason.contains("faster") {
                    self.fail(format!("a fuzzy point in calm weather: {reason}"));
                }
            }
            CommitKind::Point(_) => {
                self.mark("point");
                self.check_crash_consistent(manifest, manifest.t0().unwrap_or_default());
            }
        }
    }

    /// The whole promise P2: what is restored is what a power cut at `t0` could have left, on all disks together.
    ///
    /// Each block holds the last write that had completed by then, or one that was in flight; never half of one, never a
    /// later one. A write that waited for another was issued after that one had completed, so if each block is right, then
    /// so is their order.
    fn check_crash_consistent(&mut self, manifest: &Manifest, t0: u64) {
        let mut wrong = None;
        for disk in &manifest.disks {
            if disk.missing {
                wrong.get_or_insert(format!("disk {} is missing from a consistent point", disk.disk));
                continue;
            }
            let device = &self.devices[disk.disk];
            let image = &self.service.images[disk.disk];
            for (block, &content) in (0..).zip(image) {
                let legal: Vec<_> = device.legal(&self.writes, block, t0).collect();
                // What two scans find is taken for what was there all the time between them. What was changed and changed
                // back meanwhile, nobody can tell.
                let polled = self.tracking[disk.disk] == Tracking::Polling;
                let back = polled && device.came_back(&self.writes, block, t0, content);
                if self.plan.blind == 0 && !legal.contains(&content) && !back {
                    let torn = if is_torn(content) { "torn " } else { "" };
                    let what =
                        format!("disk {} block {block} is {torn}{content} at {t0}, not {legal:?}", disk.disk);
                    wrong.get_or_insert(what);
                }
            }
        }
        if manifest.disks.len() != self.devices.len() {
            wrong.get_or_insert("a consistent point without all disks".to_owned());
        }
        if let Some(wrong) = wrong {
            self.fail(format!("epoch {} is not what it says: {wrong}", manifest.epoch));
        }
    }

    /// The commit of a consistent point whose moment is `since` or later, if there is one.
    pub(crate) fn point_since(&self, since: u64) -> bool {
        let last = self.service.committed.last();
        last.and_then(|(manifest, _)| manifest.t0()).is_some_and(|t0| t0 >= since)
    }

    /// Whether the head holds what the disks hold now.
    pub(crate) fn difference(&self) -> Option<String> {
        let images = &self.service.images;
        for (disk, device) in self.devices.iter().enumerate() {
            let image = images.get(disk).map_or(&[][..], |image| image);
            if image.len() as u64 != device.size() {
                return Some(format!("disk {disk} has {} blocks, its image {}", device.size(), image.len()));
            }
            for block in 0..device.size() {
                let restored = image.get(block as usize).copied().unwrap_or(ZERO);
                if restored != device.content(block) {
                    let held = device.content(block);
                    return Some(format!("disk {disk} block {block} holds {held}, restored is {restored}"));
                }
            }
        }
        None
    }
}
