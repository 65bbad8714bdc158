//! A service of its own for each test: its data in a temporary directory, its port a free one of the loopback.
//!
//! Deliberately not here: what is said to it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

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
    format!("database = '{server}/{name}'")
}

/// A running service.
pub(crate) struct Rig {
    dir: TempDir,
    child: Option<Child>,
    pub(crate) address: String,
    port: u16,
}

/// Where the program is.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| mobility_tests::binary::binary("mobility-recovery", "recovery-service"))
}

impl Rig {
    /// Starts a service that has never run before.
    pub(crate) fn new() -> Rig {
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut rig = Rig { dir: TempDir::new().unwrap(), child: None, address: String::new(), port: 0 };
        rig.configure("");
        rig.start();
        rig
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A configuration file for what is started from now on.
    pub(crate) fn configure(&self, text: &str) {
        let path = self.dir.path().join("service.toml");
        let database = match std::fs::read_to_string(&path) {
            Ok(before) => before.lines().next().unwrap_or_default().to_owned(),
            Err(_) => std::env::var(POSTGRESQL).map_or(String::new(), |server| fresh_database(&server)),
        };
        std::fs::write(path, format!("{database}\n{text}")).unwrap();
    }

    /// The command that starts it.
    pub(crate) fn serve(&self) -> Command {
        let mut command = Command::new(program());
        command.arg("serve").arg("--data").arg(self.data());
        command.arg("--config").arg(self.dir.path().join("service.toml"));
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        if self.port != 0 {
            command.arg("--address").arg(format!("https://127.0.0.1:{}", self.port));
        }
        command
    }

    /// Starts it, on the port that it had before.
    pub(crate) fn start(&mut self) {
        let mut command = self.serve();
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the service did not start").unwrap();
        let address = first.strip_prefix("listening on ").unwrap();
        let first_start = self.port == 0;
        self.port = address.rsplit(':').next().unwrap().parse().unwrap();
        self.address = format!("https://127.0.0.1:{}", self.port);
        self.child = Some(child);
        std::thread::spawn(move || lines.for_each(drop));
        if first_start {
            // Once more, under the address that it is going to be known by.
            self.stop();
            self.start();
        }
    }

    /// Ends it as an operator does; whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let since = Instant::now();
        loop {
            match child.try_wait().unwrap() {
                Some(status) => return status.success(),
                None if since.elapsed() > PATIENCE => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return false;
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it as its administrator; the answer.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Value {
        self.try_admin(arguments).unwrap_or_else(|err| panic!("{arguments:?}: {err}"))
    }

    /// As [`Rig::admin`]; what went wrong, where it did.
    pub(crate) fn try_admin(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(program());
        command.args(arguments).arg("--json").arg("--service").arg(self.data());
        let output = command.output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
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

impl Drop for Rig {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Looks again and again until there is something to see.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
