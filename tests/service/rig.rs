//! A service of its own for each test: its data in a temporary directory, its port a free one of the loopback.
//!
//! Deliberately not here: what is said to it.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mobility_tests::{scratch, service_process::ServiceProcess};
use reqwest::{
    Certificate, Identity,
    blocking::{Client, ClientBuilder},
    tls::Version,
};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The address of a PostgreSQL server, without a database, where the tests are to use one instead of SQLite.
const POSTGRESQL: &str = "MOBILITY_TEST_POSTGRESQL";

/// Makes a database of its own for a test; the line of the configuration that names it.
fn fresh_database(server: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = format!("test_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let create = format!("CREATE DATABASE {name}");
    let made =
        Command::new("psql").args([&format!("{server}/postgres"), "-q", "-c", &create]).status().unwrap();
    assert!(made.success());
    format!("database = '{server}/{name}'\n")
}

/// A service of the test's own.
pub(crate) struct Rig {
    process: ServiceProcess,
    pub(crate) address: String,
    /// The part of the configuration that stays.
    database: String,
    _dir: TempDir,
}

impl Deref for Rig {
    type Target = ServiceProcess;

    fn deref(&self) -> &ServiceProcess {
        &self.process
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut ServiceProcess {
        &mut self.process
    }
}

impl Rig {
    /// Starts a service that has never run before.
    pub(crate) fn new() -> Rig {
        Rig::with(|_| String::new())
    }

    /// The same, with what is made of a directory for files as its configuration.
    pub(crate) fn with(configuration: impl Fn(&Path) -> String) -> Rig {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = TempDir::new().unwrap();
        let database = std::env::var(POSTGRESQL).map_or(String::new(), |server| fresh_database(&server));
        let database = format!("{database}{}", configuration(dir.path()));
        let process = ServiceProcess::configured(dir.path().join("data"), &database);
        Rig { address: process.address(), process, database, _dir: dir }
    }

    /// Adds to the configuration of what is started from now on.
    pub(crate) fn configure(&self, text: &str) {
        self.process.configure(&format!("{}{text}", self.database));
    }

    /// A token for so many machines.
    pub(crate) fn token(&self, uses: u64) -> String {
        let made = self.admin(&["token", "create", "--uses", &uses.to_string()]);
        made["token"].as_str().unwrap().to_owned()
    }

    /// The certificate of the service's authority.
    pub(crate) fn authority(&self) -> Certificate {
        let credential = std::fs::read(self.data().join("administrator.json")).unwrap();
        let credential: Value = serde_json::from_slice(&credential).unwrap();
        Certificate::from_pem(credential["authority"].as_str().unwrap().as_bytes()).unwrap()
    }

    /// A client that knows the service, and has a certificate where one is given.
    pub(crate) fn client(&self, identity: Option<&str>) -> Client {
        let builder = self.builder();
        match identity {
            Some(pem) => builder.identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap(),
            None => builder.build().unwrap(),
        }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder()
            .tls_certs_only([self.authority()])
            .tls_version_min(Version::TLS_1_3)
            .no_proxy()
            .timeout(PATIENCE)
    }
}

/// Looks again and again until there is something to see.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    scratch::eventually(what, PATIENCE, look)
}
