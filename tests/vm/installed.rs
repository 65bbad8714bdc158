//! An agent that was installed in a guest, is run by its systemd, and protects its root disk at a service on the host.
//!
//! Deliberately not here: the scenarios.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mobility_tests::{
    agent_process::{Point, program},
    requirement::Requirement,
    scratch::{Scratch, run, try_run},
    service_process::ServiceProcess,
};
use serde_json::Value;

use crate::{
    guest_disk::GuestDisk,
    machine::{HOST, Machine},
};

/// How long replication may take to get to where it is waited for. All bytes of the disk go through an emulated processor.
pub(crate) const SOON: Duration = Duration::from_secs(300);
/// The policy's interval, in seconds.
const INTERVAL: &str = "5";
/// Where the agent's packages are in a guest.
const PACKAGE: &str = "/root/agent.deb";
const UPGRADE: &str = "/root/upgrade.deb";

/// A guest, the service that protects it, and where its files are. What is declared first ends first.
pub(crate) struct Installed {
    pub(crate) machine: Machine,
    pub(crate) service: ServiceProcess,
    pub(crate) disk: GuestDisk,
    pub(crate) scratch: Scratch,
}

/// A service that guests reach.
pub(crate) fn service(scratch: &Scratch) -> ServiceProcess {
    let mut service = ServiceProcess::new(scratch.path("service"));
    let port = service.own_address().rsplit(':').next().unwrap().to_owned();
    service.stand_behind(&format!("https://{HOST}:{port}"));
    service.admin(&["policy", "set", "default", "--interval", INTERVAL]);
    service
}

/// The version of the package that a guest is upgraded to.
const HIGHER: &str = "9.9.9";

/// Makes the agent's package in a new directory `out`, with these options besides.
pub(crate) fn package(out: &Path, options: &[&str]) -> PathBuf {
    let programs = program("mobility-agent").parent().unwrap().to_owned();
    let [programs, into] = [&programs, out].map(|path| path.to_str().unwrap());
    let mut arguments = vec!["deb", "agent", "--quick", "--programs", programs, "--out", into];
    arguments.extend(options);
    let said = run(project().join("packaging/build.sh").to_str().unwrap(), &arguments);
    said.rsplit_once("made ").unwrap_or_else(|| panic!("{said}")).1.trim().into()
}

/// Makes the agent's package and one of a higher version, and puts both into a disk, at [`PACKAGE`] and [`UPGRADE`].
pub(crate) fn put_packages(disk: &GuestDisk, scratch: &Scratch) {
    let opened = disk.open(scratch.path("guest"));
    for (options, to) in [(&[][..], PACKAGE), (&["--version", HIGHER][..], UPGRADE)] {
        let made = package(&scratch.path(to.trim_start_matches("/root/")), options);
        opened.put(&made, to.trim_start_matches('/'));
    }
}

/// Installs the package in a guest, as its administrator does.
pub(crate) fn install(machine: &mut Machine) {
    machine.run(&format!("dpkg -i {PACKAGE}"));
}

/// The repository.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether packages can be made here; the test is skipped or fails where they cannot.
#[must_use]
#[track_caller]
pub(crate) fn can_package() -> Option<()> {
    let there = project().join("target/package-tools/bin/cargo-deb").exists();
    let lack = || "there is no cargo-deb: run packaging/install-package-tools.sh".to_owned();
    Requirement::Packaging.or_skip(there.then_some(()).ok_or_else(lack))
}

impl Installed {
    /// Boots a machine with the agent installed, and enrols it; its root disk is what it protects.
    pub(crate) fn new(base: &Path) -> Installed {
        let mut installed = Installed::on(base, None);
        installed.protect("disks = ['/dev/vda']");
        installed
    }

    /// Boots a machine with the agent installed, on this kernel of the image rather than its first, and enrols it.
    pub(crate) fn on(base: &Path, kernel: Option<&str>) -> Installed {
        let scratch = Scratch::new();
        let service = service(&scratch);
        let disk = GuestDisk::new(base, scratch.path("root.img"));
        put_packages(&disk, &scratch);
        if let Some(kernel) = kernel {
            let opened = disk.open(scratch.path("guest"));
            fs::write(opened.point().join("boot/grub/choice.cfg"), format!("set kernel={kernel}\n")).unwrap();
        }
        let machine = Machine::boot(&scratch.path("vm"), &disk.image);
        let mut installed = Installed { machine, service, disk, scratch };
        install(&mut installed.machine);
        installed.enrol();
        installed
    }

