//! Images for QEMU: qcow2, version 3, by `docs/interop/qcow2.txt` of QEMU.
//!
//! Our own, because a restore needs so little of the format: each cluster is written once, in order, at the file's end, and
//! all counts of references are 1. A general library (`imago`) opens files by name, which our files do not have yet, and keeps
//! caches and dirty tables for writes that never come. Deliberately not here: compression, snapshots, backing files,
//! encryption.

mod read;
mod write;

pub(super) use write::Qcow2;

/// A cluster has 64 KiB: QEMU's default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// How many clusters one table of the second level maps.
const ENTRIES: u64 = CLUSTER / 8;
/// How many clusters one block of counts counts, with 16 bits for each.
const COUNTED: u64 = CLUSTER / 2;
/// Says in an entry that the cluster is used once.
const USED_ONCE: u64 = 1 << 63;
/// The bits of an entry that are the offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The longest table of the first level that QEMU opens, in entries: 32 MiB.
const MOST_TABLES: u64 = (32 << 20) / 8;

/// What the beginning of the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    size: u64,
    tables: u32,
    tables_at: u64,
    counts_at: u64,
    counts_clusters: u32,
}

const MAGIC: &[u8; 8] = b"QFI\xfb\0\0\0\x03";
const HEADER: usize = 104;

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, MAGIC);
        put(20, &CLUSTER_BITS.to_be_bytes());
        put(24, &self.size.to_be_bytes());
        put(36, &self.tables.to_be_bytes());
        put(40, &self.tables_at.to_be_bytes());
        put(48, &self.counts_at.to_be_bytes());
        put(56, &self.counts_clusters.to_be_bytes());
        // Counts have 2^4 bits.
        put(96, &4u32.to_be_bytes());
        put(100, &(HEADER as u32).to_be_bytes());
        bytes
    }

    /// What a header of ours says; nothing where it is not one.
    fn decode(bytes: &[u8; HEADER]) -> Option<Header> {
        let long = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let short = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let header = Header {
            size: long(24)?,
            tables: short(36)?,
            tables_at: long(40)?,
            counts_at: long(48)?,
            counts_clusters: short(56)?,
        };
        (header.encode() == *bytes).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_nothing_else_is() {
        let header = Header {
            size: 5 << 40,
            tables: 10_240,
            tables_at: CLUSTER,
            counts_at: 3 * CLUSTER,
            counts_clusters: 1,
        };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        for at in [0, 7, 20, 23, 80, 99, 103] {
            let mut bytes = header.encode();
            bytes[at] ^= 1;
            assert_eq!(Header::decode(&bytes), None, "byte {at}");
        }
    }
}
