//! A bad line: carries connections to the service, and delays them, lets them stand still, or breaks them in the
//! middle of what they carry.
//!
//! It knows nothing of what it carries. Deliberately not here: answers that are wrong (`front`).

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use mobility_tests::dice::Dice;

/// How much is carried at once.
const PIECE: usize = 16 << 10;

/// What is wrong with the line now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// How long each piece takes longer.
    pub(crate) latency: Duration,
    /// Of a thousand pieces, before so many the line stands still for `stall`.
    pub(crate) stalls: u64,
    pub(crate) stall: Duration,
    /// Connections break after so many bytes at most, in either direction.
    pub(crate) breaks_within: Option<u64>,
    /// Nobody gets through to the other end.
    pub(crate) cut: bool,
}

/// The line. Lives as long as the test's process.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    trouble: Arc<Mutex<Trouble>>,
    /// How often it did harm.
    harm: Arc<AtomicU64>,
}

impl Line {
    pub(crate) fn new(seed: u64, to: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line =
            Line { address: listener.local_addr().unwrap(), trouble: Arc::default(), harm: Arc::default() };
        let (trouble, harm) = (line.trouble.clone(), line.harm.clone());
        thread::spawn(move || {
            let mut dice = Dice::new(seed);
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(to) else { continue };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let ends = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let way = Way { dice: Dice::new(dice.below(u64::MAX)), carried: 0, breaks_at: None };
                    let (trouble, harm) = (trouble.clone(), harm.clone());
                    thread::spawn(move || way.carry(ends, &trouble, &harm));
                }
            }
        });
        line
    }

    pub(crate) fn set(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    pub(crate) fn harm(&self) -> u64 {
        self.harm.load(Ordering::SeqCst)
    }
}

/// One direction of a connection.
struct Way {
    dice: Dice,
    carried: u64,
    breaks_at: Option<u64>,
}

impl Way {
    fn carry(
        mut self,
        (mut from, mut into): (TcpStream, TcpStream),
        trouble: &Mutex<Trouble>,
        harm: &AtomicU64,
    ) {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let now = *trouble.lock().unwrap();
            self.carried += length as u64;
            if now == Trouble::default() {
                self.breaks_at = None;
            } else if self.suffers(&now, harm) {
                // What it read and did not pass on makes the end of the connection a hard one.
                let _ = into.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            if into.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _: io::Result<()> = into.shutdown(Shutdown::Write);
        let _: io::Result<()> = from.shutdown(Shutdown::Read);
    }

    /// What happens to a piece; whether the connection breaks.
    fn suffers(&mut self, trouble: &Trouble, harm: &AtomicU64) -> bool {
        let broken = trouble.breaks_within.is_some_and(|within| {
            let carried = self.carried;
            let dice = &mut self.dice;
            carried >= *self.breaks_at.get_or_insert_with(|| carried + dice.below(within))
        });
        let stalls = self.dice.below(1000) < trouble.stalls;
        if stalls {
            thread::sleep(trouble.stall);
        }
        thread::sleep(trouble.latency);
        if broken || stalls || trouble.cut || !trouble.latency.is_zero() {
            harm.fetch_add(1, Ordering::SeqCst);
        }
        broken || trouble.cut
    }
}
