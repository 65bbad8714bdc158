//! The real programs over image files: nothing here needs root.
//!
//! Deliberately not here: devices, file systems and the tracker (`root/`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod planned;
mod refusals;
mod scan;
mod signals;
mod systemd;
