//! What a service manager is told: readiness, a line of status, signs of life, a reload, the end.
//!
//! A datagram socket stands for the manager. Deliberately not here: the units.

use std::{os::unix::net::UnixDatagram, path::PathBuf, time::Duration};

use mobility_tests::{
    agent_process::{SOON, Setup},
    scratch::{MIB, Scratch, eventually},
    service_process::ServiceProcess,
};
use rustix::process::Signal;

use crate::scan::image;

struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Waits for a message that has a line which begins like this. Those before it are kept.
    #[track_caller]
    fn hears(&mut self, beginning: &str) -> String {
        let mut buffer = [0; 4096];
        eventually(beginning, SOON, || {
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                self.heard.extend(text.lines().map(str::to_owned));
            }
            let at = self.heard.iter().position(|line| line.starts_with(beginning))?;
            Some(self.heard.remove(at))
        })
    }
}

fn manager(scratch: &Scratch) -> (Manager, PathBuf) {
    let path = scratch.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    (Manager { socket, heard: Vec::new() }, path)
}

#[test]
fn a_service_manager_is_kept_informed() {
    let scratch = Scratch::new();
    let image = image(&scratch, 8 * MIB);
    let (mut manager, path) = manager(&scratch);
    let setup = Setup::new(&scratch, &[&image])
        .variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .variable("WATCHDOG_USEC", "2000000");
    let mut agent = setup.start();
    manager.hears("READY=1");
    agent.wait_until_protected();
    manager.hears("STATUS=1 of 1 disks protected, last point");
    // One each half of the time, at least.
    manager.heard.clear();
    (0..3).for_each(|_| drop(manager.hears("WATCHDOG=1")));

    manager.heard.clear();
    agent.signal(Signal::HUP);
    manager.hears("RELOADING=1");
    let since: u64 = manager.hears("MONOTONIC_USEC=")["MONOTONIC_USEC=".len()..].parse().unwrap();
    assert!(since > 0);
    manager.hears("READY=1");
    agent.terminate();
    manager.hears("STOPPING=1");
}

/// The unit is ordered before all ordinary ones, the network's among them: a boot must not wait for a service that is away.
#[test]
fn an_agent_whose_service_is_away_is_ready_all_the_same_and_alive() {
    let scratch = Scratch::new();
    let image = image(&scratch, 8 * MIB);
    let (mut manager, path) = manager(&scratch);
    let mut service = ServiceProcess::new(scratch.path("service"));
    let setup = Setup::enrolled(&scratch, &[&image], &service)
        .variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .variable("WATCHDOG_USEC", "2000000");
    service.stop();
    let mut agent = setup.start();
    manager.hears("READY=1");
    manager.hears("STATUS=waiting for the recovery service: ");
    (0..3).for_each(|_| drop(manager.hears("WATCHDOG=1")));
    service.start();
    agent.wait_until_protected();
}
