//! Clocks that are wrong by a day, in both directions, the service's and the agent's in turn; and that jump from one
//! to the other.
//!
//! The programs run under libfaketime, which gives them another time of day; how time passes stays as it is.
//! Certificates and grants are good for a day, so at one day each of them has expired or comes from the future.
//! Deliberately not here: the machine's own clock, which is never touched.

use std::path::PathBuf;

use mobility_tests::{
    agent_process::{Setup, protected},
    requirement::Requirement,
    scratch::Scratch,
    service_process::ServiceProcess,
};

use crate::rig;

/// Where Debian, Ubuntu and Fedora have the library.
const PLACES: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib64/faketime"];
const LIBRARY: &str = "libfaketimeMT.so.1";

fn library() -> Result<PathBuf, String> {
    let found = PLACES.iter().map(|place| PathBuf::from(place).join(LIBRARY)).find(|path| path.exists());
    found.ok_or(format!("there is no {LIBRARY} (packaging/install-build-deps.sh)"))
}

#[test]
fn clocks_that_are_wrong_by_a_day_stop_nothing() {
    let Some(library) = Requirement::Clocks.or_skip(library()) else { return };
    let library = library.to_str().unwrap();
    let variables = |shift: &'static str| {
        [("LD_PRELOAD", library), ("FAKETIME", shift), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]
    };
    let scratch = Scratch::new();
    let image = rig::image(&scratch);
    let mut service = ServiceProcess::new(scratch.path("service"));
    service.admin(&["policy", "set", "default", "--interval", "1"]);
    let right = Setup::enrolled(&scratch, &[&image], &service).flags(&["--capture", "scan"]);
    let writer = rig::write(&image);
    for (of_service, of_agent) in
        [("+0d", "+0d"), ("+1d", "+0d"), ("-1d", "+0d"), ("+0d", "+1d"), ("+0d", "-1d")]
    {
        service.variables(&variables(of_service));
        let setup = variables(of_agent)
            .iter()
            .fold(right.clone(), |setup, (name, value)| setup.variable(name, value));
        let mut agent = setup.start();
        agent.wait_for(&format!("protection, service {of_service}, agent {of_agent}"), protected);
        let epoch = rig::newest_epoch(&agent.wait_for_points(2));
        rig::taken_in(&setup, epoch);
        agent.terminate();
    }
    assert!(writer.stop() > 5);
    let mut agent = right.start();
    let epoch = rig::newest_epoch(&agent.wait_for_points(2));
    rig::taken_in(&right, epoch);
    agent.terminate();
    rig::demand_truth(&right, &scratch, &image, 5);
}
