//! Many machines at once in one process: each with its own keys, certificate, session and connections, speaking the real protocol.
//!
//! What a machine does is in `machine`, what it commits in `point`, how long everything took in `ledger`. They beat as often as
//! the service wishes, each at a moment of its own, wait for commands as agents do, and commit small recovery points. Nothing here is
//! patient: what is refused or not answered is counted, and the next one comes at its time. Deliberately not here: what makes
//! a real agent reliable, and what is asked of the service beside (`tests/perf/fleet`, `tests/service`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

mod ledger;
mod machine;
mod point;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};

use crate::dice::Dice;

pub use ledger::{Lane, Ledger, Spread};
pub use machine::{Failed, Machine};

/// How many machines enrol at once.
const ENROL_AT_ONCE: usize = 32;
/// How long a machine waits after a wait for commands has failed.
const REST: Duration = Duration::from_secs(1);

/// Where a service is, and whom to trust.
#[derive(Clone, Debug)]
pub struct Place {
    /// The addresses of its instances.
    pub addresses: Vec<String>,
    /// The certificate of its authority.
    pub authority: String,
}

/// What machines do while they run.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// From one heartbeat to the next; as the service wishes, where it is not said.
    pub beat_every: Option<Duration>,
    /// From one recovery point to the next; none are made where it is not said.
    pub commit_every: Option<Duration>,
    /// How many of them wait for commands, the first so many: each that does holds a second connection.
    pub waiting: usize,
}

/// Machines, and the threads that they share.
#[derive(Debug)]
pub struct Fleet {
    runtime: Runtime,
    place: Place,
    seed: u64,
    machines: Vec<Arc<Machine>>,
    /// Those that run: the first so many.
    running: usize,
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
    ledger: Arc<Ledger>,
}

impl Fleet {
    /// An empty one.
    ///
    /// # Panics
    /// When no threads can be had.
    #[must_use]
    pub fn new(place: Place, seed: u64) -> Fleet {
        rustls::crypto::ring::default_provider().install_default().ok();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (machines, tasks, ledger) = (Vec::new(), Mutex::default(), Arc::default());
        Fleet { runtime, place, seed, machines, running: 0, tasks, stop: watch::Sender::new(false), ledger }
    }

    /// What was done, and how long it took.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The machines, in the order in which they enrolled.
    #[must_use]
    pub fn machines(&self) -> &[Arc<Machine>] {
        &self.machines
    }

    /// Enrols so many more, each with a session and a generation.
    ///
    /// # Panics
    /// When one of them is refused.
    pub fn enrol(&mut self, token: &str, count: usize) {
        let known = self.machines.len();
        let (place, seed) = (&self.place, self.seed);
        let enrolled =
            stream::iter(known..known + count).map(|number| Machine::enrol(place, token, seed, number));
        let enrolled = self.runtime.block_on(enrolled.buffer_unordered(ENROL_AT_ONCE).collect::<Vec<_>>());
        let machine =
            |enrolled: Result<Machine, Failed>| Arc::new(enrolled.unwrap_or_else(|err| panic!("{err}")));
        self.machines.extend(enrolled.into_iter().map(machine));
    }

    /// From now on all use the instances at these addresses, each one of them.
    pub fn spread_over(&self, addresses: &[String]) {
        for (number, machine) in self.machines.iter().enumerate() {
            machine.go_to(&addresses[number % addresses.len()]);
        }
    }

    /// Lets machines run until there are so many that do. They begin spread over a while.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn run(&mut self, count: usize, habits: Habits, over: Duration) {
        let _guard = self.runtime.enter();
        let mut tasks = self.tasks.lock().unwrap();
        let mut dice = Dice::new(self.seed ^ 0xF1EE7 ^ self.running as u64);
        for (number, machine) in self.machines.iter().enumerate().take(count).skip(self.running) {
            let after = |dice: &mut Dice, most: Duration| {
                most.mul_f64(dice.below(1 << 20) as f64 / f64::from(1 << 20))
            };
            let begin = after(&mut dice, over);
            let bell = Arc::new(Notify::new());
            let (machine, ledger) = (machine.clone(), self.ledger.clone());
            tasks.spawn(beat(
                machine.clone(),
                ledger.clone(),
                habits,
                begin,
                bell.clone(),
                self.stop.subscribe(),
            ));
            if number < habits.waiting {
                tasks.spawn(wait_for_commands(machine.clone(), ledger.clone(), begin, self.stop.subscribe()));
            }
            if let Some(every) = habits.commit_every {
                let begin = begin + after(&mut dice, every);
                tasks.spawn(commit(machine, ledger, every, begin, bell, self.stop.subscribe()));
            }
        }
        self.running = count;
    }

    /// Ends what runs. What was begun is done first.
    pub fn rest(&mut self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        self.runtime.block_on(async { while tasks.join_next().await.is_some() {} });
        (self.running, self.stop) = (0, watch::Sender::new(false));
    }

    /// Has all machines do something at once.
    pub fn all_at_once<T, W: Future<Output = T>>(&self, mut work: impl FnMut(Arc<Machine>) -> W) -> Vec<T> {
        let work: Vec<_> = self.machines.iter().map(|machine| work(machine.clone())).collect();
        self.runtime.block_on(futures_util::future::join_all(work))
    }

    /// Runs one thing to its end.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// Beats by its own clock: a heartbeat that comes late makes the next one no later.
async fn beat(
    machine: Arc<Machine>,
    ledger: Arc<Ledger>,
    habits: Habits,
    begin: Duration,
    bell: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let mut due = Instant::now() + begin;
    let mut dice = machine.dice(1);
    while !*stop.borrow() {
        let scheduled = tokio::select! {
            () = sleep(due.saturating_duration_since(Instant::now())) => true,
            () = bell.notified() => false,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        ledger.beats.asked();
        let next_s = ledger.beats.time(machine.beat()).await.map_or(10, |answer| answer.next_s);
        let every = habits.beat_every.unwrap_or(Duration::from_secs(next_s));
        // A tenth of the time earlier or later, so that those who once came together do not do so for ever.
        let every = every.mul_f64(0.9 + dice.below(1000) as f64 / 5000.0);
        due = if scheduled { due + every } else { Instant::now() + every };
    }
}

async fn wait_for_commands(
    machine: Arc<Machine>,
    ledger: Arc<Ledger>,
    begin: Duration,
    mut stop: watch::Receiver<bool>,
) {
    sleep(begin).await;
    while !*stop.borrow() {
        let polled = tokio::select! {
            polled = machine.wait_for_commands() => polled,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        ledger.polls.asked();
        match polled {
            Ok(_) => ledger.polls.done(Duration::ZERO),
            Err(failed) => {
                ledger.polls.failed(&failed);
                sleep(REST).await;
            }
        }
    }
}

async fn commit(
    machine: Arc<Machine>,
    ledger: Arc<Ledger>,
    every: Duration,
    begin: Duration,
    bell: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let mut due = Instant::now() + begin;
    while !*stop.borrow() {
        tokio::select! {
            () = sleep(due.saturating_duration_since(Instant::now())) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        ledger.commits.asked();
        if ledger.commits.time(machine.commit()).await.is_some() {
            // As agents do: a heartbeat after every point.
            bell.notify_one();
        }
        due += every;
    }
}
