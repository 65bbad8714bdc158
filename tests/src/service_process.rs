//! The real recovery service as a process, and machines enrolled with it.
//!
//! Everything it knows is below one directory of the test's, and it listens on a free port, of the loopback unless
//! another address is named. Deliberately not here: what is said to it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{agent_process::program, scratch::eventually};

/// How long it may take to end.
const END: Duration = Duration::from_secs(60);

/// A running service, or one that is to be started again.
#[derive(Debug)]
pub struct ServiceProcess {
    data: PathBuf,
    child: Option<Child>,
    host: String,
    port: u16,
    /// Whether its configuration says where machines reach it.
    is_named: bool,
    front: Option<String>,
    variables: Vec<(String, String)>,
    log: Option<PathBuf>,
}

impl ServiceProcess {
    /// Starts a service that has never run before, with its data in `data`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn new(data: PathBuf) -> ServiceProcess {
        ServiceProcess::configured(data, "")
    }

    /// The same with this configuration.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn configured(data: PathBuf, configuration: &str) -> ServiceProcess {
        ServiceProcess::at("127.0.0.1", data, configuration)
    }

    /// The same on another address of this machine; one of IPv6 stands in brackets.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn at(host: &str, data: PathBuf, configuration: &str) -> ServiceProcess {
        let mut service = ServiceProcess::nowhere(host, data);
        service.configure(configuration);
        service.start();
        // Once more, under the address that it is going to be known by.
        service.stop();
        service.start();
        service
    }

    /// One of several at the same work, at a port of its own; started, with a configuration that names the addresses of all.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn instance(data: PathBuf, port: u16, configuration: &str) -> ServiceProcess {
        let mut service = ServiceProcess::nowhere("127.0.0.1", data);
        (service.port, service.is_named) = (port, true);
        service.configure(configuration);
        service.start();
        service
    }

    fn nowhere(host: &str, data: PathBuf) -> ServiceProcess {
        let (host, variables) = (host.to_owned(), Vec::new());
        let (child, front, log) = (None, None, None);
        ServiceProcess { data, child, host, port: 0, is_named: false, front, variables, log }
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where both storages are: a vault for the offline commands.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.data.join("storage")
    }

    /// The address that machines know.
    #[must_use]
    pub fn address(&self) -> String {
        self.front.clone().unwrap_or_else(|| self.own_address())
    }

    /// The address at which it listens.
    #[must_use]
    pub fn own_address(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }

    /// Starts it anew, from now on known by the address of something that stands before it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn stand_behind(&mut self, front: &str) {
        self.stop();
        self.front = Some(front.to_owned());
        self.start();
    }

    /// Starts it anew with these environment variables, and those of an earlier call only as far as these do not name
    /// them.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn variables(&mut self, variables: &[(&str, &str)]) {
        self.stop();
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        self.variables.extend(variables.iter().map(owned));
        self.start();
    }

    /// Starts it anew, with what it logs added to a file.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn log_to(&mut self, path: PathBuf) {
        self.stop();
        self.log = Some(path);
        self.start();
    }

    /// The id of its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.data.with_extension("toml")
    }

    /// Writes a configuration for what is started from now on.
    ///
    /// # Panics
    /// When that fails.
    pub fn configure(&self, text: &str) {
        // The offline commands are given this file and nothing else.
        fs::write(self.config(), format!("data = '{}'\n{text}", self.data.display())).unwrap();
    }

    /// The command that starts it.
    #[must_use]
    pub fn serve(&self) -> Command {
        let mut command = Command::new(program("recovery-service"));
        command.arg("serve").arg("--data").arg(&self.data).arg("--config").arg(self.config());
        command.arg("--listen").arg(format!("{}:{}", self.host, self.port));
        command.envs(crate::appliance::variables());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if self.port != 0 && !self.is_named {
            command.arg("--address").arg(self.address());
        }
        command
    }

    /// Starts it, on the port that it had before.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self) {
        let mut command = self.serve();
        if let Some(log) = &self.log {
            command.stderr(OpenOptions::new().create(true).append(true).open(log).unwrap());
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the service ended at its start").unwrap();
        self.port = first.rsplit(':').next().unwrap().parse().unwrap();
        self.child = Some(child);
        std::thread::spawn(move || lines.for_each(drop));
    }

    /// Ends it as an operator does.
    ///
    /// # Panics
    /// When it does not end, or not well.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = eventually("the end of the service", END, || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Ends it as a power cut does.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it as its administrator; the answer.
    ///
    /// # Panics
    /// When it refuses.
    pub fn admin(&self, arguments: &[&str]) -> Value {
        self.try_admin(arguments).unwrap_or_else(|err| panic!("{arguments:?}: {err}"))
    }

    /// As [`ServiceProcess::admin`].
    ///
    /// # Errors
    /// What went wrong.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn try_admin(&self, arguments: &[&str]) -> Result<Value, String> {
        self.try_admin_with(&self.data, arguments)
    }

    /// As [`ServiceProcess::try_admin`], with the credential in another place.
    ///
    /// # Errors
    /// What went wrong.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn try_admin_with(&self, credential: &Path, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(program("recovery-service"));
        let output = command.args(arguments).arg("--json").arg("--service").arg(credential).output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// What it counts under this name for who watches it, if it does and says so in time.
    ///
    /// # Panics
    /// When nobody may ask it.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<u64> {
        let credential: Value =
            serde_json::from_slice(&fs::read(self.data.join("administrator.json")).unwrap()).unwrap();
        let text = |name: &str| credential[name].as_str().unwrap();
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::blocking::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(text("authority").as_bytes()).unwrap()])
            .no_proxy()
            .timeout(END)
            .build()
            .unwrap();
        let figures = client.get(format!("{}/metrics", self.own_address())).bearer_auth(text("secret"));
        let figures = figures.send().ok()?.error_for_status().unwrap().text().ok()?;
        figures.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Enrols this machine, with its state in `state`.
    ///
    /// # Panics
    /// When that fails.
    pub fn enrol(&self, state: &Path) {
        let output = self.enrolling(state).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The command that enrols this machine, with its state in `state` and a token of its own.
    ///
    /// # Panics
    /// When no token can be had.
    #[must_use]
    pub fn enrolling(&self, state: &Path) -> Command {
        let made = self.admin(&["token", "create"]);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let token = state.with_extension("token");
        fs::write(&token, text("token")).unwrap();
        let mut command = Command::new(program("mobility-agent"));
        command.args(["enroll", "--service", &self.address(), "--ca-fingerprint", &text("ca_fingerprint")]);
        command.arg("--token-file").arg(token).arg("--state-dir").arg(state);
        command
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
