//! What a test needs of the machine beside a compiler, and what happens where the machine does not have it.
//!
//! A test that silently does nothing is worse than none. So a test that cannot run says so past the test runner's
//! capture of its output, notes it in the file that `tests/run` prints at the end, and fails where the need was declared a
//! must, as CI does. Deliberately not here: finding out whether the machine has it; every test knows that best.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Being root, with loop devices and BPF: `MOBILITY_REQUIRE_ROOT=1` makes it a must.
    Root,
    /// Python with the packages that `packaging/install-build-deps.sh` installs: `MOBILITY_REQUIRE_PYTHON=1`.
    Python,
    /// The object stores that `packaging/install-test-stores.sh` installs: `MOBILITY_REQUIRE_STORES=1`.
    Stores,
    /// The library that gives programs another time of day, which `packaging/install-build-deps.sh` installs:
    /// `MOBILITY_REQUIRE_CLOCKS=1`.
    Clocks,
    /// The guest agent that `packaging/install-guest-agent.sh` fetches: `MOBILITY_REQUIRE_GUEST_AGENT=1`.
    GuestAgent,
    /// What makes and judges packages, which `packaging/install-package-tools.sh` installs: `MOBILITY_REQUIRE_PACKAGING=1`.
    Packaging,
    /// QEMU and the disk image that `packaging/install-test-vm.sh` makes: `MOBILITY_REQUIRE_VM=1`.
    Vm,
    /// The programs that judge disk images, which `packaging/install-disk-tools.sh` installs: `MOBILITY_REQUIRE_DISK_TOOLS=1`.
    DiskTools,
}

impl Requirement {
    /// The variable that makes it a must when it is `1`.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Requirement::Root => "MOBILITY_REQUIRE_ROOT",
            Requirement::Python => "MOBILITY_REQUIRE_PYTHON",
            Requirement::Stores => "MOBILITY_REQUIRE_STORES",
            Requirement::Clocks => "MOBILITY_REQUIRE_CLOCKS",
            Requirement::GuestAgent => "MOBILITY_REQUIRE_GUEST_AGENT",
            Requirement::Packaging => "MOBILITY_REQUIRE_PACKAGING",
            Requirement::Vm => "MOBILITY_REQUIRE_VM",
            Requirement::DiskTools => "MOBILITY_REQUIRE_DISK_TOOLS",
        }
    }

    /// What was `found`, or nothing after saying loudly that the calling test does not run, and why.
    ///
    /// # Panics
    /// Where it is a must and was not found.
    #[track_caller]
    pub fn or_skip<T>(self, found: Result<T, String>) -> Option<T> {
        let lack = match found {
            Ok(found) => return Some(found),
            Err(lack) => lack,
        };
        let variable = self.variable();
        assert!(env::var(variable).as_deref() != Ok("1"), "{variable}=1, but {lack}");
        skipped(&lack);
        None
    }
}

/// Says loudly that the calling test does not run, and why.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("SKIPPED {test}: {why}\n");
    // Not by a macro: those are captured, and nobody reads the output of a test that passes.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Ok(path) = env::var("MOBILITY_SKIPPED") {
        let appended = OpenOptions::new().create(true).append(true).open(path);
        let _ = appended.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
