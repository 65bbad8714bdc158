//! Writers that leave a verifiable order across several disks, and the check that a copy of the disks shows one instant.
//!
//! A *chain* is a writer that does one step after the other: step `n + 1` is issued, to another disk, only after step `n`
//! is durable. A step overwrites a slot of the chain with a record, or discards what a slot holds. A record says who it
//! is, where it belongs, and which steps of all chains had completed before it was issued.
//!
//! # Why the check is right
//!
//! Slots belong to one chain each, so what one instant leaves of a chain is known but for one step: steps `1..=F` are
//! there, each slot holds what the last of them that went to it left, and step `F + 1` may be in flight, of which each
//! sector of its slot may show what was there before or what it writes. So the check asks of every chain for an `F` that
//! explains *every* slot, byte for byte; a lost, a torn, a misplaced or a smeared record leaves none. Then two demands tie the
//! chains together:
//!
//! - *Causes*: if a record is there that says that step `m` of a chain had completed before it was issued, then that
//!   chain's `F` is at least `m`. This needs no clock.
//! - *Times*: `F` counts all steps whose completion was seen before `t0`, and none that was issued after `t0`.
//!
//! A file system shows its files so only after its journal was replayed; the check is then given the files. What was
//! issued before `t0` and completed after it may be there or not, as after a power cut.
//!
//! Deliberately not here: load that says nothing about order (`load`), and making the copies.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

mod history;
mod plan;
mod record;
#[cfg(test)]
mod tests;
mod writers;

pub use history::History;
pub use plan::Chains;
pub use writers::{Ordered, Target};
