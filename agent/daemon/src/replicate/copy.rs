//! Copies blocks: reads them, hashes and compresses them, and hands them to the packer.
//!
//! Some threads each read a window and encode it, one after the other, so that reading and compressing overlap without
//! queues of buffers between them; the calling thread packs. Memory: for each thread a window and what it compressed to.
//! Deliberately not here: which blocks, and the cut, which reads first and encodes later (`cut`).

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use mobility_capture::{
    direct::{
        AlignedBuf, DirectReader, JoinedRead, ReadError, ReadErrorKind, Stretch, joined_read_plan,
        set_idle_io_priority,
    },
    scan::{NextTable, block_digests},
};
use mobility_engine::Fault;
use mobility_format::{
    BLOCK_SIZE, BlockDigest, BlockRange, BlockSet, WINDOW_SIZE,
    segment::{EncodedExtent, ExtentEncoder, is_zero},
};

use super::{
    cut::Content,
    fault,
    pack::{Abandoned, Packer, lock},
};

/// A range that was read, as it goes into a segment.
pub(crate) struct Piece {
    range: BlockRange,
    /// `None` for zeros.
    extent: Option<EncodedExtent>,
    /// For the digest table, where the disk has one.
    digests: Vec<BlockDigest>,
}

/// What became of a copy.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// What could not be read, or was not read because the copy was abandoned.
    pub(crate) unread: BlockSet,
    /// Why.
    pub(crate) fault: Option<Fault>,
}

/// How many threads read and encode: twice the processors, so that they stay busy while others wait for the disk.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(2, |n| n.get() * 2).clamp(2, 8)
}

/// Copies `blocks` of the disk that `reader` reads.
pub(crate) fn copy(
    reader: &DirectReader,
    blocks: &BlockSet,
    mut packer: Packer<'_>,
    table: Option<&mut NextTable>,
    cancel: &AtomicBool,
) -> Copied {
    let plan = Mutex::new(joined_read_plan(blocks));
    let (send, receive) = sync_channel::<Piece>(threads());
    let failed = Mutex::new(Copied::default());
    let digests = table.is_some();
    let mut packed = BlockSet::new();
    let outcome = thread::scope(|scope| {
        for _ in
            0..threads().min(blocks.runs().take(16).count().max(usize::from(blocks.len() > 256) * threads()))
        {
            let (send, plan, failed) = (send.clone(), &plan, &failed);
            scope.spawn(move || read_and_encode(reader, plan, &send, failed, digests, cancel));
        }
        drop(send);
        pack(&receive, &mut packer, table, &mut packed)
    });
    let mut copied = failed.into_inner().unwrap_or_default();
    let outcome = outcome.and_then(|()| packer.finish().map_err(PackError::Abandoned));
    match outcome {
        Ok(()) => {}
        // What was packed is in a segment that nobody will count.
        Err(PackError::Abandoned(Abandoned)) => return Copied { unread: blocks.clone(), fault: None },
        Err(PackError::Table(err)) => {
            copied.fault = Some(fault::of_disk(
                reader.name(),
                format_args!("its digest table cannot be written: {err}"),
            ));
        }
    }
    copied.unread = blocks.difference(&packed);
    if copied.fault.is_none() && !copied.unread.is_empty() && !cancel.load(Ordering::Relaxed) {
        copied.fault = Some(fault::of_disk(
            reader.name(),
            "not all of it could be encoded: the machine is out of memory",
        ));
    }
    copied
}

enum PackError {
    Abandoned(Abandoned),
    Table(io::Error),
}

fn pack(
    pieces: &Receiver<Piece>,
    packer: &mut Packer<'_>,
    mut table: Option<&mut NextTable>,
    packed: &mut BlockSet,
) -> Result<(), PackError> {
    for piece in pieces {
        match &piece.extent {
            Some(extent) => packer.extent(extent).map_err(PackError::Abandoned)?,
            None => packer.zero(piece.range).map_err(PackError::Abandoned)?,
        }
        if let Some(table) = &mut table {
            record(table, &piece).map_err(PackError::Table)?;
        }
        packed.insert_range(piece.range);
    }
    Ok(())
}

