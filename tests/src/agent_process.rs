//! The real agent as a process, and its recovery points through the real `recovery-service`.
//!
//! Tests wait for what `status --json` says, never for time. Deliberately not here: disks and what is written to them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use crate::binary::program;
use crate::{
    scratch::{Scratch, compare, eventually, long},
    service_process::ServiceProcess,
};

/// How long anything may take that ought to happen soon, on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(90);

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its vault, or where the service that it is enrolled with has its storages.
    pub vault: PathBuf,
    /// The configuration of the service that it is enrolled with, which says where its points are.
    pub service: Option<PathBuf>,
    /// Where its identity is, if it is enrolled with a service.
    pub state: Option<PathBuf>,
    /// What it protects.
    pub disks: Vec<PathBuf>,
    /// Where it keeps its state.
    pub runtime: PathBuf,
    /// Where its configuration is.
    pub config_root: PathBuf,
    /// Its log.
    pub log: PathBuf,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Setup {
    /// An agent with everything below `scratch`, a point every second (two in a long run), and short waits after failures.
    #[must_use]
    pub fn new(scratch: &Scratch, disks: &[&Path]) -> Setup {
        let setup = Setup {
            vault: scratch.path("vault"),
            service: None,
            state: None,
            disks: disks.iter().map(|&disk| disk.to_owned()).collect(),
            runtime: scratch.path("run"),
            config_root: scratch.path("root"),
            log: scratch.path("agent.log"),
            flags: Vec::new(),
            variables: Vec::new(),
        };
        let interval = if long() { "2s" } else { "1s" };
        setup.configure(&format!("interval = '{interval}'\n[limits]\nretry-wait = '1s'\n"));
        setup
    }

    /// The same for an agent that is enrolled with `service`.
    ///
    /// # Panics
    /// When it cannot be enrolled.
    #[must_use]
    pub fn enrolled(scratch: &Scratch, disks: &[&Path], service: &ServiceProcess) -> Setup {
        let state = scratch.path("state");
        service.enrol(&state);
        let service_config = Some(service.config());
        let setup = Setup::new(scratch, disks);
        Setup { vault: service.storage(), service: service_config, state: Some(state), ..setup }
    }

    /// Adds flags of `run`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Setup {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Setup {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the operator's fragment of configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, text: &str) {
        let dir = self.config_root.join("etc/mobility-agent/config.d");
        fs::create_dir_all(&dir).unwrap();
        let unfinished = self.config_root.join("unfinished");
        fs::write(&unfinished, text).unwrap();
        fs::rename(unfinished, dir.join("50-test.toml")).unwrap();
    }

    /// The command line.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("mobility-agent"));
        match &self.state {
            None => command.args(["run", "--debug", "--vault"]).arg(&self.vault),
            Some(state) => command.args(["run", "--state-dir"]).arg(state),
        };
        command.arg("--runtime-dir").arg(&self.runtime).arg("--config-root").arg(&self.config_root);
        self.disks.iter().for_each(|disk| {
            command.arg("--disk").arg(disk);
        });
        command.args(&self.flags);
        command.env_remove("NOTIFY_SOCKET").env_remove("RUNTIME_DIRECTORY");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(&self) -> Agent {
        self.start_as(self.command(), self.open_log())
    }

    /// Opens its log, to append to it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).unwrap()
    }

    /// Starts it by another command line, which must lead to the same vault and runtime directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_as(&self, mut command: Command, log: File) -> Agent {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Agent { child, setup: self.clone() }
    }

    /// Runs it for a second with a last point, to its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn last_run(&self) {
        let mut agent = self.clone().flags(&["--for", "1s"]).start();
        let (status, _) = agent.ended(SOON + SOON);
        assert!(status.success(), "{status}\n{}", self.log_tail());
    }

    /// What `status --json` says of the agent, if one is running.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let mut command = Command::new(program("mobility-agent"));
        command.args(["status", "--json", "--runtime-dir"]).arg(&self.runtime);
        let output = command.output().unwrap();
        if !output.status.success() {
            return None;
        }
        let agents: Value = serde_json::from_slice(&output.stdout).unwrap();
        agents["agents"].get(0).cloned()
    }

    /// Asks the agent for a point with `mobility-agent point` and waits for the answer: its exit code, and what it said.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    pub fn ask_for_point(&self, flags: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(program("mobility-agent"));
        let output =
            command.arg("point").args(flags).arg("--runtime-dir").arg(&self.runtime).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        (output.status.code(), said.concat())
    }

    /// The end of the log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn recovery(&self, command: &str, arguments: &[&str]) -> Output {
        let mut recovery = Command::new(program("recovery-service"));
        match &self.service {
            Some(config) => recovery.arg(command).arg("--config").arg(config),
            None => recovery.arg(command).arg("--vault").arg(&self.vault),
        };
        recovery.args(arguments).output().unwrap()
    }

    /// All recovery points, oldest first.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let output = self.recovery("points", &["--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        listed["points"].as_array().unwrap().iter().map(Point::of).collect()
    }

    /// Restores a point into a new directory. Returns the images, in the order of the disks.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn restore(&self, point: &Point, dir: &Path) -> Vec<PathBuf> {
        let output = self.recovery("restore", &["--point", &point.id, "--output", dir.to_str().unwrap()]);
        assert!(output.status.success(), "{}: {}", point.id, String::from_utf8_lossy(&output.stderr));
        let image = |disk: &PathBuf| {
            let name = disk.file_name().unwrap().to_str().unwrap();
            dir.join(format!("{}.img", name.strip_suffix(".img").unwrap_or(name)))
        };
        self.disks.iter().map(image).collect()
    }

    /// Demands that the newest point is crash-consistent and equals these files, byte for byte, and that the whole vault
    /// is intact.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn newest_point_equals(&self, scratch: &Scratch, files: &[&Path]) {
        // By epoch: the machine's clock may have been wrong.
        let newest = self.points().into_iter().max_by_key(|point| point.listed["epoch"].as_u64());
        let newest = newest.expect("there are points");
        assert_eq!(newest.consistency, "crash", "{newest:?}\n{}", self.log_tail());
        let dir = scratch.path("newest");
        let images = self.restore(&newest, &dir);
        for (image, file) in images.iter().zip(files) {
            let difference = compare(image, file);
            assert!(difference.is_ok(), "{newest:?}: {difference:?}\n{}", self.log_tail());
        }
        fs::remove_dir_all(dir).unwrap();
        let verified = self.recovery("verify", &[]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// A recovery point as `recovery-service points --json` lists it.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its id.
    pub id: String,
    /// The instant that it shows.
    pub time: Timestamp,
    /// How consistent it is.
    pub consistency: String,
    /// Everything else.
    pub listed: Value,
}