    /// The flags of `enroll` that lead to the service, with a new token in the guest's memory.
    pub(crate) fn enrolling(&mut self) -> String {
        let made = self.service.admin(&["token", "create"]);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        self.machine.run(&format!("umask 077; printf %s '{}' >/run/token", text("token")));
        let (address, fingerprint) = (self.service.address(), text("ca_fingerprint"));
        format!("--service {address} --token-file /run/token --ca-fingerprint {fingerprint}")
    }

    fn enrol(&mut self) {
        let flags = self.enrolling();
        self.machine.run(&format!("mobility-agent enroll {flags}"));
    }

    /// Installs the package of the higher version over the other.
    pub(crate) fn upgrade(&mut self) {
        self.machine.run(&format!("dpkg -i {UPGRADE}"));
        let version = self.machine.run("dpkg-query -W -f '${Version}' mobility-agent");
        assert!(version.starts_with(HIGHER), "{version}");
    }

    /// Starts the agent with this configuration.
    pub(crate) fn protect(&mut self, configuration: &str) {
        self.configure(configuration);
        self.machine.run("systemctl restart mobility-agent");
    }

    /// Replaces the operator's fragment of configuration.
    #[track_caller]
    pub(crate) fn configure(&mut self, text: &str) {
        const DIR: &str = "/etc/mobility-agent/config.d";
        self.machine.run(&format!(
            "mkdir -p {DIR} && printf '%s\\n' \"{text}\" >/run/fragment && mv /run/fragment {DIR}/50-test.toml"
        ));
    }

    /// What the service calls the machine.
    pub(crate) fn machine_id(&self) -> String {
        let listed = self.service.admin(&["machine", "list"]);
        listed["machines"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Lets the machine come up again after it was cut off.
    pub(crate) fn boot(&mut self) {
        self.machine = Machine::boot(&self.scratch.path("vm"), &self.disk.image);
    }

    /// What `status --json` says in the guest, if an agent runs there.
    pub(crate) fn status(&mut self) -> Option<Value> {
        let answer = self.machine.ask("mobility-agent status --json");
        let said: Value = serde_json::from_str(&answer.printed).ok().filter(|_| answer.code == 0)?;
        said["agents"].get(0).cloned()
    }

    /// Waits until the status shows what is waited for.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, shown: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| shown(status)) {
                return status.clone();
            }
            if begin.elapsed() > SOON {
                let log = self.log();
                panic!("waited for: {what}\n{}\n{log}", status.unwrap_or_default());
            }
        }
    }

    /// The end of the agent's log.
    pub(crate) fn log(&mut self) -> String {
        self.machine.ask("journalctl -b -u mobility-agent -o cat --no-pager -n 60").printed
    }

    /// Waits until a point is in target storage that was begun after now.
    #[track_caller]
    pub(crate) fn next_point(&mut self) -> Point {
        let now = self.wait_for("a state", |_| true)["epoch"].as_u64().unwrap();
        self.wait_for("a later point", |status| status["last_point"]["epoch"].as_u64() > Some(now));
        let begin = Instant::now();
        loop {
            let newest = self.points().into_iter().max_by_key(|point| point.listed["epoch"].as_u64());
            if let Some(point) = newest.filter(|point| point.listed["epoch"].as_u64() > Some(now)) {
                return point;
            }
            assert!(begin.elapsed() < SOON, "no point of epoch {now} or later");
        }
    }

    /// All points in target storage.
    pub(crate) fn points(&self) -> Vec<Point> {
        let service = program("recovery-service");
        let config = self.service.config();
        let arguments = ["points", "--json", "--config", config.to_str().unwrap()];
        // Before the first intake there is nothing of the machine's.
        let listed = try_run(service.to_str().unwrap(), &arguments).unwrap_or_else(|_| "{}".to_owned());
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed["points"].as_array().into_iter().flatten().map(Point::of).collect()
    }

    /// Restores a point's one disk into a new directory.
    pub(crate) fn restore(&self, point: &Point, dir: &Path) -> PathBuf {
        let service = program("recovery-service");
        let (config, dir_name) = (self.service.config(), dir.to_str().unwrap());
        let arguments =
            ["restore", "--config", config.to_str().unwrap(), "--point", &point.id, "--output", dir_name];
        run(service.to_str().unwrap(), &arguments);
        let images: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        images.into_iter().find(|path| path.extension().is_some_and(|name| name == "img")).unwrap()
    }
}

/// Whether all disks of a status are protected, and there is a point.
pub(crate) fn protected(status: &Value) -> bool {
    let disks = status["disks"].as_array().unwrap();
    let well = !disks.is_empty() && disks.iter().all(|disk| disk["state"] == "protected");
    well && !status["last_point"].is_null()
}
