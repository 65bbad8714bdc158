//! Recovery points on every kind of storage: a directory, an S3 server, Azure Blob Storage as Azurite imitates it, and mixes
//! of them. First what each storage must do by itself (`conformance`), then the whole way from cache storage to a restored
//! disk (`journey`), then what goes wrong on it (`trouble`).

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod conformance;
mod journey;
mod reaching;
mod support;
mod trouble;
mod wrapped;
