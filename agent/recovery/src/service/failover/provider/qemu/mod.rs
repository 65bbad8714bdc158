//! Machines that QEMU runs on the host of the service's instance.
//!
//! A machine is a directory with its images, what QEMU said, its console and the sockets to steer it. QEMU runs on its own: it
//! outlives the instance that started it. Its network is QEMU's own: it reaches what the host reaches, or nothing at all, and
//! nothing reaches it. Deliberately not here: the command line (`command`) and QEMU's monitor (`monitor`).

mod command;
mod monitor;

use std::{
    fs::{self, File, OpenOptions},
    io,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    Disk, Failure, Outcome, Provider, Seen, Spec,
    host::{Acceleration, Host, tail},
    identity,
    images::failed,
};
use crate::Destination;

/// What the machine was made as.
const SPEC: &str = "machine.json";
/// What QEMU said.
const LOG: &str = "qemu.log";
/// The socket of the machine's serial console.
const TERMINAL: &str = "console";
/// The number of QEMU's process.
const PID: &str = "qemu.pid";
/// How long QEMU may take to end.
const END: Duration = Duration::from_secs(20);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// A host that runs QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    host: Host,
}

impl Qemu {
    pub(crate) fn new(host: Host) -> Qemu {
        Qemu { host }
    }

    /// The process that runs the machine, if one does.
    fn process(&self, failover: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.host.file(failover, PID)).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        // Its number may have become another process's.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let name = command::process_name(failover);
        line.split(|&byte| byte == 0).any(|word| word == name.as_bytes()).then_some(pid)
    }

    fn wait_for_end(&self, failover: &str) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < END {
            if self.process(failover).is_none() {
                return true;
            }
            thread::sleep(LOOK);
        }
        false
    }

    fn spec(&self, failover: &str) -> Outcome<Spec> {
        let path = self.host.file(failover, SPEC);
        let text = fs::read(&path).map_err(|err| failed("read", &path, &err))?;
        let unread = |err: serde_json::Error| failed("read", &path, &io::Error::other(err));
        serde_json::from_slice(&text).map_err(unread)
    }
}

impl Provider for Qemu {
    fn check(&self, spec: &Spec) -> Outcome<String> {
        let version = Command::new(command::QEMU).arg("--version").stderr(Stdio::null()).output();
        let version = version.map_err(|err| {
            Failure::new(
                format!("{} cannot be started: {err}", command::QEMU),
                "install QEMU on this host, and resume",
            )
        })?;
        if self.host.acceleration == Acceleration::Kvm
            && let Err(err) = OpenOptions::new().read(true).write(true).open("/dev/kvm")
        {
            let hint =
                "let the service's user use /dev/kvm (group kvm), or set acceleration = 'tcg' for the place";
            return Err(Failure::new(format!("/dev/kvm cannot be used: {err}"), hint));
        }
        command::firmware(spec)?;
        let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
        Ok(format!("{version}; {}", self.host.images.check(spec)?))
    }

    fn image(&self, spec: &Spec, disk: &Disk) -> Outcome<Destination> {
        self.host.images.image(spec, disk)
    }

    fn cards(&self, spec: &Spec) -> Option<Vec<String>> {
        Some(identity::addresses(spec))
    }

    fn make(&self, spec: &Spec) -> Outcome<String> {
        self.host.images.are_there(spec)?;
        let directory = self.host.images.make_directory(&spec.failover)?;
        let path = directory.join(SPEC);
        let text = serde_json::to_vec_pretty(spec).map_err(|err| Failure::new(err.to_string(), ""))?;
        fs::write(&path, text).map_err(|err| failed("write", &path, &err))?;
        if let Some(firmware) = command::firmware(spec)? {
            firmware.make_variables(&directory)?;
        }
        let network = if spec.isolated { "a network of its own" } else { "the host's network" };
        let (memory, processors) = (self.host.memory_of(spec), self.host.processors_of(spec));
        Ok(format!("{} disks, {memory} MiB, {processors} processors, on {network}", spec.disks.len()))
    }

    fn start(&self, failover: &str) -> Outcome<String> {
        if let Some(pid) = self.process(failover) {
            return Ok(format!("QEMU runs as process {pid} already"));
        }
        let (spec, directory) = (self.spec(failover)?, self.host.images.of(failover));
        let log = self.host.file(failover, LOG);
        let said = File::create(&log).map_err(|err| failed("write", &log, &err))?;
        let mut command = command::line(&self.host, &spec, &directory)?;
        command.current_dir(&directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let status = command.status().map_err(|err| failed("start QEMU in", &directory, &err))?;
        match self.process(failover) {
            Some(pid) if status.success() => Ok(format!("QEMU runs as process {pid}")),
            _ => {
                let problem = format!("QEMU did not start: {}", tail(&log).unwrap_or_default().trim());
                Err(Failure::new(problem, "mend what it says, and resume"))
            }
        }
    }

    fn look(&self, failover: &str) -> Outcome<Seen> {
        // First: what it says before its end was said while it was on.
        let is_on = self.process(failover).is_some();
        self.host.look(failover, is_on)
    }

    fn boot_limit(&self) -> Duration {
        self.host.boot_limit
    }

    fn stop(&self, failover: &str) -> Outcome<String> {
        let Some(pid) = self.process(failover) else { return Ok("it was not on".to_owned()) };
        if monitor::quit(&self.host.images.of(failover)).is_ok() && self.wait_for_end(failover) {
            return Ok("it is off".to_owned());
        }
        // Gone meanwhile is as good.
        kill_process(pid, Signal::KILL).ok();
        match self.wait_for_end(failover) {
            true => Ok("it did not hear, and was killed".to_owned()),
            false => Err(Failure::new(
                format!("QEMU does not end (process {pid})"),
                "end that process, and resume",
            )),
        }
    }

    fn remove(&self, failover: &str) -> Outcome<String> {
        self.host.images.remove(failover)
    }
}
