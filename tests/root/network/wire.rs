//! A network that has one machine in it: a namespace for the agent, and one wire from there to where everybody else is.
//!
//! The kernel's firewall in the namespace drops whatever comes in and belongs to no connection that was opened from
//! inside, and lets connections out to the places that a test names, and nowhere else. Deliberately not here: who is
//! at the other end.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Command, Stdio, id},
    thread,
    time::Duration,
};

use mobility_tests::scratch::{run, try_run};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long an attempt to get in may take.
const KNOCK: Duration = Duration::from_millis(50);

/// The wire, and the namespace at its inner end. Both go when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    name: String,
    /// Which of the networks for measurements (RFC 2544) it is: by the process, so that two tests do not meet.
    network: u32,
}

impl Wire {
    pub(crate) fn new() -> Wire {
        let wire = Wire { name: format!("mob{}", id()), network: id() % 254 };
        let (name, outer, inner) = (wire.name.as_str(), wire.outer(), wire.inner());
        run("ip", &["netns", "add", name]);
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", name]);
        let outside = [wire.v4(1) + "/24", wire.v4(3) + "/24", wire.v6(1) + "/64", wire.v6(3) + "/64"];
        let inside = [wire.v4(2) + "/24", wire.v6(2) + "/64"];
        for address in &outside {
            run("ip", &[&["address", "add", address, "dev", &outer], nodad(address)].concat());
        }
        for address in &inside {
            run("ip", &[&["-n", name, "address", "add", address, "dev", &inner], nodad(address)].concat());
        }
        run("ip", &["link", "set", &outer, "up"]);
        run("ip", &["-n", name, "link", "set", &inner, "up"]);
        wire
    }

    fn outer(&self) -> String {
        format!("{}o", self.name)
    }

    /// The name of the agent's only interface.
    pub(crate) fn inner(&self) -> String {
        format!("{}i", self.name)
    }

    /// Where its place among the files is.
    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// An address of the wire: 2 is the agent's, 1 and 3 are outside.
    pub(crate) fn v4(&self, host: u8) -> String {
        format!("198.18.{}.{host}", self.network)
    }

    pub(crate) fn v6(&self, host: u8) -> String {
        format!("fd00:198:{:x}::{host}", self.network)
    }

    /// Whether this address is the agent's.
    pub(crate) fn is_agent(&self, address: IpAddr) -> bool {
        [self.v4(2), self.v6(2)].iter().any(|own| own.parse() == Ok(address))
    }

    /// Nothing gets in from now on, and out only to these.
    pub(crate) fn close(&self, ways_out: &[SocketAddr]) {
        let out = |way: &SocketAddr| {
            let family = if way.is_ipv4() { "ip" } else { "ip6" };
            format!("{family} daddr {} tcp dport {} accept\n", way.ip(), way.port())
        };
        let out: String = ways_out.iter().map(out).collect();
        // Without neighbour discovery nobody is found in IPv6. What may not leave is refused and not dropped, for
        // speed.
        let neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n";
        let rules = format!(
            "table inet one_way {{
               chain input {{ type filter hook input priority 0; policy drop;
                 ct state established accept
                 {neighbours}
               }}
               chain output {{ type filter hook output priority 0; policy drop;
                 ct state established accept
                 {neighbours} {out}
                 meta l4proto tcp reject with tcp reset
               }}
             }}\n"
        );
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let mut nft = self.inside(&nft).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// The same command, in the namespace. Only its network is another: `/sys` has to stay as it is, for the trackers
    /// in it.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={}", self.path())).arg("--").arg(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Every socket in the namespace at which somebody could knock.
    pub(crate) fn listening(&self) -> String {
        let mut ss = Command::new("ss");
        ss.args(["--no-header", "--numeric", "--listening", "--tcp", "--udp", "--raw", "--unix", "--sctp"]);
        let output = self.inside(&ss).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Somebody in the namespace who listens, as the agent must not.
    pub(crate) fn listener(&self, address: &str) -> TcpListener {
        let (path, address) = (self.path(), address.to_owned());
        // Of the thread alone; what it opens stays where it was opened.
        let bind = move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind((address, 0)).unwrap()
        };
        thread::spawn(bind).join().unwrap()
    }

    /// Whether somebody outside gets in to this port.
    pub(crate) fn gets_in(&self, port: u16) -> bool {
        let knock = |host: String| {
            let address = SocketAddr::new(host.parse().unwrap(), port);
            TcpStream::connect_timeout(&address, KNOCK).is_ok()
        };
        knock(self.v4(2)) || knock(self.v6(2))
    }
}

/// Addresses of IPv6 can be used at once only so.
fn nodad(address: &str) -> &'static [&'static str] {
    if address.contains(':') { &["nodad"] } else { &[] }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = try_run("ip", &["link", "delete", &self.outer()]);
        let _ = try_run("ip", &["netns", "delete", &self.name]);
    }
}

/// A program that goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) std::process::Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let shown = command.get_program().to_owned();
        Running(command.spawn().unwrap_or_else(|err| panic!("{}: {err}", OsStr::to_string_lossy(&shown))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
