//! A recovery service: objects go where it has granted, and it is asked what the head holds.
//!
//! A commit is durable once its manifest is in cache storage, and is taken in later. Deliberately not here: requests and
//! grants (`crate::service`), and what the service says by itself (`replicate::orders`).

use std::sync::{Arc, Mutex};

use mobility_capture::scan::Expected;
use mobility_engine::{CommitFault, Fault, FaultKind};
use mobility_format::{
    BLOCK_SIZE, BlockIndex, ByteCount, DiskId, Epoch, Generation, Head, WINDOW_BLOCKS, WINDOW_SIZE,
    control::Claim, manifest::SignedManifest,
};

use super::{Newest, NotKnown, Store, WindowVisitor};
use crate::{
    replicate::{
        commit::Prepared,
        pack::{Sealed, lock},
    },
    service::{
        MOST_WINDOWS, Payload, Put, Service, ServiceFault, ServiceFaultKind, WindowDigests, inventory,
    },
};

/// A service, and what is known of the head there.
pub(crate) struct ServiceStore {
    service: Service,
    head: Mutex<Option<Head>>,
    fetched: Mutex<Option<Fetched>>,
}

/// Digests of windows in a row.
struct Fetched {
    disk: DiskId,
    epoch: Epoch,
    first: u64,
    windows: Vec<WindowDigests>,
}

impl ServiceStore {
    /// Begins this run at the service.
    pub(crate) fn open(
        service: &Service,
        claim: Option<Claim>,
    ) -> Result<(ServiceStore, Newest), ServiceFault> {
        let started = service.start_session(inventory::collect(), claim)?;
        let head = started.head;
        let store = ServiceStore {
            service: service.clone(),
            head: Mutex::new(head.clone()),
            fetched: Mutex::new(None),
        };
        Ok((store, Newest { head, generation: started.generation }))
    }

    /// Another manifest has this epoch: the head is not what this run believed.
    fn superseded(&self) -> CommitFault {
        let claim = lock(&self.head).as_ref().map(claim_of);
        match self.service.start_session(inventory::collect(), claim) {
            Err(err) => CommitFault::Retry(fault_of(&err)),
            Ok(started) => {
                let epoch = started.head.as_ref().map_or(Epoch(0), |head| head.epoch);
                *lock(&self.head) = started.head;
                CommitFault::Superseded { head: epoch, generation: started.generation }
            }
        }
    }

    fn fetch(&self, disk: DiskId, window: u64, epoch: Epoch) -> Result<Option<Expected>, NotKnown> {
        let mut fetched = lock(&self.fetched);
        let there = fetched.as_ref().and_then(|fetched| fetched.find(disk, window, epoch));
        if there.is_some() {
            return Ok(there);
        }
        let windows = self.service.digests(disk, window, MOST_WINDOWS, epoch);
        let windows = windows.map_err(|err| NotKnown::Now(fault_of(&err)))?;
        let new = fetched.insert(Fetched { disk, epoch, first: window, windows });
        Ok(new.find(disk, window, epoch))
    }

    /// The size of a disk in the head, and which head that is.
    fn size_in_head(&self, disk: DiskId) -> Option<(ByteCount, Epoch)> {
        let head = lock(&self.head);
        let head = head.as_ref()?;
        Some((head.disk(disk)?.size, head.epoch))
    }
}

impl Fetched {
    fn find(&self, disk: DiskId, window: u64, epoch: Epoch) -> Option<Expected> {
        let at = window.checked_sub(self.first).filter(|_| (self.disk, self.epoch) == (disk, epoch))?;
        let found = self.windows.get(usize::try_from(at).ok()?)?;
        Some(match found {
            None => Expected::Zero,
            Some(digests) => Expected::Digests(digests.clone()),
        })
    }
}

impl Store for ServiceStore {
    fn present(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn put_segment(&self, segment: &Arc<Sealed>) -> Result<Option<u64>, Fault> {
        let payload: Payload = segment.clone();
        let slot = self.service.put_segment(segment.generation, &payload);
        slot.map(Some).map_err(|err| fault_of(&err))
    }

    fn commit(&self, prepared: &Prepared) -> Result<Head, CommitFault> {
        let signed =
            SignedManifest::parse(&prepared.bytes).map_err(|err| CommitFault::Refused(err.to_string()))?;
        let payload: Payload = Arc::new(prepared.bytes.clone());
        let (generation, epoch) = (prepared.generation, prepared.epoch);
        match self.service.put_manifest(generation, epoch, prepared.digest, &payload) {
            Ok(Put::Done | Put::TakenByThis) => {
                let mut head = lock(&self.head);
                let next = Head::after(head.as_ref(), &signed);
                Ok(head.insert(next).clone())
            }
            Ok(Put::TakenByOther) => Err(self.superseded()),
            Err(err) => Err(CommitFault::Retry(fault_of(&err))),
        }
    }

    fn takes_in_at_once(&self) -> bool {
        false
    }

    fn new_generation(&self, after: Generation, reason: &str) -> Result<(Generation, Option<Head>), Fault> {
        let given = self.service.new_generation(after, reason).map_err(|err| fault_of(&err))?;
        lock(&self.head).clone_from(&given.head);
        Ok((given.generation, given.head))
    }

    fn head(&self) -> Option<Head> {
        lock(&self.head).clone()
    }

    fn expected(&self, disk: DiskId, window: BlockIndex) -> Result<Expected, NotKnown> {
        match self.size_in_head(disk) {
            Some((size, epoch)) if window.byte_offset() < size.0 => {
                let found = self.fetch(disk, window.0 / WINDOW_BLOCKS, epoch)?;
                Ok(found.unwrap_or(Expected::Zero))
            }
            _ => Ok(Expected::Zero),
        }
    }

    fn each_window(&self, disk: DiskId, visit: &mut WindowVisitor<'_>) -> Result<bool, NotKnown> {
        let Some((size, epoch)) = self.size_in_head(disk) else { return Ok(false) };
        for window in 0..size.0.div_ceil(WINDOW_SIZE as u64) {
            if let Some(Expected::Digests(digests)) = self.fetch(disk, window, epoch)? {
                visit(BlockIndex(window * (WINDOW_SIZE / BLOCK_SIZE) as u64), &digests[..])
                    .map_err(NotKnown::Damaged)?;
            }
        }
        Ok(true)
    }

    fn head_changed(&self, _: &Head) {
        *lock(&self.fetched) = None;
    }
}

/// The head as the service is told of it.
pub(crate) fn claim_of(head: &Head) -> Claim {
    Claim { generation: head.generation, epoch: head.epoch, digest: head.digest }
}

/// The engine's word for a fault of the service.
fn fault_of(err: &ServiceFault) -> Fault {
    let kind = match err.kind {
        ServiceFaultKind::StorageFull => FaultKind::StorageFull,
        ServiceFaultKind::Unreachable => FaultKind::StorageGone,
        _ => FaultKind::Storage,
    };
    Fault { wait: err.retry_after, ..Fault::new(kind, err.to_string()) }
}
