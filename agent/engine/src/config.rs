//! The limits within which the engine decides. Every queue, wait and retry of the agent has its bound here.
//!
//! Deliberately not here: where the values come from, and whether they make sense together (the daemon's settings).

use std::time::Duration;

use mobility_format::ByteCount;

/// How a cut that stops nobody and one that holds writes are chosen between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutPolicy {
    /// Never hold a write; a point that cannot be had so is fuzzy.
    Optimistic,
    /// Freeze the file systems for every point.
    Freeze,
    /// Freeze only where the last cuts show that it is needed.
    #[default]
    Auto,
}

/// What the engine may use, and how often it shall make points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From one recovery point to the next.
    pub interval: Duration,
    /// Whether replication rests: no point is made, but one that is asked for. Tracking goes on.
    pub paused: bool,
    /// How much may be left to read when a cut is tried: it is read into memory, and the longer that takes the likelier
    /// is a write in between.
    pub cut_bytes: ByteCount,
    /// How little should be left for a cut: while more is, and each copy pass leaves less than the one before, passes
    /// go on. What a cut has to read is what it can conflict on.
    pub cut_aim: ByteCount,
    /// How much an epoch may hold before it is committed as a checkpoint. A kill costs at most so much work again.
    pub checkpoint_bytes: ByteCount,
    /// How many copy passes are made in the hope that what is left gets small enough for a cut.
    pub passes: u32,
    /// How many cuts are tried before the point is called fuzzy.
    pub tries: u32,
    /// How long to wait between two tries, before jitter.
    pub try_delay: Duration,
    /// Whether and when file systems are frozen for a cut.
    pub cut_policy: CutPolicy,
    /// How long a frozen cut may hold writes, from the first file system's freeze to the last one's thaw.
    pub freeze_limit: Duration,
    /// How much may be left to read when file systems are frozen. It is more than `cut_bytes`, for no write comes in
    /// between; it is read into memory, and must be read within `freeze_limit`.
    pub freeze_bytes: ByteCount,
    /// From one application-consistent point to the next; without it, they are made only when asked for.
    pub application_interval: Option<Duration>,
    /// How many uploads run at once.
    pub uploads: usize,
    /// How many segments may wait in memory, being uploaded included.
    pub segments: usize,
    /// The first wait after a failure; it doubles with each further one.
    pub retry_first: Duration,
    /// The longest wait after a failure.
    pub retry_last: Duration,
    /// The most bytes to upload each second.
    pub upload_rate: Option<ByteCount>,
    /// How long one round of the audit over a disk shall take.
    pub audit_round: Duration,
    /// The shortest time between two reads of the audit, so that a large disk does not make it a load.
    pub audit_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            interval: Duration::from_secs(15),
            paused: false,
            cut_bytes: ByteCount(16 << 20),
            cut_aim: ByteCount(512 << 10),
            checkpoint_bytes: ByteCount(4 << 30),
            passes: 8,
            tries: 5,
            try_delay: Duration::from_millis(50),
            cut_policy: CutPolicy::Auto,
            freeze_limit: Duration::from_millis(300),
            freeze_bytes: ByteCount(128 << 20),
            application_interval: None,
            uploads: 2,
            segments: 4,
            retry_first: Duration::from_millis(250),
            retry_last: Duration::from_secs(60),
            upload_rate: None,
            audit_round: Duration::from_secs(3 * 24 * 3600),
            audit_pause: Duration::from_millis(100),
        }
    }
}
