//! An object store for a test, and one who looks into it below a prefix, in another way than what is tested.
//!
//! Deliberately not here: the servers (`object_stores`).
#![allow(clippy::unwrap_used, reason = "for tests, which fail by panicking")]

use mobility_recovery::{Objects, Remote, RemoteSettings};
use tokio::runtime::{Builder, Runtime};

use crate::object_stores::ObjectStoreServer;

/// A server that ends with this, and who looks into it.
#[derive(Debug)]
pub struct WatchedStore {
    /// The server.
    pub server: ObjectStoreServer,
    /// Who looks.
    pub remote: Remote,
    prefix: &'static str,
    _runtime: Runtime,
}

impl WatchedStore {
    /// Looks into what is below `prefix`.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(server: ObjectStoreServer, prefix: &'static str) -> WatchedStore {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let remote = Remote::open(&server.settings(prefix), runtime.handle().clone()).unwrap();
        WatchedStore { server, remote, prefix, _runtime: runtime }
    }

    /// What a client needs that looks there, too.
    #[must_use]
    pub fn settings(&self) -> RemoteSettings {
        self.server.settings(self.prefix)
    }

    /// What an object holds; nothing where there is none.
    ///
    /// # Panics
    /// When the store does not say.
    #[must_use]
    pub fn content(&self, key: &str) -> Option<Vec<u8>> {
        self.remote.size(key).unwrap()?;
        Some(self.remote.read(key, u64::MAX).unwrap())
    }
}
