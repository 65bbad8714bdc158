//! What the agent does on a network, seen from the network: it opens every connection there is, speaks TLS 1.3 and
//! nothing else, and nobody can knock at it.
//!
//! The agent has a network namespace of its own, whose firewall drops all that comes in, and lets it out by one way
//! alone: a proxy that wants a password (tinyproxy), or to the service. All that goes over its wire is captured and
//! judged, byte by byte. That the kernel refuses it to listen at all is shown by
//! `the_kernel_refuses_to_listen_in_every_thread` in the agent. Deliberately not here: whom it trusts (`link`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

mod capture;
mod tls;
mod wire;

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup, protected},
    load::scribble,
    scratch::{LoopDevice, MIB, Scratch, eventually, root_with},
    service_process::ServiceProcess,
};

use crate::{
    capture::{Capture, Connection, Traffic},
    tls::{Side, demand_tls13},
    wire::{Running, Wire},
};

const SEED: u64 = 20_261_125;
const SIZE: u64 = 32 * MIB;
const PAUSE: Duration = Duration::from_millis(5);
/// Programs that these tests need.
const PROGRAMS: [&str; 5] = ["ip", "ss", "nft", "tcpdump", "tinyproxy"];
/// The proxy's name and password, and a password that is not.
const NAME: &str = "canary-name";
const WORD: &str = "canary-word";
const WRONG: &str = "canary-wrong";

/// A network, a disk, a service at the far end of the wire.
struct Rig {
    service: ServiceProcess,
    disk: LoopDevice,
    wire: Wire,
    scratch: Scratch,
}

impl Rig {
    fn new(host: impl Fn(&Wire) -> String) -> Option<Rig> {
        root_with(&PROGRAMS)?;
        let scratch = Scratch::new();
        let wire = Wire::new();
        let disk = LoopDevice::new(scratch.path("disk.img"), SIZE);
        let service = ServiceProcess::at(&host(&wire), scratch.path("service"), "");
        service.admin(&["policy", "set", "default", "--interval", "1"]);
        Some(Rig { service, disk, wire, scratch })
    }

    /// Where the service is.
    fn far_end(&self) -> SocketAddr {
        self.service.address().trim_start_matches("https://").parse().unwrap()
    }

    /// Enrols inside the namespace, and returns the exit code and what was said.
    fn enrol(&self, flags: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
        let mut command = self.service.enrolling(&self.scratch.path("state"));
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(flags).envs(variables.iter().copied());
        let output = self.wire.inside(&command).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), said)
    }

    /// Replicates inside the namespace while the disk is written, and compares what comes back with the disk. Looks
    /// all the while whether the agent listens, and knocks.
    fn replicate(&self, variables: &[(&str, &str)]) {
        let mut setup = Setup::new(&self.scratch, &[self.disk.device.as_path()]);
        setup.vault = self.service.storage();
        setup.state = Some(self.scratch.path("state"));
        for (name, value) in variables {
            setup = setup.variable(name, value);
        }
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(&over));
            let writer = scribble(self.disk.device.as_path(), 0, SIZE, SEED, PAUSE);
            let mut agent = setup.start_as(self.wire.inside(&setup.command()), setup.open_log());
            agent.wait_for("protection", protected);
            agent.wait_for_points(3);
            assert!(writer.stop() > 0);
            self.settle(&setup, &mut agent);
            agent.terminate();
            over.store(true, Ordering::SeqCst);
            let looks = watch.join().unwrap();
            assert!(looks > 10, "only {looks} looks");
        });
        setup.newest_point_equals(&self.scratch, &[self.disk.file.as_path()]);
    }

    /// Waits for the intake of a point that was begun after now.
    fn settle(&self, setup: &Setup, agent: &mut Agent) {
        let epoch = agent.wait_for_points(2)["last_point"]["epoch"].as_u64();
        let taken_in = || setup.points().iter().any(|point| point.listed["epoch"].as_u64() >= epoch);
        eventually("the intake of the last point", SOON, || taken_in().then_some(()));
    }

    /// Looks until it is over; how often.
    fn watch(&self, over: &AtomicBool) -> u32 {
        let mut looks = 0;
        while !over.load(Ordering::SeqCst) {
            let listening = self.wire.listening();
            assert!(listening.is_empty(), "somebody listens: {listening}");
            // Where others listen, and where the agent may have a connection of its own.
            let port = [22, 443, 8443, 32_768 + looks as u16 * 7][looks as usize % 4];
            assert!(!self.wire.gets_in(port), "{port}");
            looks += 1;
            thread::sleep(Duration::from_millis(50));
        }
        looks
    }

    /// Demands that somebody who does listen in the namespace is seen, and is reached from outside unless the
    /// firewall is up.
    fn demand_that_listeners_are_seen(&self, reached: bool) {
        let listener = self.wire.listener("::");
        assert!(self.wire.listening().contains("LISTEN"));
        assert_eq!(self.wire.gets_in(listener.local_addr().unwrap().port()), reached);
    }
}

