//! Looks after the disks between events: whether each is still there, still as long, still the same.
//!
//! Deliberately not here: what the engine does about it.

use std::{sync::Mutex, time::Duration};

use mobility_capture::{
    direct::DirectReader,
    disk::{Disk, DiskChange},
};
use mobility_engine::{Event, Fault, FaultKind};
use mobility_format::{ByteCount, DiskId};

use super::{
    HOUSEKEEPING, Replication,
    disk::{Protected, Watcher},
    pack::lock,
};
use crate::clock;

impl Replication {
    pub(super) fn housekeep(&mut self) {
        self.systemd.alive();
        let now = clock::now();
        if now < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = now + HOUSEKEEPING;
        let ids: Vec<DiskId> = self.disks.keys().copied().collect();
        ids.into_iter().for_each(|id| self.look_at(id));
        let status = self.engine.status();
        let line = self.report.write(&status, &self.captures());
        self.look_after_halt();
        self.tell_service(false);
        self.pace();
        self.systemd.status(&line);
        self.act();
    }

    fn look_at(&mut self, id: DiskId) {
        let Some(protected) = self.disks.get(&id) else { return };
        let busy = self.busy.contains(&id);
        if protected.gone {
            if !busy {
                self.look_for(id);
            }
            return;
        }
        match protected.disk.revalidate() {
            DiskChange::Same => {}
            DiskChange::Grown { .. } if busy => {
                self.grown.insert(id);
            }
            DiskChange::Grown { new_size } => self.grown(id, new_size),
            DiskChange::Gone => {
                self.lost(id, "it is gone; attach it again, replication goes on by itself then")
            }
            DiskChange::Replaced => {
                self.lost(id, "another disk is in its place, or it was away; it will be compared")
            }
            DiskChange::Shrunk { new_size } => {
                self.lost(id, &format!("it shrank to {new_size}; it will be compared"));
            }
        }
    }

    /// Work has ended: what grew meanwhile is looked at before more is begun. The next regular look may find work at hand
    /// again, and so may all of them.
    pub(super) fn look_at_grown(&mut self) {
        let idle: Vec<DiskId> = self.grown.difference(&self.busy).copied().collect();
        for id in idle {
            self.grown.remove(&id);
            self.look_at(id);
        }
    }

    fn lost(&mut self, id: DiskId, what: &str) {
        let Some(protected) = self.disks.get_mut(&id) else { return };
        protected.gone = true;
        self.scanned.remove(&id);
        let message = format!("{}: {what}", protected.disk.given.display());
        tracing::error!("{message}");
        let fault = Fault::new(FaultKind::DiskGone, message.clone());
        self.report.error(message);
        self.engine.handle(clock::now(), Event::DiskGone(id, fault));
    }

    /// Looks whether a disk that was gone is back.
    fn look_for(&mut self, id: DiskId) {
        let Some(gone) = self.disks.get(&id) else { return };
        let Ok(disk) = Disk::inspect(&gone.disk.given) else { return };
        if disk.id != id {
            return;
        }
        // Nobody watched it meanwhile.
        let removed = match &gone.watcher {
            Watcher::Tracker(tracker) => lock(tracker).unpin(),
            Watcher::Table(_) => Ok(()),
        };
        if let Err(err) = removed {
            tracing::warn!("{}: its old tracker could not be removed: {err}", gone.disk.given.display());
        }
        let in_head = self.head.as_ref().is_some_and(|head| head.disk(id).is_some());
        match Protected::open(disk, &self.opening, in_head, false) {
            Ok((found, start)) => {
                tracing::info!(
                    "{} is back and is compared with its last recovery point",
                    found.disk.given.display()
                );
                self.disks.insert(id, found);
                self.engine.handle(clock::now(), Event::DiskFound(start));
            }
            Err(err) => self.report.error(err.to_string()),
        }
    }

    fn grown(&mut self, id: DiskId, new_size: ByteCount) {
        let Some(protected) = self.disks.get_mut(&id) else { return };
        match grow(protected, new_size) {
            Ok(size) => {
                tracing::info!("{} has grown to {size} and stays protected", protected.disk.given.display());
                self.engine.handle(clock::now(), Event::DiskResized(id, size));
            }
            Err(err) => self.lost(id, &format!("it has grown to {new_size}, and {err}; it will be compared")),
        }
    }
}

fn grow(protected: &mut Protected, new_size: ByteCount) -> Result<ByteCount, String> {
    let disk = Disk::inspect(&protected.disk.given).map_err(|err| err.to_string())?;
    if disk.id != protected.disk.id || disk.size < new_size {
        return Err("it changed again meanwhile".to_owned());
    }
    let reader = DirectReader::open(&disk).map_err(|err| err.to_string())?;
    match &protected.watcher {
        Watcher::Tracker(tracker) => {
            lock_for_change(tracker)?.resize(disk.size).map_err(|err| err.to_string())?;
        }
        // It has room for the old size. What was sent since the head is found once more by the next scan.
        Watcher::Table(table) => lock_for_change(table)?.next = None,
    }
    protected.reader = std::sync::Arc::new(reader);
    let size = disk.size;
    protected.disk = disk;
    Ok(size)
}

/// A cut at hand ends within a second; one that hangs has lost its disk.
fn lock_for_change<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>, String> {
    for _ in 0..100 {
        if let Ok(guard) = mutex.try_lock() {
            return Ok(guard);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("it is being worked with".to_owned())
}