impl Point {
    /// One of that list.
    ///
    /// # Panics
    /// When it is damaged.
    #[must_use]
    pub fn of(listed: &Value) -> Point {
        assert!(listed["damage"].is_null(), "{listed}");
        Point {
            id: listed["id"].as_str().unwrap().to_owned(),
            time: listed["time"].as_str().unwrap().parse().unwrap(),
            consistency: listed["consistency"].as_str().unwrap().to_owned(),
            listed: listed.clone(),
        }
    }

    /// Whether it is crash-consistent.
    #[must_use]
    pub fn is_crash(&self) -> bool {
        self.consistency == "crash"
    }

    /// Whether it shows one instant, however that was reached.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.consistency != "fuzzy"
    }

    /// Something that is said about its cut.
    #[must_use]
    pub fn cut(&self, what: &str) -> &Value {
        &self.listed["cut"][what]
    }
}

/// A running agent. It is killed when the test ends before it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    setup: Setup,
}

impl Agent {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What `status --json` says of this very process.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        self.setup.status().filter(|status| status["pid"] == self.pid())
    }

    /// Waits until `status --json` shows what is waited for.
    ///
    /// # Panics
    /// When it does not within [`SOON`], or the agent ends.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, shown: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| shown(status)) {
                return status.clone();
            }
            let ended = self.child.try_wait().unwrap();
            let late = Instant::now() > end;
            if late || ended.is_some() {
                let tail = self.setup.log_tail();
                panic!("waited for: {what}; ended: {ended:?}\n{}\n{tail}", status.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until all disks are protected and there is a point.
    ///
    /// # Panics
    /// As [`Agent::wait_for`].
    #[track_caller]
    pub fn wait_until_protected(&mut self) -> Value {
        self.wait_for("all disks protected, and a point", |status| {
            protected(status) && !status["last_point"].is_null()
        })
    }

    /// Waits for `count` more points that were begun after now.
    ///
    /// # Panics
    /// As [`Agent::wait_for`].
    #[track_caller]
    pub fn wait_for_points(&mut self, count: u64) -> Value {
        let epoch = |status: &Value| status["last_point"]["epoch"].as_u64().unwrap_or(0);
        // The one at hand may have been begun before.
        let now = self.wait_for("a state", |_| true);
        let wanted = epoch(&now).max(now["epoch"].as_u64().unwrap_or(0)) + count;
        self.wait_for(&format!("the point of epoch {wanted}"), |status| epoch(status) >= wanted)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Kills it, at whatever it is doing.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and demands that it does so, successfully, within ten seconds.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn terminate(mut self) -> Duration {
        self.signal(Signal::TERM);
        let (status, time) = self.ended(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{}", self.setup.log_tail());
        time
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// After `limit`.
    #[track_caller]
    pub fn ended(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        let log = self.setup.clone();
        let child = &mut self.child;
        let ended = |tail: &str| format!("the agent ends\n{tail}");
        let status = eventually(&ended(&log.log_tail()), limit, || child.try_wait().unwrap());
        (status, begin.elapsed())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether all disks of a status are protected.
#[must_use]
pub fn protected(status: &Value) -> bool {
    let disks = status["disks"].as_array().unwrap();
    !disks.is_empty() && disks.iter().all(|disk| disk["state"] == "protected")
}

/// Runs an agent that is expected to refuse. Returns its exit code and what it said.
///
/// # Panics
/// When it does not end soon.
#[must_use]
#[track_caller]
pub fn refusal(mut command: Command, scratch: &Scratch) -> (i32, String) {
    let said = scratch.path("refusal.log");
    let log = File::create(&said).unwrap();
    let mut child =
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} does not refuse: {}", fs::read_to_string(&said).unwrap());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    (status.code().unwrap_or(-1), fs::read_to_string(&said).unwrap())
}
