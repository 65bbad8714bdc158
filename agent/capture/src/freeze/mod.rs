//! Freezing the file systems of protected disks for the moment of a cut, so that nothing is written meanwhile, and
//! making sure that nothing stays frozen.
//!
//! A file system that is frozen stays so when the process that froze it dies, and its writers wait without end. So the
//! agent freezes nothing itself. A second, small process does, the *guard* ([`guard_process`]): it thaws when the
//! agent says so, when the agent is gone, and when the limit passes, whichever comes first. It is asked over a socket
//! ([`serve`]). Because it is the guard that freezes, it knows exactly which freezes are its own, and a freeze that
//! hangs on a hung disk hangs a thread of the guard and never the agent.
//!
//! - [`file_systems`]: what lies on the disks, in the order in which to freeze it.
//! - [`Freezer`], [`Frozen`]: the agent's side.
//! - [`thaw_leftovers`]: what is done at the agent's start about a freeze that outlived agent *and* guard.
//! - [`swap_ranges`]: what changes under any freeze.
//! - [`lock_memory`], [`raise_priority`]: what the agent needs so as not to wait for what it froze.
//!
//! Deliberately not here: the cut, and deciding whether to freeze at all.

mod error;
mod file_systems;
mod freezer;
mod guard;
mod guard_link;
mod ioctl;
mod layers;
mod leftovers;
mod opened;
mod steady;
mod swap;
mod wire;

pub use error::FreezeError;
pub use file_systems::{FileSystem, FileSystems, SkipReason, Skipped, file_systems};
pub use freezer::{Freezer, Frozen, GuardProgram, Held, Step};
pub use guard::{Protection, guard_process, serve};
pub use leftovers::{Leftover, LeftoverOutcome, thaw_leftovers};
pub use steady::{Priority, lock_memory, raise_priority};
pub use swap::{SwapRanges, swap_ranges};

/// The most file systems that are frozen together. A machine with more is cut without a freeze.
pub const MAX_FILE_SYSTEMS: usize = 64;