fn record(table: &mut NextTable, piece: &Piece) -> io::Result<()> {
    if piece.extent.is_some() {
        return table.record(piece.range.start, &piece.digests);
    }
    let zeros = [BlockDigest::ZERO_BLOCK; 256];
    let mut at = piece.range;
    while at.count > 0 {
        let count = at.count.min(zeros.len() as u64);
        table.record(at.start, &zeros[..count as usize])?;
        at = BlockRange::new(at.start.0 + count, at.count - count);
    }
    Ok(())
}

fn read_and_encode(
    reader: &DirectReader,
    plan: &Mutex<impl Iterator<Item = JoinedRead>>,
    pieces: &SyncSender<Piece>,
    failed: &Mutex<Copied>,
    digests: bool,
    cancel: &AtomicBool,
) {
    // A disk without priorities is read with none.
    let _ = set_idle_io_priority();
    let Ok(mut encoder) = ExtentEncoder::new() else { return };
    let mut buf = AlignedBuf::for_window();
    while !cancel.load(Ordering::Relaxed) {
        let Some(read) = lock(plan).next() else { return };
        if let Stretch::Hole(hole) = reader.stretch_at(read.span.start)
            && hole.end() >= read.span.end()
        {
            let mut zeros =
                read.wanted.into_iter().map(|range| Piece { range, extent: None, digests: Vec::new() });
            if zeros.any(|piece| pieces.send(piece).is_err()) {
                return;
            }
            continue;
        }
        let mut sound: BlockSet = read.wanted.iter().copied().collect();
        if let Err(err) = read.read(reader, &mut buf) {
            note(failed, &err);
            if err.kind != ReadErrorKind::Unreadable {
                return;
            }
            sound.subtract(&err.blocks);
        }
        for run in sound.runs() {
            let plain = read.bytes(&buf, run);
            if encode(run, plain, &mut encoder, digests, &mut |piece| pieces.send(piece).is_ok()).is_none() {
                return;
            }
        }
    }
}

fn note(failed: &Mutex<Copied>, err: &ReadError) {
    lock(failed).fault.get_or_insert_with(|| fault::of_read(err));
}

/// Splits the blocks `range` into what is zero and what is not, and encodes the latter. Ends early, with `None`, when
/// `piece` says so or memory is short.
pub(crate) fn encode(
    range: BlockRange,
    plain: &[u8],
    encoder: &mut ExtentEncoder,
    digests: bool,
    piece: &mut dyn FnMut(Piece) -> bool,
) -> Option<()> {
    debug_assert!(plain.len() <= WINDOW_SIZE);
    let mut at = 0;
    let blocks: Vec<bool> = plain.chunks(BLOCK_SIZE).map(is_zero).collect();
    for same in blocks.chunk_by(|a, b| a == b) {
        let bytes = &plain[at * BLOCK_SIZE..(at + same.len()) * BLOCK_SIZE];
        let range = BlockRange::new(range.start.0 + at as u64, same.len() as u64);
        at += same.len();
        let zero = same[0];
        let extent = if zero { None } else { Some(encoder.encode(range, bytes).ok()?) };
        let digests = if digests && !zero { block_digests(bytes).collect() } else { Vec::new() };
        if !piece(Piece { range, extent, digests }) {
            return None;
        }
    }
    Some(())
}

/// Packs what a cut has read into memory.
pub(crate) fn pack_memory(read: &Content, mut packer: Packer<'_>) -> Result<(), Abandoned> {
    let mut encoder = ExtentEncoder::new().map_err(|_| Abandoned)?;
    for (range, plain) in read.ranges() {
        let mut outcome = Ok(());
        let encoded = encode(range, plain, &mut encoder, false, &mut |piece| {
            outcome = match &piece.extent {
                Some(extent) => packer.extent(extent),
                None => packer.zero(piece.range),
            };
            outcome.is_ok()
        });
        outcome?;
        encoded.ok_or(Abandoned)?;
    }
    packer.finish()
}
