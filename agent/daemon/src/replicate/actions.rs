//! Starts each of the engine's actions, and takes in what became of segments and commits.
//!
//! Deliberately not here: the work itself, and anything that takes longer than a look at a bitmap.

use std::sync::{Arc, Mutex};

use mobility_engine::{
    Action, CommitDisk, CommitFault, CommitKind, Event, Fault, FaultKind, NewGeneration, SegmentId,
};
use mobility_format::{BlockSet, Digest, DiskId, Epoch, Generation, Head, manifest::DiskState};

use super::{
    Message, Replication,
    applications::MadeOf,
    commit, copy,
    disk::{self, Protected, Table},
    pack::{Chain, Packer, Sealed, lock},
    scan,
    store::claim_of,
};
use crate::clock;

impl Replication {
    /// Starts everything that the engine wants.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.engine.poll() {
            self.note_busy(&action);
            match action {
                Action::NewGeneration(reason) => self.new_generation(&reason),
                Action::Drain(id) => self.drain(id),
                Action::Scan(id) => self.scan(id, Event::Scanned),
                Action::Confirm(id) => self.scan(id, Event::Confirmed),
                Action::Compare(id, blocks) => self.compare(id, blocks),
                Action::Copy(id, blocks) => self.copy(id, blocks),
                Action::Upload(id) => self.upload(id),
                Action::Cut { plans, budget, freeze } => self.cut(plans, budget, freeze),
                Action::Sync => self.sync(),
                Action::Quiesce(generation, epoch) => self.quiesce(generation, epoch),
                Action::Release(succeeded) => self.release(succeeded),
                Action::Commit { generation, epoch, kind, disks } => {
                    self.commit(generation, epoch, &kind, &disks)
                }
                Action::Settle(id, blocks) => self.settle(id, &blocks),
                Action::MarkAll(id) => self.disks.get(&id).into_iter().for_each(Protected::mark_all),
                Action::Audit(id, blocks) => self.audit(id, blocks),
                Action::Stop => self.stopped = true,
            }
        }
    }

    /// Work on these disks has begun; a disk is not exchanged under it.
    fn note_busy(&mut self, action: &Action) {
        if let Action::Scan(id) | Action::Confirm(id) = action {
            self.scanned.insert(*id, clock::wall());
        }
        match action {
            Action::Scan(id)
            | Action::Confirm(id)
            | Action::Compare(id, _)
            | Action::Copy(id, _)
            | Action::Audit(id, _) => {
                self.busy.insert(*id);
            }
            Action::Cut { plans, .. } => self.busy.extend(plans.iter().map(|(id, _)| *id)),
            _ => {}
        }
    }

    /// Work has ended.
    pub(super) fn note_idle(&mut self, event: &Event) {
        match event {
            Event::Scanned(id, _)
            | Event::Confirmed(id, _)
            | Event::Compared(id, _)
            | Event::Copied(id, ..)
            | Event::Audited(id, ..) => {
                self.busy.remove(id);
            }
            Event::CutDone(verdict, ..) if *verdict != mobility_engine::Verdict::Consistent => {
                self.busy.clear()
            }
            Event::CutPacked => self.busy.clear(),
            _ => {}
        }
    }

    pub(super) fn answer(&self, event: Event) {
        // Nobody is there to answer to only when the loop has ended.
        let _ = self.mailbox.send(Message::Event(event));
    }

    /// The disk, if it is there to be worked with.
    pub(super) fn present(&self, id: DiskId) -> Result<&Protected, Fault> {
        self.disks.get(&id).filter(|disk| !disk.gone).ok_or_else(|| {
            Fault::new(FaultKind::DiskGone, format!("disk {id} is not there; attach it again"))
        })
    }

    fn new_generation(&mut self, reason: &str) {
        tracing::info!("a new generation begins: {reason}");
        self.window.abandon();
        self.segments.values().for_each(|_| self.window.release());
        self.segments.clear();
        self.references.clear();
        self.prepared = None;
        for table in self.disks.values().filter_map(Protected::table) {
            let mut table = lock(table);
            (table.next, table.sealed) = (None, None);
        }
        let (store, mailbox, reason) = (self.store.clone(), self.mailbox.clone(), reason.to_owned());
        let after = self.engine.status().generation;
        tokio::task::spawn_blocking(move || {
            let _ = mailbox.send(Message::Generation(store.new_generation(after, &reason)));
        });
    }

    fn drain(&self, id: DiskId) {
        let drained = match self.present(id).map(Protected::tracker) {
            Ok(Some(tracker)) => {
                let mut tracker = lock(tracker);
                let taken = tracker.drain();
                mobility_engine::Drained {
                    unknown: disk::unknown(&taken),
                    dirty: taken.dirty,
                    touched: taken.touched,
                    idle: tracker.idle(),
                    completion_missed: taken.completion_missed,
                    issue_missed: taken.issue_missed,
                }
            }
            _ => mobility_engine::Drained::default(),
        };
        self.answer(Event::Drained(id, drained));
    }

    fn scan(&self, id: DiskId, answer: fn(DiskId, Result<BlockSet, Fault>) -> Event) {
        let disk = match self.present(id) {
            Ok(disk) => disk,
            Err(fault) => return self.answer(answer(id, Err(fault))),
        };
        let Some(table) = disk.table().cloned() else { return self.answer(answer(id, Ok(BlockSet::new()))) };
        let (inspected, reader, store) = (disk.disk.clone(), disk.reader.clone(), self.store.clone());
        let (head, cancel, mailbox) =
            (self.head.as_ref().map(|head| head.digest), self.cancel.clone(), self.mailbox.clone());
        self.worker.run(move || {
            let result = store
                .present()
                .and_then(|()| scan::scan(&inspected, &reader, &table, head, store.as_ref(), &cancel));
            let _ = mailbox.send(Message::Event(answer(id, result)));
        });
    }

    fn compare(&self, id: DiskId, blocks: BlockSet) {
        let disk = match self.present(id) {
            Ok(disk) => disk,
            Err(fault) => return self.answer(Event::Compared(id, Err(fault))),
        };
        let (inspected, reader, store) = (disk.disk.clone(), disk.reader.clone(), self.store.clone());
        let (cancel, mailbox) = (self.cancel.clone(), self.mailbox.clone());
        self.worker.run(move || {
            let result = scan::compare(&inspected, &reader, &blocks, store.as_ref(), &cancel);
            let _ = mailbox.send(Message::Event(Event::Compared(id, result)));
        });
    }

    fn audit(&self, id: DiskId, blocks: BlockSet) {
        let found = self.present(id).ok().and_then(|disk| Some((disk, disk.tracker()?.clone())));
        let Some((disk, tracker)) = found else { return self.answer(Event::Audited(id, 0, BlockSet::new())) };
        let (inspected, reader, store) = (disk.disk.clone(), disk.reader.clone(), self.store.clone());
        let (cancel, mailbox) = (self.cancel.clone(), self.mailbox.clone());
        self.worker.run(move || {
            let (checked, missed) =
                scan::audit(&inspected, &reader, &tracker, &blocks, store.as_ref(), &cancel);
            let _ = mailbox.send(Message::Event(Event::Audited(id, checked, missed)));
        });
    }

    fn copy(&self, id: DiskId, blocks: BlockSet) {
        let (disk, chain) = match (self.present(id), self.chains.get(&id)) {
            (Ok(disk), Some(chain)) => (disk, chain.clone()),
            (Err(fault), _) => return self.answer(Event::Copied(id, blocks, Some(fault))),
            (_, None) => return self.answer(Event::Copied(id, blocks, None)),
        };
        let (reader, table) = (disk.reader.clone(), disk.table().cloned());
        let (window, cancel, mailbox) = (self.window.clone(), self.cancel.clone(), self.mailbox.clone());
        let round = window.round();
        self.worker.run(move || {
            let mut chain = lock(&chain);
            let mut sealed = |sealed| {
                let _ = mailbox.send(Message::Sealed(sealed));
            };
            let packer = Packer::new(&window, round, &mut chain, &mut sealed);
            let mut table = table.as_deref().map(lock::<Table>);
            let next = table.as_mut().and_then(|table| table.next.as_mut());
            let copied = copy::copy(&reader, &blocks, packer, next, &cancel);
            let _ = mailbox.send(Message::Event(Event::Copied(id, copied.unread, copied.fault)));
        });
    }

    pub(super) fn sealed(&mut self, sealed: Sealed) {
        if sealed.round != self.window.round() {
            // It belongs to an epoch that was given up.
            self.window.recycle(sealed.bytes);
            return;
        }
        let (id, disk, length) = (sealed.id, sealed.disk, sealed.reference.length);
        self.references.insert(id, sealed.reference);
        self.segments.insert(id, Arc::new(sealed));
        self.engine.handle(clock::now(), Event::SegmentReady(id, disk, length));
    }

    fn upload(&self, id: SegmentId) {
        let Some(segment) = self.segments.get(&id).cloned() else { return };
        let (store, mailbox) = (self.store.clone(), self.mailbox.clone());
        tokio::task::spawn_blocking(move || {
            let result = store.put_segment(&segment);
            // Before the loop hears of it, which is then the only one to hold the segment and can use its buffer again.
            drop(segment);
            let _ = mailbox.send(Message::Uploaded { id, result });
        });
    }

    pub(super) fn uploaded(&mut self, id: SegmentId, result: Result<Option<u64>, Fault>) {
        if let Ok(slot) = result
            && let Some(segment) = self.segments.remove(&id)
        {
            if let Some(reference) = self.references.get_mut(&id) {
                reference.slot = slot;
            }
            match Arc::into_inner(segment) {
                Some(segment) => self.window.recycle(segment.bytes),
                None => self.window.release(),
            }
        }
        let result = result.map(drop);
        self.report.outage(result.as_ref().err());
        self.engine.handle(clock::now(), Event::Uploaded(id, result));
    }

    fn commit(&mut self, generation: Generation, epoch: Epoch, kind: &CommitKind, disks: &[CommitDisk]) {
        let again =
            self.prepared.as_ref().filter(|p| (p.generation, p.epoch) == (generation, epoch)).cloned();
        let prepared = match again.map_or_else(|| self.prepare(generation, epoch, kind, disks), Ok) {
            Ok(prepared) => prepared,
            Err(reason) => {
                let _ = self.mailbox.send(Message::Committed(Err(CommitFault::Refused(reason))));
                return;
            }
        };
        self.report.committing(kind, &prepared.commit, epoch, prepared.digest);
        let made = MadeOf { digest: prepared.digest, generation, epoch };
        self.note_committing(kind, &prepared.commit, made);
        let tables: Vec<Arc<Mutex<Table>>> =
            self.disks.values().filter_map(|disk| disk.table().cloned()).collect();
        let (store, mailbox) = (self.store.clone(), self.mailbox.clone());
        self.prepared = Some(prepared.clone());
        tokio::task::spawn_blocking(move || {
            for table in &tables {
                lock(table).seal(prepared.digest);
            }
            let result = store.commit(&prepared);
            if result.is_ok() {
                for table in &tables {
                    lock(table).adopt();
                }
            }
            let _ = mailbox.send(Message::Committed(result));
        });
    }

    fn prepare(
        &self,
        generation: Generation,
        epoch: Epoch,
        kind: &CommitKind,
        disks: &[CommitDisk],
    ) -> Result<commit::Prepared, String> {
        let state = |disk: &CommitDisk| {
            let named = self.disks.get(&disk.id).map(|held| held.disk.given.display().to_string());
            let segments = disk.segments.iter().map(|id| self.references.get(id).copied());
            let segments =
                segments.collect::<Option<Vec<_>>>().ok_or("a segment of the epoch is not known")?;
            Ok(DiskState {
                id: disk.id,
                name: named.unwrap_or_default(),
                size: disk.size,
                segments,
                missing: disk.missing,
                audited_blocks: disk.audited,
                missed_blocks: disk.missed,
            })
        };
        let disks = disks.iter().map(state).collect::<Result<Vec<_>, String>>()?;
        let previous = self.head.as_ref().map_or(Digest::NONE, |head| head.digest);
        let described =
            commit::describe(kind, self.report.dirty_rate(kind), self.scanned.values().min().copied());
        commit::prepare(&self.identity, (generation, epoch), described, disks, previous)
    }

    pub(super) fn committed(&mut self, result: Result<Head, CommitFault>) {
        match &result {
            Ok(head) => {
                self.head_changed(head.clone());
                self.report.committed();
                self.answer_requests();
                self.tell_service(true);
            }
            Err(CommitFault::Retry(fault)) => self.report.outage(Some(fault)),
            Err(fault) => {
                let head = self.store.head();
                head.into_iter().for_each(|head| self.head_changed(head));
                tracing::warn!("the epoch was not taken in, its blocks are sent again: {fault:?}");
            }
        }
        let taken_in = result.as_ref().ok().filter(|_| self.store.takes_in_at_once()).map(|head| head.epoch);
        self.engine.handle(clock::now(), Event::CommitDone(result.map(|_| ())));
        taken_in.into_iter().for_each(|epoch| self.engine.handle(clock::now(), Event::TakenIn(epoch)));
    }

    /// A new generation goes on from `head`.
    pub(super) fn generation_given(&mut self, result: Result<(Generation, Option<Head>), Fault>) {
        self.report.outage(result.as_ref().err());
        let result = result.map(|(generation, head)| {
            let epoch = head.as_ref().map_or(Epoch(0), |head| head.epoch);
            if head != self.head {
                match head {
                    Some(head) => self.head_changed(head),
                    None => self.head = None,
                }
            }
            self.reset_chains(generation);
            NewGeneration { generation, head: epoch }
        });
        self.engine.handle(clock::now(), Event::Generation(result));
    }

    fn head_changed(&mut self, head: Head) {
        // Before anything that was pending is forgotten: see `start::trusted`.
        if let Err(err) = super::start::remember_head(&self.head_file, &claim_of(&head)) {
            tracing::warn!("{}: {err}; after a restart the disks will be compared", self.head_file.display());
        }
        self.store.head_changed(&head);
        self.prepared = None;
        self.references.clear();
        self.head = Some(head);
        let generation = self.engine.status().generation;
        self.reset_chains(generation);
    }

    /// The next segment of each disk is the first of the next epoch, and follows the last that was taken in.
    pub(super) fn reset_chains(&mut self, generation: Generation) {
        let epoch = self.head.as_ref().map_or(Epoch(1), |head| head.epoch.next());
        for (&id, chain) in &self.chains {
            let last = self.head.as_ref().and_then(|head| head.disk(id));
            *lock(chain) = Chain {
                machine: self.identity.machine,
                disk: id,
                generation,
                epoch,
                session: self.identity.session,
                part: 0,
                previous: last.map_or(Digest::NONE, |disk| disk.last_segment),
            };
        }
    }

    fn settle(&self, id: DiskId, blocks: &BlockSet) {
        if let Ok(disk) = self.present(id) {
            disk.settle(blocks);
        }
    }
}

impl Table {
    /// Finishes the table for the commit `head`. Without it the next scan makes it anew from what is stored.
    fn seal(&mut self, head: mobility_format::Digest) {
        let Some(next) = self.next.take() else { return };
        match next.seal(head) {
            Ok(sealed) => self.sealed = Some(sealed),
            Err(err) => tracing::warn!("{}: {err}; the digest table will be made anew", self.path.display()),
        }
    }

    fn adopt(&mut self) {
        if let Some(Err(err)) = self.sealed.take().map(mobility_capture::scan::SealedTable::adopt) {
            tracing::warn!("{}: {err}; the digest table will be made anew", self.path.display());
        }
    }
}
