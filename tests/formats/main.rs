//! Restored disks in every format, in files, on devices and in object storage.
//!
//! QEMU's own tools judge what was written (`layouts`, `long`); what is damaged between writing and reading back is found
//! (`proof`); what is refused, full, cancelled or killed leaves nothing (`trouble`); page blobs go through Azurite
//! (`page_blob`), objects in parts through it and an S3 server (`object`). Deliberately not here: where the content comes from (`vault`, `stores`).

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod layouts;
mod long;
mod object;
mod page_blob;
mod proof;
mod support;
mod trouble;
