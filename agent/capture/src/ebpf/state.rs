//! The record pinned beside the bitmaps: what they are of, and which counts were dealt with.
//!
//! Its layout outlives versions of the agent (an upgraded agent takes over the bitmaps of the old one, and a later one
//! will save them over a reboot), so it has a magic, a version, and fields at fixed places, little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `mobtrack` |
//! | 8 | 4 | version of this record and of the bitmaps' layout, 2; in 1 nothing followed the sequence number |
//! | 12 | 4 | 1 once programs, maps and pins are complete |
//! | 16 | 16 | the kernel's boot id |
//! | 32 | 16 | disk id |
//! | 48 | 4 + 4 | major, minor |
//! | 56 | 8 | size in bytes |
//! | 64 | 4 x 8 | counts dealt with: issue misses, completion misses, unranged, out of range |
//! | 96 | 4 | not verified since: bit 0 missed at issue, bit 1 a write without a range |
//! | 100 | 8 | the kernel's sequence number of the disk, 0 where it has none |
//! | 108 | 8 | when the tracker was started, in milliseconds since boot, while it is *unsettled*; else 0 |
//! | 116 | 140 | zero |
//!
//! Unsettled is a tracker from its start until no write can be in flight that was given to the device before, unseen.

use mobility_format::{ByteCount, DiskId};

use super::counters::Counters;

/// Bytes of the record; the BPF object declares the same.
pub(super) const STATE_BYTES: usize = 256;

const MAGIC: &[u8; 8] = b"mobtrack";
const VERSION: u32 = 2;
/// It did not say whether the tracker is settled.
const WITHOUT_UNSETTLED: u32 = 1;

/// The decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) complete: bool,
    pub(super) boot: [u8; 16],
    pub(super) disk: DiskId,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) size: ByteCount,
    pub(super) sequence: Option<u64>,
    /// Counters up to here were dealt with. Its cost and its skipped runs are not kept.
    pub(super) seen: Counters,
    pub(super) issue_missed: bool,
    pub(super) unranged: bool,
    /// When the tracker was started, in milliseconds since boot and not 0, for as long as it is unsettled.
    pub(super) unsettled: Option<u64>,
}

impl State {
    pub(super) fn encode(&self) -> [u8; STATE_BYTES] {
        let mut out = [0; STATE_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&u32::from(self.complete).to_le_bytes());
        put(&self.boot);
        put(&self.disk.0);
        put(&self.major.to_le_bytes());
        put(&self.minor.to_le_bytes());
        put(&self.size.0.to_le_bytes());
        let seen = &self.seen;
        for count in [seen.issue_misses, seen.completion_misses, seen.unranged, seen.out_of_range] {
            put(&count.to_le_bytes());
        }
        put(&(u32::from(self.issue_missed) | u32::from(self.unranged) << 1).to_le_bytes());
        put(&self.sequence.unwrap_or(0).to_le_bytes());
        put(&self.unsettled.unwrap_or(0).to_le_bytes());
        out
    }

    /// `None` where the record is not of a version that is known here.
    pub(super) fn decode(record: &[u8; STATE_BYTES]) -> Option<State> {
        let mut rest = &record[..];
        if take(&mut rest)? != *MAGIC {
            return None;
        }
        let version = u32::from_le_bytes(take(&mut rest)?);
        if version != VERSION && version != WITHOUT_UNSETTLED {
            return None;
        }
        let mut state = State {
            complete: u32::from_le_bytes(take(&mut rest)?) == 1,
            boot: take(&mut rest)?,
            disk: DiskId(take(&mut rest)?),
            major: u32::from_le_bytes(take(&mut rest)?),
            minor: u32::from_le_bytes(take(&mut rest)?),
            size: ByteCount(u64::from_le_bytes(take(&mut rest)?)),
            sequence: None,
            seen: Counters::default(),
            issue_missed: false,
            unranged: false,
            unsettled: None,
        };
        let mut count = || take(&mut rest).map(u64::from_le_bytes);
        state.seen.issue_misses = count()?;
        state.seen.completion_misses = count()?;
        state.seen.unranged = count()?;
        state.seen.out_of_range = count()?;
        let flags = u32::from_le_bytes(take(&mut rest)?);
        (state.issue_missed, state.unranged) = (flags & 1 != 0, flags & 2 != 0);
        state.sequence = Some(u64::from_le_bytes(take(&mut rest)?)).filter(|sequence| *sequence != 0);
        let unsettled = Some(u64::from_le_bytes(take(&mut rest)?)).filter(|since| *since != 0);
        // Where it is not known whether anything is in flight unseen, something is, until the next drain.
        state.unsettled = if version == WITHOUT_UNSETTLED { Some(1) } else { unsettled };
        Some(state)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        let seen = Counters {
            issue_misses: 1,
            completion_misses: 2,
            unranged: 4,
            out_of_range: 5,
            ..Counters::default()
        };
        State {
            complete: true,
            boot: [7; 16],
            disk: DiskId([9; 16]),
            major: 7,
            minor: 3,
            size: ByteCount(4097),
            sequence: Some(11),
            seen,
            issue_missed: false,
            unranged: true,
            unsettled: Some(1234),
        }
    }

    #[test]
    fn the_record_round_trips_and_a_foreign_one_is_refused() {
        let state = sample();
        let record = state.encode();
        assert_eq!(State::decode(&record), Some(state));
        assert_eq!((&record[48..52], record[96]), (&[7, 0, 0, 0][..], 2), "places are part of the format");
        assert_eq!(record[108..112], 1234_u32.to_le_bytes(), "places are part of the format");
        let settled = State { unsettled: None, ..state };
        assert_eq!(State::decode(&settled.encode()), Some(settled));
        for (at, flipped) in [(0, 1), (8, 1), (8, 2), (9, 1)] {
            let mut damaged = record;
            damaged[at] ^= flipped;
            assert_eq!(State::decode(&damaged), None);
        }
        assert_eq!(State::decode(&[0; STATE_BYTES]), None);
    }

    #[test]
    fn a_record_of_the_first_version_is_taken_for_that_of_an_unsettled_tracker() {
        let mut first = State { unsettled: None, ..sample() }.encode();
        first[8] = 1;
        assert_eq!(State::decode(&first), Some(State { unsettled: Some(1), ..sample() }));
    }
}
