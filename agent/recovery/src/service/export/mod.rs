//! A point's disks as resources of HTTPS that are read in ranges, so that existing tools take it from there.
//!
//! An *export* is one recovery point and a secret, for a time. Whoever has the secret reads the point's disks: blocks are fetched
//! from target storage when they are asked for, each against its digest. `range` understands what is asked for, `disk` reads one
//! disk's windows, `trail` sees whether they are read in order, `shelf` keeps what was decoded and reads ahead, `answer` streams it; `offline`
//! serves one point by itself.
//! Deliberately not here: who may make an export (`admin`), any protocol for block devices (nbdkit has it), and what the
//! content means: no file system is ever looked at.

mod answer;
mod disk;
mod key;
mod offline;
mod range;
mod shelf;
mod trail;
mod view;

pub(crate) use answer::{Asked, answer, index};
pub(crate) use key::Key;
pub use offline::{Offline, offline};
pub(crate) use shelf::Shelf;
pub(crate) use view::{Kept, View};
