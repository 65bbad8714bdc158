//! A machine with the extension on it, as far as the handler can tell.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use mobility_tests::{
    binary::program,
    scratch::{Scratch, run},
};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

/// What the handler is called, as a guest agent names its directory.
const NAME: &str = "MobilityAgent.MobilityAgentLinux";
/// How long a command may take that hangs at nothing, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(60);

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A package of the agent in this version, in `dir`. It holds a script that starts whichever agent the test names.
pub(crate) fn package(dir: &Path, version: &str) -> PathBuf {
    let content = dir.join(format!("content-{version}"));
    fs::create_dir_all(content.join("DEBIAN")).unwrap();
    fs::create_dir_all(content.join("usr/bin")).unwrap();
    let control = format!(
        "Package: mobility-agent\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
         Description: stands in for the agent's package\n"
    );
    fs::write(content.join("DEBIAN/control"), control).unwrap();
    let script = content.join("usr/bin/mobility-agent");
    fs::write(&script, "#!/bin/sh\nexec \"$MOBILITY_TEST_AGENT\" \"$@\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let package = dir.join(format!("mobility-agent_{version}_all.deb"));
    let arguments =
        ["--root-owner-group", "-Znone", "--build", content.to_str().unwrap(), package.to_str().unwrap()];
    run("dpkg-deb", &arguments);
    package
}

/// The archive of the extension in this version, with the agent in `agent`.
pub(crate) fn archive(dir: &Path, version: &str, agent: &str) -> PathBuf {
    let output = dir.join(format!("{version}.zip"));
    let package = package(dir, agent);
    let handler = program("mobility-extension");
    let arguments = [
        "--version",
        version,
        "--output",
        output.to_str().unwrap(),
        "--handler",
        handler.to_str().unwrap(),
        package.to_str().unwrap(),
    ];
    run(repository().join("packaging/vm-extension/build.sh").to_str().unwrap(), &arguments);
    output
}

/// What is made once for all tests and runs: a directory below cargo's for such things, filled by `make`. Of two that make it at
/// once, one is thrown away.
fn kept(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !place.exists() {
        let made = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        make(made.path());
        if fs::rename(made.path(), &place).is_err() {
            assert!(place.exists(), "{}", place.display());
        }
    }
    place
}

/// An unpacked archive: version 1.0.0.0, or 1.1.0.0 with a later agent.
fn unpacked(version: &str) -> PathBuf {
    static INPUT: LazyLock<blake3::Hash> = LazyLock::new(|| {
        let extension = repository().join("packaging/vm-extension");
        let files =
            ["build.sh", "package/HandlerManifest.json", "package/manifest.xml", "package/bin/handler"];
        let mut all = fs::read(program("mobility-extension")).unwrap();
        files.iter().for_each(|file| all.extend(fs::read(extension.join(file)).unwrap()));
        blake3::hash(&all)
    });
    let agent = if version == "1.0.0.0" { "0.1.0" } else { "0.2.0" };
    let name = format!("extension-{version}-{}", &INPUT.to_hex()[..16]);
    kept(&name, |dir| {
        let archive = archive(dir, version, agent);
        let unpacked = dir.join("unpacked");
        run("python3", &["-m", "zipfile", "-e", archive.to_str().unwrap(), unpacked.to_str().unwrap()]);
        // As the guest agent does.
        for file in ["bin/handler".to_owned(), format!("bin/mobility-extension-{}", std::env::consts::ARCH)] {
            fs::set_permissions(unpacked.join(file), fs::Permissions::from_mode(0o755)).unwrap();
        }
    })
    .join("unpacked")
}

/// A certificate and its key, and the name that they have.
pub(crate) struct Certificate {
    dir: PathBuf,
    pub(crate) thumbprint: String,
}

pub(crate) static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| Certificate::of("machine"));

impl Certificate {
    pub(crate) fn of(name: &str) -> Certificate {
        let dir = kept(&format!("extension-certificate-{name}"), |dir| {
            let [key, certificate] = ["key", "certificate"].map(|name| dir.join(name).display().to_string());
            let subject = format!("/CN={name}");
            let mut arguments = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10000"];
            arguments.extend(["-subj", &subject, "-keyout", &key, "-out", &certificate]);
            run("openssl", &arguments);
        });
        let certificate = dir.join("certificate").display().to_string();
        let said = run("openssl", &["x509", "-in", &certificate, "-noout", "-fingerprint", "-sha1"]);
        let thumbprint = said.split('=').nth(1).unwrap().replace(':', "");
        Certificate { dir, thumbprint }
    }

