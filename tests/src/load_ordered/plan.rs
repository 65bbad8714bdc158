//! Which step of which chain does what, where: all of it follows from a seed, so that the check needs no notes of it.

use crate::dice::Dice;

/// The most chains: a record has room for what so many had completed.
pub(super) const CHAINS: u64 = 64;
/// Two discards of a chain are so many steps apart at least, so that few steps can be hidden by later ones.
const DISCARDS_APART: u64 = 4;

/// The chains of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chains {
    /// What the order of slots follows from. Records carry it, so that none of another load is taken for one of this.
    pub seed: u64,
    /// How many chains there are: 1 to 64.
    pub chains: u64,
    /// How many disks they hop between.
    pub disks: u64,
    /// The bytes of a record, of the first chain, the second and so on, and again from the start; multiples of 4 KiB.
    pub records: Vec<u64>,
    /// How many slots each chain has on each disk. Few are rewritten over and over.
    pub slots: u64,
    /// Every so manieth step discards what its slot holds; 0 for none, else at least 4.
    pub discard_every: u64,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) disk: u64,
    /// Its place among the chain's slots on all disks.
    pub(super) slot: u64,
    /// Where that is on the disk.
    pub(super) offset: u64,
    pub(super) discard: bool,
}

impl Chains {
    /// Chains with records of 4 KiB that use `size` bytes of each of `disks` disks, and discard nothing.
    #[must_use]
    pub fn new(chains: u64, disks: u64, size: u64) -> Chains {
        let slots = size / 4096 / chains / disks;
        Chains { seed: 1, chains, disks, records: vec![4096], slots, discard_every: 0 }
    }

    /// How long each disk must be.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.disks * self.base(self.chains)
    }

    /// # Panics
    /// When a number is out of its limits.
    pub(super) fn check(&self) {
        assert!((1..=CHAINS).contains(&self.chains) && self.disks > 0 && self.slots > 0, "{self:?}");
        assert!(self.discard_every == 0 || self.discard_every >= DISCARDS_APART, "{self:?}");
        let whole = |&size: &u64| size > 0 && size % 4096 == 0;
        assert!(!self.records.is_empty() && self.records.iter().all(whole), "{self:?}");
    }

    /// The bytes of a record of this chain.
    pub(super) fn record(&self, chain: u64) -> u64 {
        self.records[(chain % self.records.len() as u64) as usize]
    }

    fn base(&self, chain: u64) -> u64 {
        (0..chain).map(|before| self.record(before) * self.slots).sum()
    }

    /// Which disk a slot is on, and where. On no two disks are slots at the same place, so that disks that are taken for
    /// one another do not look alike.
    pub(super) fn place(&self, chain: u64, slot: u64) -> (u64, u64) {
        let (disk, at) = (slot / self.slots, slot % self.slots);
        (disk, disk * self.base(self.chains) + self.base(chain) + at * self.record(chain))
    }

    /// What step `n` of a chain does; the first one is 1.
    pub(super) fn step(&self, chain: u64, n: u64) -> Step {
        let chance = mix(self.seed ^ mix(chain ^ mix(n)));
        let slot = (chain + n) % self.disks * self.slots + chance % self.slots;
        let (disk, offset) = self.place(chain, slot);
        let discard = self.discard_every != 0 && n.is_multiple_of(self.discard_every);
        Step { disk, slot, offset, discard }
    }
}

/// A number that looks like chance.
pub(super) fn mix(from: u64) -> u64 {
    Dice::new(from).number()
}
