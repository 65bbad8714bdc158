//! One agent's requests to the guard, and the two things that end a freeze without one: its going and the limit.
//!
//! This thread never makes a call that can wait for a disk; its workers do. Deliberately not here: those.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use super::{
    protect::Protection,
    worker::{State, Worker},
};
use crate::freeze::{
    MAX_FILE_SYSTEMS,
    wire::{self, Kind, MAX_DESCRIPTORS, Received, Record},
};

/// How long a thaw may keep the next one waiting: the order is worth that much, and not more.
const ORDER_PATIENCE: Duration = Duration::from_millis(5);
/// For all of them together.
const TOTAL_PATIENCE: Duration = Duration::from_millis(30);
/// How long the agent, which has asked for a thaw, is kept waiting for its end. It waits a little longer than this.
const ANSWER_PATIENCE: Duration = Duration::from_millis(100);
/// The longest limit that an agent can ask for.
const MAX_LIMIT: Duration = Duration::from_secs(30);

/// What is held at present.
struct Armed {
    cycle: u64,
    /// How many of the workers, from the first on, hold a file system.
    count: usize,
    limit: Duration,
    deadline: Instant,
    /// When the first freeze was asked for.
    started: Option<Instant>,
    /// The freeze that the agent waits for.
    asked: Option<u32>,
    /// The deadline passed, and everything was thawed on that account.
    expired: bool,
}

pub(super) struct Session {
    socket: OwnedFd,
    /// `CLOCK_BOOTTIME`, which also goes on while the machine is suspended.
    timer: OwnedFd,
    /// Written to by the workers.
    settled: Arc<OwnedFd>,
    workers: Vec<Arc<Worker>>,
    armed: Option<Armed>,
    /// Emptied when all is thawed, so that nobody looks for what this guard has dealt with.
    record: Option<OwnedFd>,
    received: [Option<OwnedFd>; MAX_DESCRIPTORS],
}

enum Next {
    GoOn,
    AgentIsGone,
}

