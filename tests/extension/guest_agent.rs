//! The real code of Azure's guest agent drives the archive, and a real agent enrols with a real service.
//!
//! Only its command runner without systemd is covered: with systemd as the first process it wraps each command into a scope.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use mobility_tests::{
    binary::program, requirement::Requirement, scratch::eventually, service_process::ServiceProcess,
};
use serde_json::{Value, json};

use crate::rig::{CERTIFICATE, Machine, archive, repository};

/// How long the disk may take until all of it was sent.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where `packaging/install-guest-agent.sh` has put it.
pub(crate) fn guest_agent() -> Result<PathBuf, String> {
    let dir = repository().join("target/guest-agent/usr/lib/python3/dist-packages");
    match dir.join("azurelinuxagent").is_dir() {
        true => Ok(dir),
        false => Err("there is no guest agent (packaging/install-guest-agent.sh)".to_owned()),
    }
}

/// The guest agent at work, one step at a time.
struct Driver {
    child: Child,
    steps: Lines<BufReader<ChildStdout>>,
    go: ChildStdin,
}

impl Driver {
    fn start(machine: &Machine, plan: &Value) -> Driver {
        let path = machine.scratch.path("plan.json");
        fs::write(&path, plan.to_string()).unwrap();
        let python = Path::new("/usr/bin/python3");
        let mut command = Command::new(if python.exists() { python } else { Path::new("python3") });
        command.arg("-B").arg(repository().join("tests/extension/driver.py")).arg(path);
        command.envs(machine.own_variables()).env_remove("ConfigSequenceNumber");
        let errors = File::create(machine.scratch.path("driver.err")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let steps = BufReader::new(child.stdout.take().unwrap()).lines();
        Driver { go: child.stdin.take().unwrap(), child, steps }
    }

    /// What came of the next step, which must not have failed. The guest agent waits.
    #[track_caller]
    fn step(&mut self, machine: &Machine, name: &str) -> Value {
        let said = || {
            let files = ["driver.err", "waagent.log", "log/handler.log", "state/agent.log", "state/calls"];
            let read = |file: &&str| fs::read_to_string(machine.scratch.path(file)).unwrap_or_default();
            files.iter().map(read).collect::<Vec<_>>().join("\n----\n")
        };
        let line =
            self.steps.next().unwrap_or_else(|| panic!("it ended before '{name}':\n{}", said())).unwrap();
        let step: Value = serde_json::from_str(&line).unwrap_or_else(|err| panic!("{line}: {err}"));
        assert_eq!(step["step"], name);
        assert!(step["failed"].is_null(), "{step}\n{}", said());
        step
    }

    fn go_on(&mut self) {
        writeln!(self.go).unwrap();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends the agent that the stand-in for systemd has started, also when the test fails.
struct Ending<'a>(&'a Machine);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.0.scratch.path("state/pid")) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

/// Makes a machine whose agent is the real one, over an image file, when it is started.
fn machine() -> Machine {
    let mut machine = Machine::bare();
    let image = machine.scratch.path("disk.img");
    let content: Vec<u8> = (0..8 << 20).map(|at: u32| (at >> 9) as u8).collect();
    fs::write(&image, content).unwrap();
    let config = machine.scratch.path("config/etc/mobility-agent/config.d");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("50-test.toml"), "interval = '1s'\n[limits]\nretry-wait = '1s'\n").unwrap();
    let agent = program("mobility-agent").display().to_string();
    let run = format!(
        "{agent} run --state-dir {} --runtime-dir {} --config-root {} --disk {} --capture scan",
        machine.path("var/lib/mobility-agent").display(),
        machine.path("run/mobility-agent").display(),
        machine.scratch.path("config").display(),
        image.display()
    );
    machine.variables.push(("MOBILITY_TEST_AGENT".to_owned(), agent));
    machine.variables.push(("MOBILITY_TEST_RUN".to_owned(), run));
    machine
}

fn plan(machine: &Machine, dist: &Path, service: &ServiceProcess, token: &Value) -> Value {
    let path = |name: &str| machine.scratch.path(name).display().to_string();
    json!({
        "guest_agent": dist,
        "configuration": path("waagent.conf"),
        "lib": path("lib"),
        "log": path("log-of-extensions"),
        "own_log": path("waagent.log"),
        "archives": [
            archive(machine.scratch.dir(), "1.0.0.0", "0.1.0"),
            archive(machine.scratch.dir(), "1.1.0.0", "0.2.0"),
        ],
        "public": {"serviceUrl": service.address(), "caFingerprint": token["ca_fingerprint"]},
        "protected": CERTIFICATE.seal(&json!({"token": token["token"]}).to_string()),
        "thumbprint": CERTIFICATE.thumbprint,
        "wait": true,
    })
}

