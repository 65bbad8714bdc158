//! The one source of chance: a seed gives the same numbers on every machine and with every version of every library.
//!
//! Deliberately not here: content and schedules made of it, which every kind of test knows for itself.

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of `seed`. Those of neighbouring seeds have nothing in common.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.number();
        dice
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// One of `low ..= high`, each as likely.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of `low ..= high`, each order of magnitude as likely: most are small, some are large.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let bits = self.within(u64::from(low.max(1).ilog2()), u64::from(high.max(1).ilog2()));
        self.within(1 << bits, (2 << bits) - 1).clamp(low, high)
    }

    /// True so many times in a thousand.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// A place in something of `len` items, which must not be 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}