impl Session {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Session> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Session {
            socket,
            timer: timerfd_create(TimerfdClockId::Boottime, flags)?,
            settled: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            workers: Vec::with_capacity(MAX_FILE_SYSTEMS),
            armed: None,
            record: None,
            received: wire::no_descriptors(),
        })
    }

    pub(super) fn run(mut self, protection: Protection) -> io::Result<()> {
        let ready = Record { number: protection.bits(), ..Record::new(Kind::Ready, 0) };
        wire::send(self.socket.as_fd(), &ready, &[])?;
        while let Next::GoOn = self.step() {}
        self.thaw_all();
        // Somebody's disk may hang; the process must not go while something of it is frozen.
        for worker in &self.workers {
            while !worker.wait_done(Duration::from_secs(1)) {}
        }
        self.forget_record();
        Ok(())
    }

    fn step(&mut self) -> Next {
        let (mut went, mut spoke, mut rang) = (false, false, false);
        let left = self.time_left();
        let mut sources = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&*self.settled, PollFlags::IN),
        ];
        if poll(&mut sources, left.as_ref()).is_ok() {
            let socket = sources[0].revents();
            // What the agent said before it went is not done any more.
            went = socket.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
            spoke = socket.contains(PollFlags::IN);
            rang = sources[1].revents().contains(PollFlags::IN);
            if rang {
                let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
            }
            if sources[2].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(&*self.settled, &mut [0u8; 8]);
                self.release_late();
            }
        }
        if went {
            return Next::AgentIsGone;
        }
        self.look_at_the_clock(rang);
        self.report_freeze();
        if spoke { self.listen() } else { Next::GoOn }
    }

    /// The time until the deadline on the monotonic clock, for a machine whose timer of the other clock does not ring.
    fn time_left(&self) -> Option<Timespec> {
        let armed = self.armed.as_ref().filter(|armed| !armed.expired)?;
        armed.deadline.saturating_duration_since(Instant::now()).try_into().ok()
    }

    fn look_at_the_clock(&mut self, rang: bool) {
        let Some(armed) = self.armed.as_mut().filter(|armed| !armed.expired) else { return };
        if !rang && Instant::now() < armed.deadline {
            return;
        }
        armed.expired = true;
        let (cycle, asked) = (armed.cycle, armed.asked.take());
        self.thaw_all();
        if let Some(index) = asked {
            self.say(Record {
                index,
                errno: Errno::TIMEDOUT.raw_os_error(),
                ..Record::new(Kind::Frozen, cycle)
            });
        }
        self.release();
    }

    /// Tells the agent of the freeze that it waits for.
    fn report_freeze(&mut self) {
        let Some(armed) = &mut self.armed else { return };
        let Some(index) = armed.asked else { return };
        let Some(outcome) = self.workers.get(index as usize).and_then(|worker| worker.frozen()) else {
            return;
        };
        armed.asked = None;
        let errno = outcome.map_or_else(Errno::raw_os_error, |()| 0);
        let answer = Record { index, errno, ..Record::new(Kind::Frozen, armed.cycle) };
        self.say(answer);
    }

    fn listen(&mut self) -> Next {
        match wire::receive(self.socket.as_fd(), &mut self.received) {
            Ok(Received::Record(record)) => match record.kind {
                Kind::Arm => self.arm(&record),
                Kind::Freeze => self.freeze(&record),
                Kind::Disarm => self.disarm(&record),
                Kind::Ready | Kind::Armed | Kind::Frozen | Kind::Disarmed => return Next::AgentIsGone,
            },
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Whoever says something strange is no agent that could be relied on to thaw.
            Ok(Received::End | Received::Strange) | Err(_) => return Next::AgentIsGone,
        }
        self.received.iter_mut().for_each(|slot| *slot = None);
        Next::GoOn
    }

    /// The first descriptor is the record's file, the others are file systems in the order of freezing.
    fn arm(&mut self, request: &Record) {
        let errno = self.try_arm(request).map_or_else(Errno::raw_os_error, |()| 0);
        self.say(Record { errno, ..Record::new(Kind::Armed, request.cycle) });
    }

    fn try_arm(&mut self, request: &Record) -> Result<(), Errno> {
        self.thaw_all();
        if !self.release() {
            return Err(Errno::BUSY);
        }
        let count = self.received.iter().skip(1).flatten().count();
        while self.workers.len() < count {
            let worker = Worker::start(Arc::clone(&self.settled)).map_err(|_| Errno::NOMEM)?;
            self.workers.push(worker);
        }
        self.record = self.received[0].take();
        let descriptors = self.received.iter_mut().skip(1).filter_map(Option::take);
        self.workers.iter().zip(descriptors).for_each(|(worker, descriptor)| worker.hold(descriptor));
        let limit = request.time().min(MAX_LIMIT);
        let deadline = self.set_timer(limit)?;
        self.armed = Some(Armed {
            cycle: request.cycle,
            count,
            limit,
            deadline,
            started: None,
            asked: None,
            expired: false,
        });
        Ok(())
    }

    fn set_timer(&self, limit: Duration) -> Result<Instant, Errno> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Setting it to zero would switch it off.
        let value = limit.max(Duration::from_nanos(1)).try_into().map_err(|_| Errno::INVAL)?;
        let setting = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(Instant::now() + limit)
    }

    fn freeze(&mut self, request: &Record) {
        if let Err(errno) = self.try_freeze(request) {
            let errno = errno.raw_os_error();
            self.say(Record { index: request.index, errno, ..Record::new(Kind::Frozen, request.cycle) });
        }
    }

    fn try_freeze(&mut self, request: &Record) -> Result<(), Errno> {
        let armed = self.armed.as_ref().filter(|armed| armed.cycle == request.cycle).ok_or(Errno::INVAL)?;
        if armed.expired {
            return Err(Errno::TIMEDOUT);
        }
        let index = request.index as usize;
        let worker = self.workers.get(index).filter(|_| index < armed.count).ok_or(Errno::INVAL)?;
        if armed.asked.is_some() || worker.state() != State::Held {
            return Err(Errno::ALREADY);
        }
        // Nothing is held back before the first freeze, so the time counts from there.
        let first = match armed.started {
            None => Some((Instant::now(), self.set_timer(armed.limit)?)),
            Some(_) => None,
        };
        if let Some(armed) = &mut self.armed {
            if let Some((now, deadline)) = first {
                (armed.started, armed.deadline) = (Some(now), deadline);
            }
            armed.asked = Some(request.index);
        }
        worker.freeze();
        Ok(())
    }

    fn disarm(&mut self, request: &Record) {
        self.thaw_all();
        let until = Instant::now() + ANSWER_PATIENCE;
        for worker in &self.workers {
            worker.wait_done(until.saturating_duration_since(Instant::now()));
        }
        let mut answer = Record::new(Kind::Disarmed, request.cycle);
        if let Some(armed) = self.armed.as_ref().filter(|armed| armed.cycle == request.cycle) {
            let workers = &self.workers[..armed.count];
            let last = workers.iter().filter_map(|worker| worker.thawed().1).max();
            let held = last.zip(armed.started).map(|(last, first)| last.saturating_duration_since(first));
            let failed = workers.iter().find_map(|worker| worker.thawed().0.err());
            let stuck = workers.iter().any(|worker| !matches!(worker.state(), State::Done | State::Free));
            let errno = match (armed.expired, stuck, failed) {
                (true, ..) => Errno::TIMEDOUT.raw_os_error(),
                (_, true, _) => Errno::INPROGRESS.raw_os_error(),
                (.., failed) => failed.map_or(0, Errno::raw_os_error),
            };
            let number = held.unwrap_or_default().as_nanos().try_into().unwrap_or(u64::MAX);
            answer = Record { errno, number, ..answer };
        }
        self.release();
        self.armed = None;
        self.say(answer);
    }

    /// Thaws all that is frozen, in the reverse of the order of freezing where that costs nobody time. What is being
    /// frozen at this moment is thawed when that is through.
    fn thaw_all(&mut self) {
        let Some(armed) = &self.armed else { return };
        let mut patience = TOTAL_PATIENCE;
        for worker in self.workers[..armed.count].iter().rev() {
            worker.end();
            let since = Instant::now();
            worker.wait_done(ORDER_PATIENCE.min(patience));
            patience = patience.saturating_sub(since.elapsed());
        }
    }

    /// A freeze may be through only after its end was asked for and answered, and thawed then: nobody asks a second time.
    fn release_late(&mut self) {
        if self.armed.as_ref().is_none_or(|armed| armed.expired) {
            self.release();
        }
    }

    /// Lets go of what is thawed, so that it can be unmounted; whether that is all.
    fn release(&mut self) -> bool {
        let mut all = true;
        for worker in &self.workers {
            all &= worker.release();
        }
        if all {
            self.forget_record();
        }
        all
    }

    fn forget_record(&mut self) {
        if let Some(record) = self.record.take() {
            let _ = rustix::fs::ftruncate(&record, 0);
        }
    }

    fn say(&self, record: Record) {
        // An agent that does not listen is not worth waiting for; what it misses it finds out by its own limit.
        let _ = wire::send(self.socket.as_fd(), &record, &[]);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.workers.iter().for_each(|worker| worker.quit());
    }
}
