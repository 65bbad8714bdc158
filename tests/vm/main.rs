//! The agent in a virtual machine, where it is what it is made to be: a service of a real systemd, on the kernels of distributions, that
//! protects the disk it was booted from.
//!
//! Service and storage run on the host. A guest is slow here, all of it is emulated, so tests do much in one boot. Deliberately not here: what
//! can be shown on the host with loop devices (`root`), which is nearly everything about writes and points.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod database;
mod ends;
mod extension;
mod failover;
mod guest_disk;
mod installed;
mod kernels;
mod life;
mod machine;
mod missing;
mod qmp;
mod shell;