/// A proxy that makes tunnels for whoever knows the password.
fn proxy(wire: &Wire, scratch: &Scratch) -> (Running, SocketAddr) {
    let address = TcpListener::bind((wire.v4(1), 0)).unwrap().local_addr().unwrap();
    let (config, log) = (scratch.path("proxy.conf"), File::create(scratch.path("proxy.log")).unwrap());
    let text = format!(
        "Port {}\nListen {}\nAllow {}\nTimeout 600\nMaxClients 100\nBasicAuth {NAME} {WORD}\n",
        address.port(),
        address.ip(),
        wire.v4(2),
    );
    fs::write(&config, text).unwrap();
    let mut tinyproxy = Command::new("tinyproxy");
    tinyproxy.args(["-d".as_ref(), "-c".as_ref(), config.as_os_str()]);
    let tinyproxy =
        Running::start(tinyproxy.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log));
    eventually("the proxy", SOON, || TcpStream::connect(address).ok());
    (tinyproxy, address)
}

/// The head of a message of HTTP, and what follows it.
fn parted(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]))
}

/// Demands that a connection is TLS 1.3; whether both sides said hello.
fn demand_sealed(what: &Connection, sent: &[u8], received: &[u8]) -> bool {
    for (side, bytes) in [(Side::Client, sent), (Side::Server, received)] {
        if let Err(why) = demand_tls13(side, bytes) {
            panic!("{} to {}: {why}", what.from, what.to);
        }
    }
    !sent.is_empty() && !received.is_empty()
}

impl Traffic {
    /// Demands that the agent opened every connection, all of them to `to`, and that nothing else was on the wire,
    /// neither the token.
    fn demand_outbound(&self, wire: &Wire, to: SocketAddr, token: &Path) {
        assert!(self.other.is_empty(), "{:?}", self.other);
        for connection in &self.connections {
            assert!(wire.is_agent(connection.from.ip()), "from outside: {}", connection.from);
            assert_eq!(connection.to, to);
        }
        let knocks = self.refused.iter().filter(|(_, to)| wire.is_agent(to.ip())).count();
        assert!(knocks > 10, "the capture has only {knocks} attempts to get in");
        let token = fs::read_to_string(token).unwrap();
        let token = token.trim().as_bytes();
        assert!(token.len() > 20 && !self.raw.windows(token.len()).any(|window| window == token));
    }
}

#[test]
fn root_a_proxy_with_a_password_is_way_enough() {
    let Some(rig) = Rig::new(|wire| wire.v4(3)) else { return };
    let (_proxy, address) = proxy(&rig.wire, &rig.scratch);
    rig.demand_that_listeners_are_seen(true);
    rig.wire.close(&[address]);
    rig.demand_that_listeners_are_seen(false);
    let capture = Capture::start(&rig.wire, &rig.scratch);

    let (code, said) = rig.enrol(&["--proxy", "none"], &[]);
    assert_eq!(code, 12, "there is another way out: {said}");
    let by = |word: &str| format!("http://{NAME}:{word}@{address}");
    let (code, said) = rig.enrol(&["--proxy", &by(WRONG)], &[]);
    assert_eq!(code, 12, "{said}");
    assert!(said.contains("proxy does not let") && !said.contains(WRONG), "{said}");
    let (code, said) = rig.enrol(&["--proxy", &by(WORD)], &[]);
    assert_eq!(code, 0, "{said}");
    rig.replicate(&[]);

    let traffic = capture.end();
    traffic.demand_outbound(&rig.wire, address, &rig.scratch.path("state.token"));
    let (mut sealed, mut turned_away) = (0, 0);
    for connection in &traffic.connections {
        let Some((asked, sent)) = parted(&connection.sent) else {
            assert!(connection.sent.is_empty(), "{connection:?}");
            continue;
        };
        let tunnel = format!("CONNECT {} HTTP/1.1\r\n", rig.far_end());
        assert!(asked.starts_with(&tunnel), "{asked}");
        match parted(&connection.received) {
            Some((answer, received)) if answer.contains(" 200 ") => {
                sealed += u32::from(demand_sealed(connection, sent, received));
            }
            Some((answer, _)) => {
                // This proxy says 407 where there is no password, and 401 where there is a wrong one.
                assert!(answer.contains(" 401 ") && sent.is_empty(), "{answer}");
                turned_away += 1;
            }
            None => assert!(sent.is_empty(), "{asked}"),
        }
    }
    assert!(sealed > 2 && turned_away > 0, "{sealed} tunnels, {turned_away} turned away");
}

#[test]
fn root_without_a_proxy_it_goes_straight_to_the_service_over_ipv6() {
    let Some(rig) = Rig::new(|wire| format!("[{}]", wire.v6(3))) else { return };
    let to = rig.far_end();
    rig.wire.close(&[to]);
    let capture = Capture::start(&rig.wire, &rig.scratch);
    // There is a proxy in the environment, which the firewall keeps it from, and the service is to be reached without.
    let proxy = format!("http://{}:3128", rig.wire.v4(1));
    let around = format!("{}/64", rig.wire.v6(0));
    let (code, said) = rig.enrol(&[], &[("HTTPS_PROXY", &proxy)]);
    assert_eq!(code, 12, "the proxy was gone around: {said}");
    let variables = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", around.as_str())];
    let (code, said) = rig.enrol(&[], &variables);
    assert_eq!(code, 0, "{said}");
    rig.replicate(&variables);

    let traffic = capture.end();
    traffic.demand_outbound(&rig.wire, to, &rig.scratch.path("state.token"));
    let sealed = |connection: &&Connection| demand_sealed(connection, &connection.sent, &connection.received);
    let sealed = traffic.connections.iter().filter(sealed).count();
    assert!(sealed > 2, "{sealed} connections");
}
