//! Disks, trackers of changed blocks, and direct reads.

pub mod boot;
pub mod direct;
pub mod disk;
pub mod ebpf;
pub mod freeze;
pub mod scan;