    /// Puts both where the guest agent has them.
    pub(crate) fn place(&self, dir: &Path) {
        for (name, suffix) in [("certificate", "crt"), ("key", "prv")] {
            fs::copy(self.dir.join(name), dir.join(format!("{}.{suffix}", self.thumbprint))).unwrap();
        }
    }

    /// Encrypts as the platform does.
    pub(crate) fn seal(&self, text: &str) -> String {
        let mut plain = NamedTempFile::new().unwrap();
        plain.write_all(text.as_bytes()).unwrap();
        let (plain, certificate) = (plain.path().display(), self.dir.join("certificate"));
        let certificate = certificate.display();
        let sealed = format!(
            "openssl cms -encrypt -binary -outform DER -aes-256-cbc -in '{plain}' '{certificate}' | base64 -w0"
        );
        run("sh", &["-c", &sealed])
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    pub(crate) took: Duration,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) scratch: Scratch,
    pub(crate) base: PathBuf,
    version: String,
    /// What is set for every command.
    pub(crate) variables: Vec<(String, String)>,
}

impl Machine {
    /// One on which the extension was unpacked and nothing else happened.
    pub(crate) fn new() -> Machine {
        let mut machine = Machine::bare();
        machine.unpack("1.0.0.0");
        machine
    }

    /// One without the extension.
    pub(crate) fn bare() -> Machine {
        let scratch = Scratch::new();
        for dir in ["lib", "log", "root/run", "root/var/lib/dpkg/info", "root/var/lib/dpkg/updates", "state"]
        {
            fs::create_dir_all(scratch.path(dir)).unwrap();
        }
        File::create(scratch.path("root/var/lib/dpkg/status")).unwrap();
        let status = json!({"agents": [{"vault": null, "machine": "0123", "disks": [], "last_point": null}]});
        fs::write(scratch.path("state/status.json"), status.to_string()).unwrap();
        CERTIFICATE.place(&scratch.path("lib"));
        let version = "1.0.0.0".to_owned();
        let base = scratch.path(&format!("lib/{NAME}-{version}"));
        Machine { scratch, base, version, variables: Vec::new() }
    }

    /// One on which `install` was run.
    pub(crate) fn installed() -> Machine {
        let machine = Machine::new();
        machine.succeed("install");
        machine
    }

    /// One that is enrolled and protected, at sequence number 0.
    pub(crate) fn enabled() -> Machine {
        let machine = Machine::installed();
        machine.settings(
            0,
            &Machine::plain("https://recovery.example.org", r#"{"token":"mobility-token-abc"}"#),
        );
        machine.succeed("enable");
        machine
    }

    /// Unpacks a version beside the others and goes on with it, as the guest agent does before an update.
    pub(crate) fn unpack(&mut self, version: &str) {
        self.base = self.scratch.path(&format!("lib/{NAME}-{version}"));
        version.clone_into(&mut self.version);
        let from = unpacked(version);
        run("cp", &["-r", from.to_str().unwrap(), self.base.to_str().unwrap()]);
        for dir in ["status", "config"] {
            fs::create_dir_all(self.base.join(dir)).unwrap();
        }
        let path = |path: PathBuf| path.display().to_string();
        let environment = json!([{"name": NAME, "version": 1.0, "handlerEnvironment": {
            "logFolder": path(self.scratch.path("log")),
            "configFolder": path(self.base.join("config")),
            "statusFolder": path(self.base.join("status")),
            "heartbeatFile": path(self.base.join("heartbeat.log")),
            "eventsFolder": path(self.scratch.path("log/events")),
        }}]);
        fs::write(self.base.join("HandlerEnvironment.json"), environment.to_string()).unwrap();
    }

    /// The commands that follow are of this version, which was unpacked before.
    pub(crate) fn back_to(&mut self, version: &str) {
        self.base = self.scratch.path(&format!("lib/{NAME}-{version}"));
        version.clone_into(&mut self.version);
    }

    /// Settings with this service and these protected settings.
    pub(crate) fn plain(service: &str, protected: &str) -> Vec<u8> {
        let settings = json!({"runtimeSettings": [{"handlerSettings": {
            "publicSettings": {"serviceUrl": service},
            "protectedSettings": CERTIFICATE.seal(protected),
            "protectedSettingsCertThumbprint": CERTIFICATE.thumbprint,
        }}]});
        settings.to_string().into_bytes()
    }

    pub(crate) fn settings(&self, sequence: u32, content: &[u8]) {
        fs::write(self.base.join(format!("config/{sequence}.settings")), content).unwrap();
    }

    /// Sets one of the switches of the stand-ins.
    pub(crate) fn switch(&self, name: &str, content: &str) {
        fs::write(self.scratch.path("state").join(name), content).unwrap();
    }

    pub(crate) fn unswitch(&self, name: &str) {
        fs::remove_file(self.scratch.path("state").join(name)).unwrap();
    }

    /// What the stand-ins were told.
    pub(crate) fn calls(&self) -> String {
        fs::read_to_string(self.scratch.path("state/calls")).unwrap_or_default()
    }

    /// A path of the machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.scratch.path("root").join(path)
    }

