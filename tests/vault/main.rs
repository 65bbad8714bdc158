//! What the recovery library promises, on vaults filled from model disks.
//!
//! Deliberately not here: the agent.
#![allow(clippy::unwrap_used, reason = "for tests, which fail by panicking")]

mod cli;
mod crash;
mod damage;
mod device;
mod intake;
mod model;
mod prune;
mod support;
