//! The footer of a fixed VHD, by Microsoft's Virtual Hard Disk Image Format Specification, version 1.0.
//!
//! Azure takes a VHD whose content is a whole number of MiB. The same disk at the same point always gives the same footer.
//! Deliberately not here: VHDs that grow, and VHDX, which Azure does not take.

use jiff::Timestamp;
use mobility_format::{ByteCount, Digest, WINDOW_SIZE};

/// The footer's length.
pub(super) const FOOTER: usize = 512;
/// What times are counted from: 2000-01-01.
const EPOCH: i64 = 946_684_800;
/// The largest that Azure makes a disk of: 32 TiB with the footer. The format's own limit is the number of bytes in 64 bits.
pub(super) const LARGEST: u64 = (32 << 40) - FOOTER as u64;

/// The size with zeros up to a whole MiB.
pub(super) fn rounded(size: ByteCount) -> ByteCount {
    ByteCount(size.0.div_ceil(WINDOW_SIZE as u64).max(1) * WINDOW_SIZE as u64)
}

/// The footer of a disk of `size` as of `time`. `identity` is what tells it from other images.
pub(super) fn footer(size: ByteCount, time: Timestamp, identity: &[u8]) -> [u8; FOOTER] {
    let size = rounded(size).0;
    let seconds = u32::try_from(time.as_second() - EPOCH).unwrap_or(0);
    let (cylinders, heads, sectors) = geometry(size / 512);
    let mut footer = [0; FOOTER];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        footer[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(b"conectix");
    // No features, but for a bit that is always set; the format's version; no header, as the disk does not grow.
    put(&2u32.to_be_bytes());
    put(&0x0001_0000u32.to_be_bytes());
    put(&u64::MAX.to_be_bytes());
    put(&seconds.to_be_bytes());
    // Readers take the size from the geometry, and cut it, unless they know the program that made it: this is Hyper-V's name.
    put(b"win ");
    put(&0x000A_0000u32.to_be_bytes());
    put(b"Wi2k");
    put(&size.to_be_bytes());
    put(&size.to_be_bytes());
    put(&cylinders.to_be_bytes());
    put(&[heads, sectors]);
    // Fixed.
    put(&2u32.to_be_bytes());
    put(&[0; 4]);
    put(&Digest::of(identity).0[..16]);
    let sum = footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

/// Cylinders, heads and sectors, by the specification's appendix.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65_535 * 16 * 255);
    if total > 65_535 * 16 * 63 {
        return ((total / 255 / 16) as u16, 16, 255);
    }
    let (mut per_track, mut tracks) = (17, total / 17);
    let mut heads = tracks.div_ceil(1024).max(4);
    for (next, most) in [(31, 16), (63, 16)] {
        if tracks >= heads * 1024 || heads > 16 {
            (per_track, heads) = (next, most);
            tracks = total / next;
        }
    }
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_a_whole_number_of_mib_and_at_least_one() {
        let mib = |count: u64| ByteCount(count << 20);
        for (size, expected) in [(0, 1), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (3 << 40, 3 << 20)] {
            assert_eq!(rounded(ByteCount(size)), mib(expected));
        }
    }

    #[test]
    fn geometries_are_those_of_other_programs() {
        // By `qemu-img create -f vpc -o subformat=fixed`, which takes the smallest geometry that holds the size.
        for (mib, expected) in [(64u64, (963, 8, 17)), (1024, (2080, 16, 63)), (1 << 20, (65_535, 16, 255))] {
            assert_eq!(geometry(mib << 11), expected, "{mib} MiB");
        }
    }

    #[test]
    fn its_checksum_is_right() {
        let footer = footer(ByteCount(5 << 20), "2026-11-24T00:00:00Z".parse().unwrap(), b"x");
        let sum = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let others = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
        assert_eq!(!others.map(|(_, byte)| u32::from(*byte)).sum::<u32>(), sum);
        assert_eq!(&footer[..8], b"conectix");
        assert_eq!(footer[48..56], (5u64 << 20).to_be_bytes());
    }
}
