//! A record's bytes. Every sector says which record it is of and where it belongs, and has a digest of its own: a power cut
//! may tear a record between sectors, and of a torn one each part has to be known.
//!
//! Deliberately not here: which parts may be there.

use super::plan::{CHAINS, mix};

/// What a disk writes as a whole.
pub(super) const SECTOR: usize = 512;
const MAGIC: [u8; 8] = *b"ordered\n";
const DIGEST: usize = SECTOR - 16;
const HEAD: usize = 48;

/// Who a record is, but for its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) seed: u64,
    pub(super) chain: u64,
    pub(super) disk: u64,
    pub(super) offset: u64,
    /// The record's bytes.
    pub(super) size: u64,
}

impl Owner {
    fn head(&self, sector: usize, n: u64) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let pair = |high: u64, low: u64| high << 32 | low;
        let place = pair(self.size, sector as u64);
        let fields = [self.seed, pair(self.chain, self.disk), self.offset, place, n];
        head[..8].copy_from_slice(&MAGIC);
        for (to, field) in head[8..].chunks_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        head
    }

    /// Makes record `n`, before which of each chain the steps up to `completed` had completed.
    pub(super) fn fill(&self, record: &mut [u8], n: u64, completed: &[u32]) {
        for (index, sector) in record.chunks_mut(SECTOR).enumerate() {
            sector[..HEAD].copy_from_slice(&self.head(index, n));
            let mut chance = mix(n ^ mix(self.offset + (index * SECTOR) as u64));
            for to in sector[HEAD..DIGEST].chunks_mut(8) {
                to.copy_from_slice(&chance.to_le_bytes());
                chance = chance.rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            }
            if index == 0 {
                for (to, step) in sector[HEAD..DIGEST].chunks_mut(4).zip(completed) {
                    to.copy_from_slice(&step.to_le_bytes());
                }
            }
            let digest = blake3::hash(&sector[..DIGEST]);
            sector[DIGEST..].copy_from_slice(&digest.as_bytes()[..SECTOR - DIGEST]);
        }
    }

    /// Reads a slot.
    pub(super) fn read(&self, slot: &[u8]) -> Result<Found, String> {
        let mut found = Found::default();
        for (index, sector) in slot.chunks(SECTOR).enumerate() {
            let n = self.number(index, sector).map_err(|what| format!("sector {index}: {what}"))?;
            if index == 0 && n != 0 {
                let step = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                found.completed = sector[HEAD..][..4 * CHAINS as usize].chunks(4).map(step).collect();
            }
            if !found.steps.contains(&n) {
                found.steps.push(n);
            }
        }
        Ok(found)
    }

    fn number(&self, index: usize, sector: &[u8]) -> Result<u64, String> {
        if sector.iter().all(|&byte| byte == 0) {
            return Ok(0);
        }
        if blake3::hash(&sector[..DIGEST]).as_bytes()[..SECTOR - DIGEST] != sector[DIGEST..] {
            return Err("bytes that nobody wrote".to_owned());
        }
        let n = u64::from_le_bytes(sector[HEAD - 8..HEAD].try_into().unwrap());
        if sector[..HEAD] != self.head(index, n) {
            return Err(format!("a record of another place: {:02x?}", &sector[..HEAD]));
        }
        Ok(n)
    }
}

/// What a slot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The steps whose records its sectors are of; 0 for zeros. One, unless the record is torn.
    pub(super) steps: Vec<u64>,
    /// What the record in the first sector says of each chain.
    pub(super) completed: Vec<u32>,
}
