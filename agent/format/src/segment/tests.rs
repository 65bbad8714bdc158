use proptest::prelude::*;

use super::*;
use crate::{BLOCK_SIZE, BlockIndex, BlockRange, Digest, DiskId, Epoch, Generation, MachineId, SessionId};

fn header() -> SegmentHeader {
    SegmentHeader {
        machine: MachineId([1; 16]),
        disk: DiskId([2; 16]),
        generation: Generation(3),
        first_epoch: Epoch(4),
        last_epoch: Epoch(4),
        session: SessionId([5; 8]),
        part: 6,
        previous: Digest([7; 32]),
    }
}

/// Extents of blocks whose content is a function of the block and `flavour`: 0 compresses, 1 does not, 2 is zero.
#[derive(Clone, Debug)]
struct Sample {
    range: BlockRange,
    flavour: u8,
}

fn content(sample: &Sample) -> Vec<u8> {
    let mut out = vec![0; sample.range.bytes().0 as usize];
    let seed = sample.range.start.0.to_le_bytes();
    match sample.flavour {
        0 => out
            .chunks_mut(16)
            .enumerate()
            .for_each(|(i, c)| c[..8].copy_from_slice(&(i as u64 / 9).to_le_bytes())),
        1 => blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut out),
        _ => {}
    }
    out
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::btree_map(0u64..64, (0u64..200, 1u64..56, 0u8..3), 0..6).prop_map(|windows| {
        let sample =
            |(w, (at, count, flavour))| Sample { range: BlockRange::new(w * 256 + at, count), flavour };
        windows.into_iter().map(sample).collect()
    })
}

fn write(samples: &[Sample]) -> (Vec<u8>, SegmentSummary) {
    let mut encoder = ExtentEncoder::new().unwrap();
    let mut writer = SegmentWriter::new(Vec::new(), header()).unwrap();
    for sample in samples.iter().rev() {
        match sample.flavour {
            2 => writer.append_zero(sample.range).unwrap(),
            _ => writer.append(&encoder.encode(sample.range, &content(sample)).unwrap()).unwrap(),
        }
    }
    writer.finish().unwrap()
}

fn read_back(bytes: &[u8]) -> Result<Vec<(BlockRange, Vec<u8>)>, SegmentError> {
    let reader = SegmentReader::open(bytes)?;
    assert_eq!(reader.header(), &header());
    reader.check_payload()?;
    let (mut decoder, mut stored) = (ExtentDecoder::new().unwrap(), Vec::new());
    let decode = |entry: Result<IndexEntry, _>| {
        let entry = entry?;
        let mut plain = vec![0xEE; entry.range().bytes().0 as usize];
        reader.read_extent(&entry, &mut decoder, &mut stored, &mut plain)?;
        Ok((entry.range(), plain))
    };
    reader.entries().map(decode).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_written_is_read(samples in samples(), from in 0u64..20_000) {
        let (bytes, summary) = write(&samples);
        prop_assert_eq!(summary.length, bytes.len() as u64);
        let expected: Vec<_> = samples.iter().map(|s| (s.range, content(s))).collect();
        prop_assert_eq!(read_back(&bytes).unwrap(), expected);
        let reader = SegmentReader::open(&bytes[..]).unwrap();
        prop_assert_eq!(reader.digest(), summary.digest);
        let behind: Vec<_> = reader.entries_from(BlockIndex(from)).unwrap().map(|e| e.unwrap().range()).collect();
        let expected: Vec<_> = samples.iter().map(|s| s.range).filter(|r| r.end().0 > from).collect();
        prop_assert_eq!(behind, expected);
    }

    #[test]
    fn damage_is_always_named_and_never_believed(
        samples in samples(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
    ) {
        let (good, _) = write(&samples);
        let mut flipped = good.clone();
        flipped[at.index(good.len())] ^= 1 << bit;
        prop_assert!(read_back(&flipped).is_err());
        prop_assert!(read_back(&good[..cut.index(good.len())]).is_err());
        prop_assert!(read_back(&[&good[..], &[0]].concat()).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600), keep in 0usize..3) {
        let (good, _) = write(&[Sample { range: BlockRange::new(0, 1), flavour: 0 }]);
        if keep > 0 && bytes.len() >= HEADER_LEN { bytes[..HEADER_LEN].copy_from_slice(&good[..HEADER_LEN]); }
        if keep > 1 && bytes.len() >= HEADER_LEN + FOOTER_LEN {
            let at = bytes.len() - FOOTER_LEN;
            bytes[at..].copy_from_slice(&good[good.len() - FOOTER_LEN..]);
        }
        prop_assert!(read_back(&bytes).is_err());
    }
}

#[test]
fn every_bit_of_a_small_segment_matters() {
    let (good, _) = write(&[
        Sample { range: BlockRange::new(3, 1), flavour: 0 },
        Sample { range: BlockRange::new(256, 700), flavour: 2 },
    ]);
    for at in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(read_back(&bad).is_err(), "bit {at} of {}", good.len() * 8);
    }
}

