//! Threads that read for a cut: started before it, for starting them would take most of its time.
//!
//! Each range comes back by itself, so that it can be looked at at once. Deliberately not here: what is read, and what its
//! being read means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, Scope},
    time::Instant,
};

use mobility_capture::direct::{AlignedBuf, DirectReader, JoinedRead, ReadError};

/// The most reads at once.
const READS: usize = 16;
/// So many reads one thread makes sooner than another one wakes up.
const FEW: usize = 4;

/// What to read: of which disk, by its place among those that are cut.
pub(super) struct Wanted<'a> {
    pub(super) disk: usize,
    pub(super) reader: &'a DirectReader,
    pub(super) read: JoinedRead,
}

/// What came of it.
pub(super) struct Got {
    pub(super) disk: usize,
    pub(super) read: JoinedRead,
    pub(super) bytes: Result<AlignedBuf, ReadError>,
}

/// Why not all was read.
pub(super) enum Unread {
    /// A disk failed.
    Failed(usize, ReadError),
    /// There was no time left.
    Late,
}

/// What one thread is to read, until when; it ends early when another one has failed.
struct Share<'a> {
    wanted: Vec<Wanted<'a>>,
    until: Option<Instant>,
    enough: Arc<AtomicBool>,
}

impl<'a> Share<'a> {
    fn read(self, mut done: impl FnMut(Option<Got>)) {
        for wanted in self.wanted {
            let late = self.until.is_some_and(|until| Instant::now() >= until);
            if late || self.enough.load(Ordering::Relaxed) {
                return done(None);
            }
            done(Some(wanted.fetch()));
        }
    }
}

/// Threads that wait to read.
pub(super) struct Readers<'a> {
    threads: Vec<Sender<Share<'a>>>,
    read: Receiver<Option<Got>>,
}

impl<'a> Readers<'a> {
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Readers<'a>
    where
        'a: 'scope,
    {
        let (done, read) = channel();
        let start = |_| {
            let (sender, shares) = channel::<Share<'a>>();
            let done = done.clone();
            let serve = move || {
                for share in shares {
                    // Nobody waits for it any more when another read has failed.
                    share.read(|got| drop(done.send(got)));
                }
            };
            thread::Builder::new().name("cut".to_owned()).spawn_scoped(scope, serve).ok().map(|_| sender)
        };
        Readers { threads: (0..READS).filter_map(start).collect(), read }
    }

    /// Reads all that is `wanted`, roughly in that order, and hands over each read as soon as it is done. Where it
    /// fails, what was handed over is not all, and no further round may be read by these threads.
    pub(super) fn read(
        &self,
        wanted: Vec<Wanted<'a>>,
        until: Option<Instant>,
        mut take: impl FnMut(usize, &JoinedRead, AlignedBuf),
    ) -> Result<(), Unread> {
        let enough = Arc::new(AtomicBool::new(false));
        let mut outcome = Ok(());
        let mut done = |got: Option<Got>| {
            let failure = match got {
                Some(Got { disk, read, bytes: Ok(bytes) }) => return take(disk, &read, bytes),
                Some(Got { disk, bytes: Err(err), .. }) => Unread::Failed(disk, err),
                None => Unread::Late,
            };
            enough.store(true, Ordering::Relaxed);
            if outcome.is_ok() {
                outcome = Err(failure);
            }
        };
        let total = wanted.len();
        // A few reads are over before a thread is awake.
        if total <= FEW || self.threads.is_empty() {
            Share { wanted, until, enough: enough.clone() }.read(&mut done);
            return outcome;
        }
        let mut shares: Vec<Vec<Wanted<'a>>> =
            (0..self.threads.len().min(total.div_ceil(FEW))).map(|_| Vec::new()).collect();
        let count = shares.len();
        wanted.into_iter().enumerate().for_each(|(at, wanted)| shares[at % count].push(wanted));
        for (thread, wanted) in self.threads.iter().zip(shares) {
            // The threads live as long as the senders.
            let _ = thread.send(Share { wanted, until, enough: enough.clone() });
        }
        for got in self.read.iter().take(total) {
            let failed = got.as_ref().is_none_or(|got| got.bytes.is_err());
            done(got);
            if failed {
                break;
            }
        }
        outcome
    }
}

impl Wanted<'_> {
    fn fetch(self) -> Got {
        let mut bytes = AlignedBuf::new(self.read.span.bytes().0 as usize);
        let result = self.read.read(self.reader, &mut bytes);
        Got { disk: self.disk, read: self.read, bytes: result.map(|()| bytes) }
    }
}
