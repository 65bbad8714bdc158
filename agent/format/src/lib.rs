//! What the agent stores and what everybody else reads: the bytes of segments and recovery points, and the keys they
//! live under; and what agent and recovery service say to each other. `docs/FORMAT.md` and `docs/PROTOCOL.md` describe the
//! same for someone who writes a reader or a peer of their own.
//!
//! Pure: no clock, no sockets, and no files but the one a caller hands to [`segment::RangeRead`]. Deliberately not here:
//! where objects are kept, and who may write them.

mod block_digest;
mod block_set;
pub mod control;
pub mod envelope;
mod head;
mod id;
pub mod key;
pub mod manifest;
pub mod segment;
mod units;

pub use block_digest::BlockDigest;
pub use block_set::BlockSet;
pub use head::{Head, HeadDisk};
pub use id::{Digest, DiskId, MachineId, NotHex, PublicKey, SessionId, Signature};
pub use units::{
    BLOCK_SHIFT, BLOCK_SIZE, BlockIndex, BlockRange, ByteCount, Epoch, Generation, WINDOW_BLOCKS, WINDOW_SIZE,
};