/// What the guest agent has read: the status of these settings, and the heartbeat.
#[track_caller]
fn is_well(step: &Value, sequence: u64) {
    let status = &step["status"];
    assert_eq!((&status["status"], &status["code"]), (&json!("success"), &json!(0)), "{step}");
    assert!(status["sequence"] == sequence && status["operation"] == "Enable", "{step}");
    assert!(status["message"].as_str().unwrap().starts_with("machine "), "{step}");
    assert_eq!(step["heartbeat"]["status"], "Ready", "{step}");
}

/// Runs what the timer runs, until all disks are protected. The machine's id.
fn until_protected(machine: &Machine, sequence: u32) -> String {
    eventually("a protected disk in the status", PATIENCE, || {
        machine.run("heartbeat", sequence);
        let (level, _, message) = machine.level(sequence);
        assert_eq!(level, "success", "{message}");
        let id = message.split([' ', ':']).nth(1).unwrap().to_owned();
        (machine.status(sequence)["substatus"][0]["status"] == "success").then_some(id)
    })
}

#[test]
fn the_guest_agents_own_code_installs_updates_and_removes_the_extension() {
    let Some(dist) = Requirement::GuestAgent.or_skip(guest_agent()) else { return };
    let mut machine = machine();
    let service = ServiceProcess::new(machine.scratch.path("service"));
    let token = service.admin(&["token", "create"]);
    let plan = plan(&machine, &dist, &service, &token);
    let mut driver = Driver::start(&machine, &plan);
    let state = machine.scratch.path("state");
    machine.back_to("1.0.0.0");
    let _ending = Ending(&machine);

    driver.step(&machine, "install");
    assert_eq!(machine.package().as_deref(), Some("install ok installed 0.1.0"));
    driver.go_on();
    is_well(&driver.step(&machine, "enable"), 0);
    let id = until_protected(&machine, 0);
    let pid = fs::read_to_string(state.join("pid")).unwrap();
    driver.go_on();
    is_well(&driver.step(&machine, "enable again"), 0);
    assert_eq!(fs::read_to_string(state.join("pid")).unwrap(), pid, "the agent was left alone");
    driver.go_on();
    driver.step(&machine, "update");
    assert_eq!(machine.package().as_deref(), Some("install ok installed 0.2.0"));
    driver.go_on();
    is_well(&driver.step(&machine, "enable after the update"), 1);
    is_the_same(&machine, &id);
    driver.go_on();
    driver.step(&machine, "disable");
    assert!(!state.join("pid").exists(), "the agent was ended");
    driver.go_on();
    driver.step(&machine, "uninstall");
    assert!(!machine.path("var/lib/mobility-agent").exists());
    assert!(machine.package().is_none_or(|shown| shown.contains("not-installed")));
    let listed = &service.admin(&["machine", "list"])["machines"];
    // It was one machine all the while, in one generation, and has taken its leave.
    assert!(listed.as_array().unwrap().len() == 1 && listed[0]["id"] == *id, "{listed}");
    assert!(listed[0]["generation"] == 1 && listed[0]["revoked"].is_string(), "{listed}");
    driver.go_on();
    driver.step(&machine, "remove");
    assert!(!machine.scratch.path("lib/MobilityAgent.MobilityAgentLinux-1.1.0.0").exists());
    nowhere(&machine, token["token"].as_str().unwrap());
}

/// The same machine as before, seen by the new version.
fn is_the_same(machine: &Machine, id: &str) {
    let base = machine.scratch.path("lib/MobilityAgent.MobilityAgentLinux-1.1.0.0");
    let status = fs::read_to_string(base.join("status/1.status")).unwrap();
    assert!(status.contains(id), "{status}");
    assert_eq!(fs::read_to_string(base.join("mrseq")).unwrap(), "1");
}

/// Neither the guest agent, which logs what handlers print, nor anything else has written the token down.
fn nowhere(machine: &Machine, token: &str) {
    let found = Command::new("grep").args(["-rlF", token]).arg(machine.scratch.dir()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}