    /// The variables of the machine's own.
    pub(crate) fn own_variables(&self) -> Vec<(String, String)> {
        let stand_ins = repository().join("tests/extension/stand_ins");
        let text = |path: PathBuf| path.display().to_string();
        let mut all = vec![
            ("PATH".to_owned(), format!("{}:{}", stand_ins.display(), std::env::var("PATH").unwrap())),
            ("MOBILITY_EXTENSION_ROOT".to_owned(), text(self.scratch.path("root"))),
            ("MOBILITY_TEST_STATE".to_owned(), text(self.scratch.path("state"))),
            ("MOBILITY_TEST_AGENT".to_owned(), text(stand_ins.join("agent"))),
        ];
        all.extend(self.variables.clone());
        all
    }

    /// A command of the handler, for these settings.
    pub(crate) fn command(&self, name: &str, sequence: u32) -> Command {
        let mut command = Command::new(self.base.join("bin/handler"));
        command.arg(name).current_dir(&self.base).envs(self.own_variables());
        command.env("ConfigSequenceNumber", sequence.to_string());
        command.env("AZURE_GUEST_AGENT_EXTENSION_VERSION", &self.version);
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    pub(crate) fn start(&self, command: &mut Command) -> Child {
        let said = File::create(self.scratch.path("said")).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
    }

    /// Runs it to its end.
    pub(crate) fn finish(&self, mut command: Command) -> Ended {
        let begin = Instant::now();
        let mut child = self.start(&mut command);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > SOON {
                let _ = child.kill();
                panic!(
                    "{command:?} does not end: {}",
                    fs::read_to_string(self.scratch.path("said")).unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = fs::read_to_string(self.scratch.path("said")).unwrap();
        assert!(!said.contains("panicked") && status.code() != Some(101), "{said}");
        Ended { code: status.code(), said, took: begin.elapsed() }
    }

    pub(crate) fn run(&self, name: &str, sequence: u32) -> Ended {
        self.finish(self.command(name, sequence))
    }

    /// Runs a command for the settings of number 0 and demands that it succeeds.
    #[track_caller]
    pub(crate) fn succeed(&self, name: &str) -> String {
        let ended = self.run(name, 0);
        assert_eq!(ended.code, Some(0), "{name}: {}\n{}", ended.said, self.calls());
        ended.said
    }

    /// The status of a sequence number.
    #[track_caller]
    pub(crate) fn status(&self, sequence: u32) -> Value {
        let text = fs::read_to_string(self.base.join(format!("status/{sequence}.status"))).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        value[0]["status"].clone()
    }

    /// The status of a sequence number, as its level, its code and its message.
    #[track_caller]
    pub(crate) fn level(&self, sequence: u32) -> (String, u64, String) {
        let status = self.status(sequence);
        let message = status["formattedMessage"]["message"].as_str().unwrap();
        (status["status"].as_str().unwrap().to_owned(), status["code"].as_u64().unwrap(), message.to_owned())
    }

    /// The heartbeat.
    pub(crate) fn heartbeat(&self) -> Value {
        let text = fs::read_to_string(self.base.join("heartbeat.log")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        value[0]["heartbeat"].clone()
    }

    /// What dpkg says of the package.
    pub(crate) fn package(&self) -> Option<String> {
        let dir = self.path("var/lib/dpkg");
        let arguments = [
            "--admindir",
            dir.to_str().unwrap(),
            "--show",
            "--showformat=${Status} ${Version}",
            "mobility-agent",
        ];
        mobility_tests::scratch::try_run("/usr/bin/dpkg-query", &arguments).ok()
    }
}
