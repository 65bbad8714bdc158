//! Packs extents into segments, and bounds how many of them are in memory.
//!
//! A segment is a buffer until it is durable in cache storage. The packer takes a place in the [`Window`] before it
//! begins one and the main loop gives it back when the segment is durable, so an outage stops the reading and costs no
//! memory. Deliberately not here: reading, and uploading.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mobility_engine::SegmentId;
use mobility_format::{
    BlockRange, BlockSet, Digest, DiskId, Epoch, Generation, MachineId, SessionId, WINDOW_SIZE,
    key::CacheKey,
    manifest::SegmentRef,
    segment::{EncodedExtent, SegmentHeader, SegmentWriter},
};

/// How long a segment may get. Small enough that some fit into memory, large enough that a request costs little.
pub(crate) const SEGMENT_LEN: u64 = 4 << 20;
/// What a segment's buffer is made with: its length, the extent that it ends with, and the index. Memory that is never
/// written to costs nothing; a buffer that grows leaves its smaller selves behind in the allocator.
const SEGMENT_CAPACITY: usize = SEGMENT_LEN as usize + WINDOW_SIZE + (256 << 10);

/// Locks, also after a panic elsewhere: what the lock guards is consistent between any two statements that use it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many segments may be in memory.
pub(crate) struct Window {
    state: Mutex<WindowState>,
    changed: Condvar,
}

struct WindowState {
    free: usize,
    /// Buffers of segments that are durable, to be used again: an allocator that gets and gives back buffers of this size
    /// in turns keeps tens of MiB more than are ever in use.
    spare: Vec<Vec<u8>>,
    /// Grows when an epoch is given up: who began before has nothing to pack any more.
    round: u64,
    closed: bool,
}

/// The epoch was given up, or the agent stops.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

impl Window {
    pub(crate) fn new(places: usize) -> Self {
        Window {
            state: Mutex::new(WindowState { free: places, spare: Vec::new(), round: 0, closed: false }),
            changed: Condvar::new(),
        }
    }

    /// Waits for a place, and gives the buffer for it.
    fn take(&self, round: u64) -> Result<Vec<u8>, Abandoned> {
        let mut state = lock(&self.state);
        loop {
            if state.closed || state.round != round {
                return Err(Abandoned);
            }
            if state.free > 0 {
                state.free -= 1;
                return Ok(state.spare.pop().unwrap_or_else(|| Vec::with_capacity(SEGMENT_CAPACITY)));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a place back.
    pub(crate) fn release(&self) {
        lock(&self.state).free += 1;
        self.changed.notify_all();
    }

    /// Gives a place back with its buffer.
    pub(crate) fn recycle(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut state = lock(&self.state);
        state.free += 1;
        // As many as there are places at most; one that had to grow would be large for ever.
        if state.spare.len() < state.free && buffer.capacity() == SEGMENT_CAPACITY {
            state.spare.push(buffer);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn round(&self) -> u64 {
        lock(&self.state).round
    }

    /// Ends what everybody is packing.
    pub(crate) fn abandon(&self) {
        lock(&self.state).round += 1;
        self.changed.notify_all();
    }

    /// Ends it for good.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}

/// A segment that is complete.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) id: SegmentId,
    pub(crate) key: CacheKey,
    pub(crate) generation: Generation,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reference: SegmentRef,
    pub(crate) disk: DiskId,
    pub(crate) round: u64,
}

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What the segments of a disk in an epoch have in common, and where their chain stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) machine: MachineId,
    pub(crate) disk: DiskId,
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) session: SessionId,
    pub(crate) part: u32,
    pub(crate) previous: Digest,
}

/// Packs what is read of one disk.
pub(crate) struct Packer<'a> {
    window: &'a Window,
    round: u64,
    chain: &'a mut Chain,
    open: Option<SegmentWriter<Vec<u8>>>,
    zero: BlockSet,
    sealed: &'a mut dyn FnMut(Sealed),
}

impl<'a> Packer<'a> {
    pub(crate) fn new(
        window: &'a Window,
        round: u64,
        chain: &'a mut Chain,
        sealed: &'a mut dyn FnMut(Sealed),
    ) -> Self {
        Packer { window, round, chain, open: None, zero: BlockSet::new(), sealed }
    }

    pub(crate) fn extent(&mut self, extent: &EncodedExtent) -> Result<(), Abandoned> {
        self.begin()?;
        let Some(open) = &mut self.open else { return Err(Abandoned) };
        // Writing into memory fails only for an extent that the encoder cannot have made.
        open.append(extent).map_err(|_| Abandoned)?;
        if open.length() >= SEGMENT_LEN { self.seal() } else { Ok(()) }
    }

    pub(crate) fn zero(&mut self, range: BlockRange) -> Result<(), Abandoned> {
        self.begin()?;
        self.zero.insert_range(range);
        Ok(())
    }

    /// Completes the last segment.
    pub(crate) fn finish(mut self) -> Result<(), Abandoned> {
        if self.open.is_some() { self.seal() } else { Ok(()) }
    }

    fn begin(&mut self) -> Result<(), Abandoned> {
        if self.open.is_some() {
            return Ok(());
        }
        let buffer = self.window.take(self.round)?;
        let chain = &self.chain;
        let header = SegmentHeader {
            machine: chain.machine,
            disk: chain.disk,
            generation: chain.generation,
            first_epoch: chain.epoch,
            last_epoch: chain.epoch,
            session: chain.session,
            part: chain.part,
            previous: chain.previous,
        };
        self.open = Some(SegmentWriter::new(buffer, header).map_err(|_| Abandoned)?);
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Abandoned> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let finished = self.zero_and_finish(open);
        let (bytes, summary) = match finished {
            Ok(finished) => finished,
            Err(_) => {
                self.window.release();
                return Err(Abandoned);
            }
        };
        let Chain { machine, disk, generation, epoch, session, part, .. } = *self.chain;
        let reference = summary.named(session, part);
        self.chain.part += 1;
        self.chain.previous = summary.digest;
        let key = CacheKey::Segment { machine, generation, epoch, disk, session, part };
        (self.sealed)(Sealed { id: next_id(), key, generation, bytes, reference, disk, round: self.round });
        Ok(())
    }

    fn zero_and_finish(
        &mut self,
        mut open: SegmentWriter<Vec<u8>>,
    ) -> io::Result<(Vec<u8>, mobility_format::segment::SegmentSummary)> {
        for run in std::mem::take(&mut self.zero).runs() {
            open.append_zero(run)?;
        }
        open.finish()
    }
}

impl Drop for Packer<'_> {
    fn drop(&mut self) {
        if self.open.is_some() {
            self.window.release();
        }
    }
}

fn next_id() -> SegmentId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SegmentId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A chain shared between the main loop, which resets it, and the packer, which carries it on.
pub(crate) type SharedChain = Arc<Mutex<Chain>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_never_more_than_there_are_places() {
        let window = Window::new(2);
        let (first, second) = (window.take(0).unwrap(), window.take(0).unwrap());
        let memory = first.as_ptr();
        window.recycle(first);
        let again = window.take(0).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (memory, 0));
        window.recycle(again);
        window.recycle(second);
        let state = lock(&window.state);
        assert_eq!((state.free, state.spare.len()), (2, 2));
    }

    #[test]
    fn a_buffer_that_grew_is_given_up() {
        let window = Window::new(1);
        let mut buffer = window.take(0).unwrap();
        buffer.reserve_exact(SEGMENT_CAPACITY + 1);
        window.recycle(buffer);
        let state = lock(&window.state);
        assert_eq!((state.free, state.spare.len()), (1, 0));
    }
}
