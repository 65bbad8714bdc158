//! The smallest real recovery point: one disk of 64 blocks, of which one changes.
//!
//! Deliberately not here: sending it.

use std::sync::{LazyLock, Mutex};

use jiff::Timestamp;
use mobility_format::{
    BLOCK_SIZE, BlockRange, ByteCount, Digest, DiskId, Epoch, Generation, MachineId, SessionId,
    manifest::{Commit, Consistency, Cut, CutMethod, DiskState, Manifest, SegmentRef},
    segment::{ExtentEncoder, SegmentHeader, SegmentWriter},
};

/// Blocks of the disk.
const BLOCKS: u64 = 64;

/// Shared, since each takes hundreds of KiB.
static ENCODER: LazyLock<Mutex<ExtentEncoder>> = LazyLock::new(|| Mutex::new(ExtentEncoder::new().unwrap()));

/// The segment that holds one changed block, and all the others where it is the first.
pub(super) fn segment(header: SegmentHeader, seed: u64) -> (Vec<u8>, SegmentRef) {
    let mut plain = vec![0; BLOCK_SIZE];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut plain);
    let first = header.previous == Digest::NONE;
    let block = if first { 0 } else { seed % BLOCKS };
    let mut writer = SegmentWriter::new(Vec::new(), header).unwrap();
    let extent = ENCODER.lock().unwrap().encode(BlockRange::new(block, 1), &plain).unwrap();
    writer.append(&extent).unwrap();
    if first {
        writer.append_zero(BlockRange::new(1, BLOCKS - 1)).unwrap();
    }
    let (session, part) = (header.session, header.part);
    let (bytes, summary) = writer.finish().unwrap();
    (bytes, summary.named(session, part))
}

/// The header of a segment.
pub(super) fn header(
    machine: MachineId,
    session: SessionId,
    generation: Generation,
    epoch: Epoch,
    previous: Digest,
) -> SegmentHeader {
    let (first_epoch, last_epoch, disk) = (epoch, epoch, disk());
    SegmentHeader { machine, disk, generation, first_epoch, last_epoch, session, part: 0, previous }
}

/// The manifest that commits it.
pub(super) fn manifest(header: &SegmentHeader, segment: SegmentRef, previous: Digest) -> Manifest {
    let t0 = Timestamp::now();
    let (read, dirty_rate) = (ByteCount(BLOCK_SIZE as u64), ByteCount(0));
    let method = CutMethod::Optimistic;
    let cut = Cut { method, t0, window_us: 1, tries: 1, read, held_us: 0, dirty_rate, reason: None };
    let disk = DiskState {
        id: header.disk,
        name: "disk".to_owned(),
        size: ByteCount(BLOCKS * BLOCK_SIZE as u64),
        segments: vec![segment],
        missing: false,
        audited_blocks: 0,
        missed_blocks: 0,
    };
    Manifest {
        machine: header.machine,
        generation: header.generation,
        epoch: header.first_epoch,
        session: header.session,
        time: t0,
        commit: Commit::Point { consistency: Consistency::Crash, cut },
        disks: vec![disk],
        previous,
        agent: "simulated agent".to_owned(),
    }
}

fn disk() -> DiskId {
    DiskId::derive("disk")
}
