//! Exported points, read by the tools that people have: qemu-img, nbdkit, nbdcopy, nbdfuse, and the kernel's file systems.
//!
//! Deliberately not here: ranges, keys and limits of the resource itself (`tests/service`).

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod boot;
mod mount;
mod rig;
mod tools;
