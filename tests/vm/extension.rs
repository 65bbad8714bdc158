//! A machine that the VM extension sets up and takes down, under the real systemd and with the real package.
//!
//! The guest agent's part is played by the test: it unpacks the archive, writes the settings, and calls the handler's commands. Deliberately not
//! here: the guest agent's own code and settings that are wrong (`extension`).

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use mobility_tests::{
    binary::program,
    scratch::{Scratch, eventually, run},
    service_process::ServiceProcess,
};
use serde_json::{Value, json};

use crate::{
    ends,
    guest_disk::GuestDisk,
    installed::{Installed, SOON, can_package, package, project, protected, service},
    machine::{Machine, base},
};

/// Where the guest agent keeps what it has of all extensions, and of this one.
const AGENT: &str = "/var/lib/waagent";
const BASE: &str = "/var/lib/waagent/MobilityAgent.MobilityAgentLinux-1.0.0.0";
/// What the contract grants to the longest command.
const LONGEST: Duration = Duration::from_secs(300);

#[test]
fn root_vm_the_extension_installs_enrols_watches_and_leaves_nothing() {
    let (Some(base), Some(())) = (base(), can_package()) else { return };
    let begin = Instant::now();
    let stage = |name: &str| eprintln!("{:4} s  {name}", begin.elapsed().as_secs());
    let scratch = Scratch::new();
    let service = service(&scratch);
    let disk = GuestDisk::new(&base, scratch.path("root.img"));
    let token = put_extension(&disk, &scratch, &service);
    let machine = Machine::boot(&scratch.path("vm"), &disk.image);
    let mut guest = Installed { machine, service, disk, scratch };
    stage("booted");
    handle(&mut guest.machine, "install");
    guest.machine.run("systemctl is-enabled mobility-agent && ! systemctl is-active mobility-agent");
    handle(&mut guest.machine, "enable");
    let (level, message) = status(&mut guest.machine);
    assert_eq!(level, "success", "{message}");
    guest.machine.run("systemctl is-active mobility-agent mobility-agent-extension.timer");
    assert_eq!(machines(&guest.service).len(), 1);
    stage("installed and enabled");

    guest.wait_for("protection", protected);
    // Nobody but systemd's timer calls the handler now.
    eventually("the timer's word of it", SOON, || {
        let (level, message) = status(&mut guest.machine);
        (level == "success" && message.contains(" 1 of 1 disks protected, newest point ")).then_some(())
    });
    let heartbeat = guest.machine.run(&format!("cat {BASE}/heartbeat.log"));
    assert!(heartbeat.contains(r#""status":"Ready""#), "{heartbeat}");
    let told = format!("grep -rlF -D skip -- '{token}' {AGENT} /var/log /var/lib/mobility-agent /etc /run");
    assert_eq!(guest.machine.ask(&told).printed, "", "the token is in a file");
    stage("root disk protected, and reported");

    ends::an_agent_that_ends_in_a_freeze_leaves_nothing_frozen(&mut guest);
    stage("killed in freezes");
    ends::an_agent_that_hangs_is_started_again(&mut guest);
    stage("stopped by SIGSTOP");
    leave(&mut guest);
    stage("disabled and uninstalled");
}

/// Puts the archive into a disk as the guest agent unpacks it, with settings for this service. The token in them.
fn put_extension(disk: &GuestDisk, scratch: &Scratch, service: &ServiceProcess) -> String {
    let archive = scratch.path("extension.zip").display().to_string();
    let [handler, package] = [program("mobility-extension"), package(&scratch.path("packages"), &[])];
    let [handler, package] = [&handler, &package].map(|path| path.to_str().unwrap());
    let build = project().join("packaging/vm-extension/build.sh").display().to_string();
    run(&build, &["--version", "1.0.0.0", "--output", &archive, "--handler", handler, package]);
    let opened = disk.open(scratch.path("guest"));
    let [top, base] = [AGENT, BASE].map(|path| opened.point().join(path.trim_start_matches('/')));
    run("python3", &["-m", "zipfile", "-e", &archive, base.to_str().unwrap()]);
    for program in fs::read_dir(base.join("bin")).unwrap() {
        fs::set_permissions(program.unwrap().path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for dir in ["status", "config"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    let environment = json!([{ "name": "MobilityAgent.MobilityAgentLinux", "version": 1.0, "handlerEnvironment": {
        "logFolder": "/var/log/azure/MobilityAgent.MobilityAgentLinux",
        "configFolder": format!("{BASE}/config"),
        "statusFolder": format!("{BASE}/status"),
        "heartbeatFile": format!("{BASE}/heartbeat.log"),
    }}]);
    fs::write(base.join("HandlerEnvironment.json"), environment.to_string()).unwrap();
    let made = service.admin(&["token", "create"]);
    let token = made["token"].as_str().unwrap().to_owned();
    let (thumbprint, sealed) = seal(&top, scratch, &json!({ "token": token }));
    let settings = json!({ "runtimeSettings": [{ "handlerSettings": {
        "publicSettings": { "serviceUrl": service.address(), "caFingerprint": made["ca_fingerprint"] },
        "protectedSettings": sealed,
        "protectedSettingsCertThumbprint": thumbprint,
    }}]});
    fs::write(base.join("config/0.settings"), settings.to_string()).unwrap();
    token
}

/// Encrypts as the platform does, for a certificate whose key it leaves in `top`. Its thumbprint, and what was encrypted.
fn seal(top: &Path, scratch: &Scratch, protected: &Value) -> (String, String) {
    let [key, certificate, plain] = ["key", "certificate", "plain"].map(|name| scratch.path(name));
    fs::write(&plain, protected.to_string()).unwrap();
    let [key_name, name, plain] = [&key, &certificate, &plain].map(|path| path.to_str().unwrap());
    let mut request =
        vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=guest"];
    request.extend(["-keyout", key_name, "-out", name]);
    run("openssl", &request);
    let said = run("openssl", &["x509", "-in", name, "-noout", "-fingerprint", "-sha1"]);
    let thumbprint = said.split('=').nth(1).unwrap().trim().replace(':', "");
    for (from, suffix) in [(&certificate, "crt"), (&key, "prv")] {
        fs::copy(from, top.join(format!("{thumbprint}.{suffix}"))).unwrap();
    }
    let sealed =
        format!("openssl cms -encrypt -binary -outform DER -aes-256-cbc -in '{plain}' '{name}' | base64 -w0");
    (thumbprint, run("sh", &["-c", &sealed]))
}

/// Calls a command of the handler, which has to succeed.
#[track_caller]
fn handle(machine: &mut Machine, command: &str) {
    let version = "AZURE_GUEST_AGENT_EXTENSION_VERSION=1.0.0.0";
    machine.run_for(&format!("cd {BASE} && ConfigSequenceNumber=0 {version} bin/handler {command}"), LONGEST);
}

/// The level and the message of the status that the platform shows.
fn status(machine: &mut Machine) -> (String, String) {
    let text = machine.run(&format!("cat {BASE}/status/0.status"));
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let status = &said[0]["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&status["status"]), text(&status["formattedMessage"]["message"]))
}

fn machines(service: &ServiceProcess) -> Vec<Value> {
    service.admin(&["machine", "list"])["machines"].as_array().unwrap().clone()
}

fn leave(guest: &mut Installed) {
    handle(&mut guest.machine, "disable");
    let disabled = "! systemctl is-active mobility-agent && ! systemctl is-enabled mobility-agent \
                    && ! systemctl is-active mobility-agent-extension.timer";
    guest.machine.run(disabled);
    // Changes go on being tracked.
    guest.machine.run("[ -n \"$(ls /sys/fs/bpf/mobility-agent)\" ]");
    handle(&mut guest.machine, "uninstall");
    let left = "! dpkg-query -s mobility-agent && ! [ -e /usr/bin/mobility-agent ] && ! [ -e /var/lib/mobility-agent ] \
                && ! [ -e /etc/mobility-agent ] && ! [ -e /run/mobility-agent ] && ! [ -e /sys/fs/bpf/mobility-agent ] \
                && ! ls /etc/systemd/system/mobility-agent* && ! pidof mobility-agent";
    guest.machine.run(left);
    let machines = machines(&guest.service);
    assert!(machines.len() == 1 && !machines[0]["revoked"].is_null(), "{machines:?}");
}
