//! Plans, reads and decodes, and writes side by side: one thread plans, two decode, the caller's writes.
//!
//! Memory: a handful of windows of 1 MiB, whatever the disk's size; all queues are bounded. Deliberately not here: what
//! is written where.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange, ByteCount, WINDOW_SIZE};

use super::{Progress, RestoreError, output::Output};
use crate::{
    content::{Assembler, ContentError, Layer, Mask, Sweep, WindowPlan},
    storage::{StorageError, Stores},
};

const DECODERS: usize = 2;
/// Planned windows waiting to be decoded: a few hundred bytes each.
const PLANNED: usize = 16;
/// Decoded windows waiting to be written.
const DECODED: usize = 4;

/// What was copied.
pub(super) struct Copied {
    pub(super) written: ByteCount,
    pub(super) read: ByteCount,
}

enum Task {
    Window(WindowPlan),
    Zeros(BlockRange),
}

enum Ready {
    Window { start: BlockIndex, data: Mask, read: u64, bytes: Vec<u8> },
    Zeros(BlockRange),
}

/// Copies the disk of `size` that `layers` make up to `output`.
pub(super) fn copy(
    stores: &Stores,
    layers: Vec<Layer>,
    size: ByteCount,
    output: &mut impl Output,
    progress: impl FnMut(Progress),
) -> Result<Copied, RestoreError> {
    let sweep = Sweep::new(stores, layers, size.blocks());
    let assemblers: Vec<_> =
        (0..DECODERS).map(|_| Assembler::new()).collect::<Result<_, _>>().map_err(|err| {
            StorageError::new("get working memory to decompress", &stores.target().place(""), err)
        })?;
    let (plan_to, planned) = sync_channel(PLANNED);
    let (decode_to, decoded) = sync_channel(DECODED);
    let (return_to, returned) = sync_channel(DECODED + DECODERS + 1);
    // Shared by the decoders alone: when they have ended, the planner finds nobody to plan for and ends too.
    let (planned, returned) = (Arc::new(Mutex::new(planned)), Arc::new(Mutex::new(returned)));
    thread::scope(|scope| {
        let plan_errors = decode_to.clone();
        scope.spawn(move || plan(sweep, size, &plan_to, &plan_errors));
        for assembler in assemblers {
            let (decode_to, planned, returned) = (decode_to.clone(), planned.clone(), returned.clone());
            scope.spawn(move || decode(assembler, &planned, &returned, &decode_to));
        }
        drop((decode_to, planned, returned));
        // Takes the queue's end along when it ends: on an error the decoders find nobody to decode for.
        write(decoded, &return_to, size, output, progress)
    })
}

/// Hands on what there is to do, in the order of the disk.
fn plan(
    sweep: Sweep,
    size: ByteCount,
    to: &SyncSender<Task>,
    errors: &SyncSender<Result<Ready, ContentError>>,
) {
    let mut at = BlockIndex(0);
    let gap = |at: BlockIndex, end: u64| Task::Zeros(BlockRange::new(at.0, end.saturating_sub(at.0)));
    for plan in sweep {
        let plan = match plan {
            Ok(plan) if plan.pieces.is_empty() => continue,
            Ok(plan) => plan,
            Err(err) => {
                // Nobody listens any more where another error came first.
                errors.send(Err(err)).ok();
                return;
            }
        };
        let before = gap(at, plan.window.0);
        at = BlockIndex(plan.window.0 + mobility_format::WINDOW_BLOCKS);
        if to.send(before).is_err() || to.send(Task::Window(plan)).is_err() {
            return;
        }
    }
    to.send(gap(at, size.blocks())).ok();
}

fn decode(
    mut assembler: Assembler,
    tasks: &Mutex<Receiver<Task>>,
    buffers: &Mutex<Receiver<Vec<u8>>>,
    to: &SyncSender<Result<Ready, ContentError>>,
) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let ready = match task {
            Err(_) => return,
            Ok(Task::Zeros(range)) => Ok(Ready::Zeros(range)),
            Ok(Task::Window(plan)) => {
                let used = buffers.lock().unwrap_or_else(PoisonError::into_inner).try_recv();
                let mut bytes = used.unwrap_or_else(|_| vec![0; WINDOW_SIZE]);
                let read = plan.pieces.iter().map(|piece| u64::from(piece.entry.length)).sum();
                let (start, data) = (plan.window, plan.data);
                assembler.fill(&plan, &mut bytes).map(|()| Ready::Window { start, data, read, bytes })
            }
        };
        let failed = ready.is_err();
        if to.send(ready).is_err() || failed {
            return;
        }
    }
}

fn write(
    from: Receiver<Result<Ready, ContentError>>,
    buffers: &SyncSender<Vec<u8>>,
    size: ByteCount,
    output: &mut impl Output,
    mut progress: impl FnMut(Progress),
) -> Result<Copied, RestoreError> {
    let mut copied = Copied { written: ByteCount(0), read: ByteCount(0) };
    let mut done = 0;
    for ready in from {
        match ready? {
            Ready::Zeros(range) if range.count == 0 => continue,
            Ready::Zeros(range) => {
                output.zeros(range)?;
                done += range.count * BLOCK_SIZE as u64;
            }
            Ready::Window { start, data, read, bytes } => {
                let length = (size.0 - start.byte_offset()).min(WINDOW_SIZE as u64);
                copied.written.0 += output.window(start, data, &bytes[..length as usize])?;
                copied.read.0 += read;
                done += length;
                // A full queue means that there are buffers enough.
                buffers.try_send(bytes).ok();
            }
        }
        progress(Progress { done: ByteCount(done.min(size.0)), total: size });
    }
    Ok(copied)
}
