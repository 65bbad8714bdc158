//! Objects of every version ever released, as files: today's reader must see in them what was put in, and today's writer
//! must make the same bytes, unless the version changed with them.
//!
//! Bytes that zstd made are only decoded, since a later zstd may compress better. To add a new version, make its folder
//! with `MOBILITY_WRITE_GOLDEN=1 cargo test -p mobility-tests --test golden`, which never touches a file that exists.

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod azure;

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use mobility_format::{
    BLOCK_SIZE, BlockIndex, BlockRange, ByteCount, Digest, DiskId, Epoch, Generation, MachineId, PublicKey,
    SessionId,
    envelope::SigningKey,
    manifest::{
        Commit, Consistency, Cut, CutMethod, DiskState, MANIFEST_VERSION, Manifest, Run, SegmentRef,
        SignedManifest,
    },
    segment::{
        ExtentDecoder, ExtentEncoder, Kind, SEGMENT_VERSION, SegmentHeader, SegmentReader, SegmentWriter,
        is_zero,
    },
};

const MACHINE: MachineId = MachineId([0x11; 16]);
const DISK: DiskId = DiskId([0x22; 16]);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// The file's bytes. Where it does not exist and writing was asked for, it becomes `bytes`.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = folder().join(name);
    if !path.exists() && std::env::var("MOBILITY_WRITE_GOLDEN").as_deref() == Ok("1") {
        fs::create_dir_all(folder()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn header(part: u32) -> SegmentHeader {
    SegmentHeader {
        machine: MACHINE,
        disk: DISK,
        generation: Generation(3),
        first_epoch: Epoch(41),
        last_epoch: Epoch(41),
        session: SessionId([0x33; 8]),
        part,
        previous: Digest::of(b"the segment before"),
    }
}

/// Blocks that do not compress, from their own number.
fn noise(range: BlockRange) -> Vec<u8> {
    let chunks = range.bytes().0 as usize / Digest::LEN;
    (0..chunks).flat_map(|i| Digest::of(format!("{} {i}", range.start.0).as_bytes()).0).collect()
}

fn text(range: BlockRange) -> Vec<u8> {
    b"golden words, ".iter().copied().cycle().take(range.bytes().0 as usize).collect()
}

type Content = Vec<(BlockRange, Vec<u8>)>;

fn write(part: u32, content: &Content) -> Vec<u8> {
    let mut writer = SegmentWriter::new(Vec::new(), header(part)).unwrap();
    let mut encoder = ExtentEncoder::new().unwrap();
    for (range, plain) in content {
        if is_zero(plain) {
            writer.append_zero(*range).unwrap();
        } else {
            writer.append(&encoder.encode(*range, plain).unwrap()).unwrap();
        }
    }
    writer.finish().unwrap().0
}

fn read(part: u32, bytes: &[u8]) -> (Content, Vec<Kind>) {
    let reader = SegmentReader::open(bytes).unwrap();
    reader.check_payload().unwrap();
    assert_eq!(reader.header(), &header(part));
    let (mut decoder, mut stored) = (ExtentDecoder::new().unwrap(), Vec::new());
    let decode = |entry: Result<mobility_format::segment::IndexEntry, _>| {
        let entry = entry.unwrap();
        let mut plain = vec![0; entry.range().bytes().0 as usize];
        reader.read_extent(&entry, &mut decoder, &mut stored, &mut plain).unwrap();
        ((entry.range(), plain), entry.kind)
    };
    reader.entries().map(decode).unzip()
}

#[test]
fn segment_of_stored_and_zero_extents_has_the_same_bytes_for_ever() {
    let (one, two) = (BlockRange::new(255, 1), BlockRange::new(256, 2));
    let zeros = BlockRange::new(1000, 40);
    let content = vec![(one, noise(one)), (two, noise(two)), (zeros, vec![0; 40 * BLOCK_SIZE])];
    let written = write(0, &content);
    let golden = golden("stored-and-zero.seg", &written);
    assert_eq!(read(0, &golden), (content, vec![Kind::Stored, Kind::Stored, Kind::Zero]));
    assert_eq!(SEGMENT_VERSION, 1, "a new version needs golden files of its own beside these");
    assert!(golden == written, "the bytes of a segment changed and its version did not");
}

#[test]
fn segment_of_compressed_extents_is_read_for_ever() {
    let (one, two) = (BlockRange::new(7, 3), BlockRange::new(300, 64));
    let content = vec![(one, text(one)), (two, text(two))];
    let golden = golden("zstd.seg", &write(1, &content));
    assert_eq!(read(1, &golden), (content, vec![Kind::Zstd, Kind::Zstd]));
}

fn reference(name: &[u8]) -> SegmentRef {
    SegmentRef {
        session: SessionId([0x33; 8]),
        part: 2,
        digest: Digest::of(name),
        length: ByteCount(5000),
        first_block: BlockIndex(255),
        end_block: BlockIndex(1040),
        blocks: 43,
        slot: None,
    }
}

fn manifest(commit: Commit) -> Manifest {
    let disk = |id, segments, missing| DiskState {
        id,
        name: "/dev/vda".to_owned(),
        size: ByteCount(10 << 20),
        segments,
        missing,
        audited_blocks: 9,
        missed_blocks: 1,
    };
    Manifest {
        machine: MACHINE,
        generation: Generation(3),
        epoch: Epoch(41),
        session: SessionId([0x33; 8]),
        time: "2026-03-01T12:00:00.123456789Z".parse::<Timestamp>().unwrap(),
        commit,
        disks: vec![
            disk(DISK, vec![reference(b"a segment")], false),
            disk(DiskId([0x44; 16]), Vec::new(), true),
        ],
        previous: Digest::of(b"the manifest before"),
        agent: "0.1.0".to_owned(),
    }
}

fn fuzzy_point() -> Commit {
    let cut = Cut {
        method: CutMethod::None,
        t0: "2026-03-01T11:59:59Z".parse().unwrap(),
        window_us: 1630,
        tries: 5,
        read: ByteCount(1 << 20),
        held_us: 0,
        dirty_rate: ByteCount(44_000 * 4096),
        reason: Some("blocks kept changing while they were read".to_owned()),
    };
    Commit::Point { consistency: Consistency::Fuzzy, cut }
}

#[test]
fn manifests_have_the_same_bytes_for_ever() {
    let key = SigningKey::from_bytes(&[0x55; 32]);
    for (name, commit) in [("fuzzy.point", fuzzy_point()), ("checkpoint.point", Commit::Checkpoint)] {
        let manifest = manifest(commit);
        let written = manifest.sign(&key).unwrap();
        let golden = golden(name, &written);
        let signed = SignedManifest::parse(&golden).unwrap();
        assert_eq!(signed.manifest, manifest, "{name}");
        assert_eq!(signed.key, PublicKey(key.verifying_key().to_bytes()), "{name}");
        assert_eq!(MANIFEST_VERSION, 1, "a new version needs golden files of its own beside these");
        assert!(golden == written, "{name}: the bytes of a manifest changed and its version did not");
    }
}

#[test]
fn runs_have_the_same_bytes_for_ever() {
    let run = Run {
        machine: MACHINE,
        disk: DISK,
        first_epoch: Epoch(12),
        last_epoch: Epoch(41),
        size: ByteCount(10 << 20),
        segments: vec![SegmentRef { session: SessionId([0; 8]), ..reference(b"a merged segment") }],
    };
    let written = run.seal().unwrap();
    let golden = golden("merged.run", &written);
    assert_eq!(Run::parse(&golden).unwrap(), run);
    assert!(golden == written, "the bytes of a run changed and its version did not");
}
