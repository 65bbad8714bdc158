//! Everything that went over the wire, put together again into connections: who opened each, and what each side sent.
//!
//! Deliberately not here: what it ought to have been.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use mobility_tests::scratch::{Scratch, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::wire::{Running, Wire};

/// How long the program that captures may take to begin, and to end.
const LIMIT: Duration = Duration::from_secs(30);

/// A capture that runs.
pub(crate) struct Capture {
    tcpdump: Running,
    file: PathBuf,
    said: PathBuf,
}

/// What was captured.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) connections: Vec<Connection>,
    /// Attempts to open one that were not answered.
    pub(crate) refused: Vec<(SocketAddr, SocketAddr)>,
    /// What is neither of a connection nor how neighbours find each other.
    pub(crate) other: Vec<String>,
    /// All bytes.
    pub(crate) raw: Vec<u8>,
}

/// A connection that came to be.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Who opened it, and to whom.
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sent: Vec<u8>,
    pub(crate) received: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(wire: &Wire, scratch: &Scratch) -> Capture {
        let (file, said) = (scratch.path("wire.pcap"), scratch.path("tcpdump.log"));
        let mut tcpdump = Command::new("tcpdump");
        tcpdump
            .args(["-i", &wire.inner(), "-n", "-s", "0", "-B", "65536", "-U", "-Z", "root", "-w"])
            .arg(&file);
        let mut tcpdump = wire.inside(&tcpdump);
        tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let tcpdump = Running::start(&mut tcpdump);
        let listens = || fs::read_to_string(&said).unwrap().contains("listening on").then_some(());
        eventually("the beginning of the capture", LIMIT, listens);
        Capture { tcpdump, file, said }
    }

    /// Ends it; everything that was seen, of which nothing may be lacking.
    pub(crate) fn end(mut self) -> Traffic {
        kill_process(Pid::from_child(&self.tcpdump.0), Signal::INT).unwrap();
        eventually("the end of the capture", LIMIT, || self.tcpdump.0.try_wait().unwrap());
        let said = fs::read_to_string(&self.said).unwrap();
        assert!(said.contains("0 packets dropped by kernel"), "{said}");
        read(fs::read(&self.file).unwrap())
    }
}

/// What one side sent, as far as it has come.
#[derive(Default)]
struct Stream {
    /// The number of its first byte.
    base: Option<u32>,
    bytes: Vec<u8>,
    /// What came before what is lacking.
    early: BTreeMap<usize, Vec<u8>>,
}

impl Stream {
    fn add(&mut self, sequence: u32, bytes: &[u8]) {
        let Some(base) = self.base else { return };
        let at = sequence.wrapping_sub(base) as usize;
        // A keep-alive is numbered as the byte before, and holds nothing new.
        if bytes.is_empty() || at > u32::MAX as usize / 2 {
            return;
        }
        let longest = self.early.entry(at).or_default();
        if longest.len() < bytes.len() {
            *longest = bytes.to_owned();
        }
        while let Some(next) = self.early.first_entry().filter(|next| *next.key() <= self.bytes.len()) {
            let (at, bytes) = next.remove_entry();
            let known = self.bytes.len() - at;
            self.bytes.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
    }
}

#[derive(Default)]
struct Half {
    answered: bool,
    sent: Stream,
    received: Stream,
}

/// One segment of TCP.
struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    syn: bool,
    ack: bool,
    bytes: &'a [u8],
}

fn read(raw: Vec<u8>) -> Traffic {
    assert_eq!(raw[..4], 0xa1b2_c3d4u32.to_le_bytes(), "a capture of this machine");
    let (mut halves, mut other) = (Vec::<((SocketAddr, SocketAddr), Half)>::new(), Vec::new());
    let mut newest = HashMap::new();
    let mut at = 24;
    while let Some(head) = raw.get(at..at + 16) {
        let length = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
        let frame = &raw[at + 16..at + 16 + length];
        at += 16 + length;
        let segment = match segment(frame) {
            Ok(segment) => segment,
            Err(what) => {
                other.extend(what);
                continue;
            }
        };
        let (out, back) = ((segment.from, segment.to), (segment.to, segment.from));
        if segment.syn && !segment.ack {
            let base = Some(segment.sequence.wrapping_add(1));
            let again = newest.get(&out).is_some_and(|&known: &usize| halves[known].1.sent.base == base);
            if !again {
                newest.insert(out, halves.len());
                halves.push((out, Half { sent: Stream { base, ..Stream::default() }, ..Half::default() }));
            }
        } else if let Some(&known) = newest.get(&out) {
            halves[known].1.sent.add(segment.sequence, segment.bytes);
        } else if let Some(&known) = newest.get(&back) {
            let half = &mut halves[known].1;
            if segment.syn {
                half.answered = true;
                half.received.base = Some(segment.sequence.wrapping_add(1));
            }
            half.received.add(segment.sequence, segment.bytes);
        } else {
            other.push(format!("a segment of no connection, from {} to {}", segment.from, segment.to));
        }
    }
    let (answered, refused): (Vec<_>, Vec<_>) = halves.into_iter().partition(|(_, half)| half.answered);
    let whole = |((from, to), half): ((SocketAddr, SocketAddr), Half)| Connection {
        from,
        to,
        sent: half.sent.bytes,
        received: half.received.bytes,
    };
    let connections = answered.into_iter().map(whole).collect();
    Traffic { connections, refused: refused.into_iter().map(|(ends, _)| ends).collect(), other, raw }
}

/// What a frame holds: a segment of TCP, or something else, or nothing that is worth a word.
fn segment(frame: &[u8]) -> Result<Segment<'_>, Option<String>> {
    let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (from, to, protocol, head, end): (IpAddr, IpAddr, u8, usize, usize) = match number(12) {
        0x0800 => {
            let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap()).into();
            let head = 14 + usize::from(frame[14] & 15) * 4;
            (address(26), address(30), frame[23], head, 14 + usize::from(number(16)))
        }
        0x86dd => {
            let address =
                |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap()).into();
            (address(22), address(38), frame[20], 54, 54 + usize::from(number(18)))
        }
        0x0806 => return Err(None),
        kind => return Err(Some(format!("a frame of kind {kind:#x}"))),
    };
    match protocol {
        6 => {}
        // Neighbours, routers, and who listens to which group: the kernel's own.
        58 if (130..=143).contains(&frame[head]) => return Err(None),
        0 if from.is_ipv6() => return Err(None),
        _ => return Err(Some(format!("protocol {protocol} from {from} to {to}"))),
    }
    let bytes = head + usize::from(frame[head + 12] >> 4) * 4;
    Ok(Segment {
        from: SocketAddr::new(from, number(head)),
        to: SocketAddr::new(to, number(head + 2)),
        sequence: u32::from_be_bytes(frame[head + 4..head + 8].try_into().unwrap()),
        syn: frame[head + 13] & 2 != 0,
        ack: frame[head + 13] & 16 != 0,
        bytes: &frame[bytes..end.max(bytes)],
    })
}
