//! A crash at a chosen step, for tests: after so many steps every further one fails, as if the process had ended there.
//!
//! In the library and not behind a test-only switch, because the tests of other crates crash vaults too. It costs one
//! look at an empty option per file operation. Deliberately not here: loss of what was not synced, which needs a real
//! disk.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// When to crash. Hand it to [`Vault::with_faults`](crate::Vault::with_faults).
#[derive(Debug)]
pub struct FaultPlan {
    allowed: u64,
    taken: AtomicU64,
}

impl FaultPlan {
    /// Lets `steps` file operations pass and fails every later one.
    #[must_use]
    pub fn crash_after(steps: u64) -> Arc<FaultPlan> {
        Arc::new(FaultPlan { allowed: steps, taken: AtomicU64::new(0) })
    }

    /// Whether the crash has happened.
    #[must_use]
    pub fn has_struck(&self) -> bool {
        self.taken.load(Ordering::SeqCst) > self.allowed
    }

    pub(crate) fn step(&self) -> io::Result<()> {
        if self.taken.fetch_add(1, Ordering::SeqCst) < self.allowed {
            return Ok(());
        }
        Err(io::Error::other("a test lets the process crash here"))
    }
}
