//! The loads: from idle to as much as goes, from 1 to 64 writers, from 4 KiB to 1 MiB, few slots and many.
//!
//! `share` is how many of a load's points must be crash-consistent at least, so that the test is not passed by points of
//! which nothing is claimed. It is far below what is usual, for CI's machines are busy with other things.

use mobility_tests::load_ordered::Chains;

const KIB: u64 = 1 << 10;

/// What a disk is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// As it is.
    Raw,
    /// With this file system, for a file that is written past the page cache.
    Direct(&'static str),
    /// With this file system, for a file that is written through the page cache and synced.
    Buffered(&'static str),
}

/// A load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) disks: &'static [Use],
    pub(crate) chains: u64,
    pub(crate) records: &'static [u64],
    pub(crate) slots: u64,
    pub(crate) discard_every: u64,
    /// Steps each second, of all chains together; nothing for as many as go.
    pub(crate) per_second: Option<u32>,
    /// The least share of points that are crash-consistent.
    pub(crate) share: f64,
}

impl Load {
    /// Its chains, for a seed.
    pub(crate) fn chains(&self, seed: u64) -> Chains {
        Chains {
            seed,
            chains: self.chains,
            disks: self.disks.len() as u64,
            records: self.records.to_vec(),
            slots: self.slots,
            discard_every: self.discard_every,
        }
    }
}

const RAW: &[Use] = &[Use::Raw; 3];

/// Three raw disks; what every load below starts from.
pub(crate) const IDLE: Load = Load {
    name: "idle, 4 writers, 50/s",
    disks: RAW,
    chains: 4,
    records: &[4 * KIB],
    slots: 64,
    discard_every: 11,
    per_second: Some(50),
    share: 0.5,
};

/// Loads on raw disks.
pub(crate) fn raw() -> Vec<Load> {
    vec![
        IDLE,
        Load {
            name: "16 writers of 4 to 64 KiB, 500/s, cold",
            chains: 16,
            records: &[4 * KIB, 16 * KIB, 4 * KIB, 64 * KIB],
            slots: 24,
            per_second: Some(500),
            ..IDLE
        },
        Load {
            name: "32 writers, 2000/s, cold",
            chains: 32,
            slots: 96,
            discard_every: 199,
            per_second: Some(2000),
            share: 0.3,
            ..IDLE
        },
        Load {
            name: "8 writers, 1000/s, hot",
            chains: 8,
            slots: 1,
            discard_every: 101,
            per_second: Some(1000),
            share: 0.1,
            ..IDLE
        },
        Load {
            name: "8 writers of 4 KiB to 1 MiB, 60/s",
            chains: 8,
            records: &[4 * KIB, 256 * KIB, 64 * KIB, 1024 * KIB],
            slots: 2,
            per_second: Some(60),
            share: 0.3,
            ..IDLE
        },
        Load {
            name: "1 writer, as much as goes",
            chains: 1,
            discard_every: 499,
            per_second: None,
            share: 0.0,
            ..IDLE
        },
        Load {
            name: "64 writers, as much as goes, cold",
            chains: 64,
            slots: 32,
            discard_every: 997,
            per_second: None,
            share: 0.0,
            ..IDLE
        },
        Load {
            name: "64 writers of 4 to 32 KiB, as much as goes, hot",
            chains: 64,
            records: &[4 * KIB, 32 * KIB],
            slots: 1,
            discard_every: 997,
            per_second: None,
            share: 0.0,
            ..IDLE
        },
    ]
}

const MIXED: &[Use] =
    &[Use::Direct("ext4"), Use::Raw, Use::Buffered("xfs"), Use::Direct("btrfs"), Use::Buffered("ext4")];

/// Loads whose chains go through files on three file systems and a raw disk.
pub(crate) fn on_files() -> Vec<Load> {
    let calm = Load {
        name: "five disks with and without file systems, 20 writers, 60/s",
        disks: MIXED,
        chains: 20,
        records: &[4 * KIB, 64 * KIB],
        slots: 8,
        discard_every: 13,
        per_second: Some(60),
        share: 0.2,
    };
    vec![
        Load {
            name: "the same, 32 writers of 4 KiB to 1 MiB, as much as goes",
            chains: 32,
            records: &[4 * KIB, 4 * KIB, 16 * KIB, 1024 * KIB],
            slots: 2,
            per_second: None,
            share: 0.0,
            ..calm.clone()
        },
        calm,
    ]
}
