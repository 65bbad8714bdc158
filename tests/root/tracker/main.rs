//! The tracker in a real kernel, on loop devices: whatever is written, however it gets to the disk, is found.
//!
//! The oracle is the disk's content before and after. On a machine that cannot track, or without root, these tests say so
//! and do not run; with `MOBILITY_REQUIRE_ROOT=1` they fail instead.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod cost;
mod load;
mod misses;
mod paths;
mod pins;
mod resize;
mod storm;
mod support;
mod unsettled;