#[test]
fn an_index_that_breaks_a_rule_is_refused_though_its_digest_is_right() {
    let entry = |start, count, kind, offset, length| IndexEntry {
        start: BlockIndex(start),
        count,
        kind,
        offset,
        length,
        digest: if kind == Kind::Zero { Digest::NONE } else { Digest([9; 32]) },
    };
    let full = BLOCK_SIZE as u32;
    let bad: [(&str, &[IndexEntry], usize); 8] = [
        ("an empty range", &[entry(0, 0, Kind::Zero, 0, 0)], 0),
        ("beyond any disk", &[entry(MAX_DISK_BLOCKS, 1, Kind::Zero, 0, 0)], 0),
        ("overlap", &[entry(0, 9, Kind::Zero, 0, 0), entry(8, 1, Kind::Zero, 0, 0)], 0),
        ("out of order", &[entry(8, 1, Kind::Zero, 0, 0), entry(0, 1, Kind::Zero, 0, 0)], 0),
        ("across a window", &[entry(255, 2, Kind::Stored, 128, 2 * full)], 8192),
        ("a bomb", &[entry(0, 1, Kind::Zstd, 128, full)], 4096),
        ("outside of the payload", &[entry(0, 1, Kind::Stored, 129, full)], 4096),
        ("a hole in the payload", &[entry(0, 1, Kind::Stored, 128, full)], 4097),
    ];
    for (name, entries, payload) in bad {
        let bytes = assemble(entries, payload);
        assert!(matches!(SegmentReader::open(&bytes[..]), Err(SegmentError::Malformed { .. })), "{name}");
    }
}

fn assemble(entries: &[IndexEntry], payload: usize) -> Vec<u8> {
    let mut bytes = header().to_bytes().to_vec();
    let index: Vec<u8> = entries.iter().flat_map(|e| e.to_bytes()).collect();
    let mut footer = layout::Footer {
        index_offset: (HEADER_LEN + payload) as u64,
        entries: entries.len() as u64,
        length: (HEADER_LEN + payload + index.len() + FOOTER_LEN) as u64,
        payload: Digest::of(&vec![0; payload]),
        digest: Digest::NONE,
    };
    footer.digest = Digest::of(&[&bytes[..], &index, &footer.covered()].concat());
    bytes.resize(HEADER_LEN + payload, 0);
    bytes.extend(index);
    bytes.extend(footer.to_bytes());
    bytes
}

#[test]
fn a_frame_that_decompresses_to_more_than_it_may_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let entry = IndexEntry {
        start: BlockIndex(0),
        count: 1,
        kind: Kind::Zstd,
        offset: 128,
        length: bomb.len() as u32,
        digest: Digest::of(&[0; BLOCK_SIZE]),
    };
    let err = ExtentDecoder::new().unwrap().decode(&entry, &bomb, &mut [1; BLOCK_SIZE]).unwrap_err();
    assert!(matches!(err, SegmentError::Extent { .. }), "{err}");
}

#[test]
fn data_that_does_not_compress_is_stored_as_it_is() {
    for (count, flavour, kind) in [(1, 1, Kind::Stored), (200, 1, Kind::Stored), (200, 0, Kind::Zstd)] {
        let sample = Sample { range: BlockRange::new(0, count), flavour };
        let extent = ExtentEncoder::new().unwrap().encode(sample.range, &content(&sample)).unwrap();
        assert_eq!(extent.kind, kind);
        assert!(extent.bytes.len() <= content(&sample).len());
    }
}
