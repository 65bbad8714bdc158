//! A service of its own for each test: its data in a temporary directory, its port a free one of the loopback.
//!
//! Deliberately not here: what is said to it.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    time::Duration,
};

use mobility_tests::{fleet::Place, scratch, service_process::ServiceProcess};
use reqwest::{Certificate, Identity, blocking::ClientBuilder, tls::Version};
use serde_json::Value;
use tempfile::TempDir;

use crate::{clerk::Clerk, client::Client, database::Database};

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A service of the test's own.
pub(crate) struct Rig {
    process: ServiceProcess,
    clerk: Clerk,
    pub(crate) address: String,
    pub(crate) database: Database,
    /// The part of the configuration that stays.
    configuration: String,
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
        let dir = TempDir::new().unwrap();
        let database = Database::fresh(&dir.path().join("data"));
        let configuration = format!("{}{}", database.configuration(), configuration(dir.path()));
        let process = ServiceProcess::configured(dir.path().join("data"), &configuration);
        Rig::around(process, database, configuration, dir)
    }

    /// A service that runs, over a database, with what it was configured by; and the directory of all that.
    pub(crate) fn around(
        process: ServiceProcess,
        database: Database,
        configuration: String,
        dir: TempDir,
    ) -> Rig {
        rustls::crypto::ring::default_provider().install_default().ok();
        let address = process.address();
        let credential = credential(&process);
        let client = Client(builder(&credential).build().unwrap());
        let clerk = Clerk::new(dir.path(), address.clone(), client, &credential["secret"]);
        Rig { address, process, clerk, database, configuration, _dir: dir }
    }

    /// Adds to the configuration of what is started from now on.
    pub(crate) fn configure(&self, text: &str) {
        self.process.configure(&format!("{}{text}", self.configuration));
    }

    /// Asks as its administrator; the answer. What is said on the way is held to the document.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Value {
        self.try_admin(arguments).unwrap_or_else(|err| panic!("{arguments:?}: {err}"))
    }

    /// As [`Rig::admin`], and what went wrong.
    pub(crate) fn try_admin(&self, arguments: &[&str]) -> Result<Value, String> {
        let answer = self.process.try_admin_with(self.clerk.credential(), arguments);
        self.clerk.is_content();
        answer
    }

    /// A token for so many machines.
    pub(crate) fn token(&self, uses: u64) -> String {
        let made = self.admin(&["token", "create", "--uses", &uses.to_string()]);
        made["token"].as_str().unwrap().to_owned()
    }

    /// The administrator's secret.
    pub(crate) fn secret(&self) -> String {
        credential(&self.process)["secret"].as_str().unwrap().to_owned()
    }

    /// Where it is, for a fleet.
    pub(crate) fn place(&self) -> Place {
        let authority = credential(&self.process)["authority"].as_str().unwrap().to_owned();
        Place { addresses: vec![self.address.clone()], authority }
    }

    /// A client that knows the service, and has a certificate where one is given.
    pub(crate) fn client(&self, identity: Option<&str>) -> Client {
        let builder = self.builder();
        Client(match identity {
            Some(pem) => builder.identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap(),
            None => builder.build().unwrap(),
        })
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        builder(&credential(&self.process))
    }
}

/// The administrator's credential, as the service has written it.
fn credential(process: &ServiceProcess) -> Value {
    let credential = std::fs::read(process.data().join("administrator.json")).unwrap();
    serde_json::from_slice(&credential).unwrap()
}

/// A client that knows the service.
fn builder(credential: &Value) -> ClientBuilder {
    let authority = credential["authority"].as_str().unwrap();
    reqwest::blocking::Client::builder()
        .tls_certs_only([Certificate::from_pem(authority.as_bytes()).unwrap()])
        .tls_version_min(Version::TLS_1_3)
        .no_proxy()
        .timeout(PATIENCE)
}

/// Looks again and again until there is something to see.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    scratch::eventually(what, PATIENCE, look)
}
