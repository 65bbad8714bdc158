//! What calls and background threads of the service have in common: keys, connections, grants, and whether this machine is
//! still welcome.
//!
//! Deliberately not here: what the threads do (`heartbeat`, `commands`, `upkeep`).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mobility_format::{
    Epoch, Generation, MachineId, SessionId,
    control::{Claim, CommandId, CommandResult, CommitNotice, Limited, MachineHealth, Policy},
};
use serde::de::DeserializeOwned;

use super::{
    FromService, Payload,
    client::{Ask, Client},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    grants::Granary,
    identity::Keys,
    pace::Pace,
    state_dir::StateDir,
    waits::Bell,
};

/// The file that holds the policy last heard of.
pub(super) const POLICY: &str = "policy";
/// Results of commands that wait to be sent.
const MOST_RESULTS: usize = 64;
/// Commits that wait to be seen, and the bytes of their manifests.
const MOST_COMMITS: usize = 4096;
const LONGEST_COMMITS: usize = 16 << 20;
/// How often a machine that was taken out of protection asks whether it is so still.
pub(super) const REVOKED_WAIT: Duration = Duration::from_secs(3600);

/// Whether the service goes on with this machine.
enum Standing {
    Good,
    Fenced(String),
    /// Until when nothing is asked.
    Revoked(String, Instant),
}

/// What the next heartbeat tells.
#[derive(Clone)]
pub(super) struct Report {
    pub(super) head: Option<Claim>,
    pub(super) health: MachineHealth,
}

/// A commit that the service shall look at.
#[derive(Clone)]
pub(super) struct Commit {
    pub(super) notice: CommitNotice,
    pub(super) manifest: Payload,
}

pub(super) struct Connection {
    pub(super) state: StateDir,
    pub(super) keys: Mutex<Keys>,
    pub(super) client: Client,
    pub(super) machine: MachineId,
    pub(super) session: SessionId,
    pub(super) pace: Arc<Pace>,
    pub(super) granary: Granary,
    pub(super) options: super::Options,
    /// Authorities that stores' certificates may come from besides the system's (PEM).
    pub(super) more_authorities: Option<String>,
    /// The number for the next heartbeat, once the session has begun. Held while one is under way: they go one by one.
    pub(super) turn: Mutex<Option<u64>>,
    pub(super) policy: Mutex<Option<Policy>>,
    pub(super) report: Mutex<Option<Report>>,
    pub(super) results: Mutex<VecDeque<(CommandId, CommandResult)>>,
    /// Commits that the service has not said it sees, in their order.
    pub(super) commits: Mutex<VecDeque<Commit>>,
    pub(super) renew_now: AtomicBool,
    /// The command that wanted it.
    pub(super) renew_command: Mutex<Option<CommandId>>,
    pub(super) heart: Bell,
    pub(super) orders: Bell,
    pub(super) chores: Bell,
    pub(super) deliver: OnceLock<Box<dyn Fn(FromService) + Send + Sync>>,
    standing: Mutex<Standing>,
    next_epoch: AtomicU64,
    begun: AtomicBool,
}

/// Locks, also after a panic elsewhere: what is guarded here is replaced whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`Connection`] is made of.
pub(super) struct Parts {
    pub(super) state: StateDir,
    pub(super) keys: Keys,
    pub(super) client: Client,
    pub(super) machine: MachineId,
    pub(super) session: SessionId,
    pub(super) granary: Granary,
    pub(super) policy: Option<Policy>,
    pub(super) options: super::Options,
    pub(super) more_authorities: Option<String>,
}

impl Connection {
    pub(super) fn new(parts: Parts) -> Connection {
        let Parts { state, keys, client, machine, session, granary, policy, options, more_authorities } =
            parts;
        Connection {
            state,
            keys: Mutex::new(keys),
            client,
            machine,
            session,
            pace: Arc::new(Pace::new()),
            granary,
            options,
            more_authorities,
            turn: Mutex::new(None),
            policy: Mutex::new(policy),
            report: Mutex::new(None),
            results: Mutex::new(VecDeque::new()),
            commits: Mutex::new(VecDeque::new()),
            renew_now: AtomicBool::new(false),
            renew_command: Mutex::new(None),
            begun: AtomicBool::new(false),
            heart: Bell::default(),
            orders: Bell::default(),
            chores: Bell::default(),
            deliver: OnceLock::new(),
            standing: Mutex::new(Standing::Good),
            next_epoch: AtomicU64::new(0),
        }
    }

    /// Tells the agent something.
    pub(super) fn deliver(&self, what: FromService) {
        if let Some(deliver) = self.deliver.get() {
            deliver(what);
        }
    }

    /// Refuses at once what would be refused.
    pub(super) fn check_standing(&self) -> Result<(), ServiceFault> {
        match &*lock(&self.standing) {
            Standing::Good => Ok(()),
            Standing::Fenced(why) => Err(ServiceFault::new(Kind::Fenced, why.clone())),
            Standing::Revoked(why, until) => {
                let left = until.saturating_duration_since(Instant::now());
                match left.is_zero() {
                    true => Ok(()),
                    false => Err(ServiceFault::new(Kind::Revoked, why.clone()).after(Some(left))),
                }
            }
        }
    }

    /// Asks the service, and draws conclusions for the whole agent from what it says.
    pub(super) fn call<A: DeserializeOwned + Limited>(&self, ask: &Ask) -> Result<A, ServiceFault> {
        self.check_standing()?;
        self.conclude(self.client.call(ask))
    }

    /// As [`Connection::call`], for an answer that is no message.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Vec<u8>, ServiceFault> {
        self.check_standing()?;
        self.conclude(self.client.ask(ask))
    }

    pub(super) fn conclude<T>(&self, result: Result<T, ServiceFault>) -> Result<T, ServiceFault> {
        let mut standing = lock(&self.standing);
        let news = match (&result, &*standing) {
            (Err(fault), _) if fault.kind == Kind::Fenced => {
                let known = matches!(*standing, Standing::Fenced(_));
                *standing = Standing::Fenced(fault.message.clone());
                (!known).then(|| FromService::Fenced(fault.message.clone()))
            }
            (_, Standing::Fenced(_)) => None,
            (Err(fault), _) if fault.kind == Kind::Revoked => {
                let known = matches!(*standing, Standing::Revoked(..));
                *standing = Standing::Revoked(fault.message.clone(), Instant::now() + REVOKED_WAIT);
                (!known).then(|| FromService::Revoked(fault.message.clone()))
            }
            (Err(fault), _) => {
                if fault.kind == Kind::Unauthenticated && !self.renew_now.swap(true, Ordering::Relaxed) {
                    self.chores.ring();
                }
                None
            }
            (Ok(_), Standing::Revoked(..)) => {
                *standing = Standing::Good;
                Some(FromService::Reinstated)
            }
            (Ok(_), Standing::Good) => None,
        };
        drop(standing);
        if let Some(news) = news {
            self.deliver(news);
        }
        result
    }

    /// Fetches a batch of grants. Returns whether there should be more.
    pub(super) fn fetch_grants(
        &self,
        generation: Generation,
        first: Epoch,
        least: (u32, u32),
    ) -> Result<bool, ServiceFault> {
        self.check_standing()?;
        let first = (first.0 != 0).then_some(first);
        self.conclude(self.granary.fetch(&self.client, &self.state, self.session, (generation, first), least))
    }

    /// The session has begun: heartbeats and commands may be asked for.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        self.wake_all();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// The epoch whose manifest comes next; 0 where nobody knows yet.
    pub(super) fn next_epoch(&self) -> Epoch {
        Epoch(self.next_epoch.load(Ordering::Relaxed))
    }

    pub(super) fn set_next_epoch(&self, epoch: Epoch) {
        self.next_epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// A manifest was put: the service shall look at it. Each has to be seen: a store may have lost any of them. Beyond a
    /// limit the oldest go; the service's own look at the store is left for them.
    pub(super) fn committed(&self, notice: CommitNotice, manifest: Payload) {
        self.set_next_epoch(notice.epoch.next());
        let mut commits = lock(&self.commits);
        commits.push_back(Commit { notice, manifest });
        let length = |commit: &Commit| (*commit.manifest).as_ref().len();
        while commits.len() > MOST_COMMITS
            || (commits.len() > 1 && commits.iter().map(length).sum::<usize>() > LONGEST_COMMITS)
        {
            commits.pop_front();
        }
        drop(commits);
        self.chores.ring();
    }

    /// What was committed in older generations counts as far as the service has said, and no further.
    pub(super) fn begin_generation(&self, generation: Generation) {
        lock(&self.commits).retain(|commit| commit.notice.generation >= generation);
    }

    /// All epochs up to this one are in target storage: nobody has to look at their manifests.
    pub(super) fn taken_in(&self, epoch: Epoch) {
        lock(&self.commits).retain(|commit| commit.notice.epoch > epoch);
    }

    /// What came of a command, to be told in the background.
    pub(super) fn finished(&self, id: CommandId, mut result: CommandResult) {
        if result.check().is_err() {
            let mut end = 64 << 10;
            while !result.message.is_char_boundary(end) {
                end -= 1;
            }
            result.message.truncate(end);
        }
        let mut results = lock(&self.results);
        if results.len() < MOST_RESULTS {
            results.push_back((id, result));
        }
        drop(results);
        self.chores.ring();
        self.orders.ring();
    }

    /// Follows another policy from now on.
    pub(super) fn follow(&self, policy: &Policy) {
        *lock(&self.policy) = Some(policy.clone());
        self.granary.want(super::wanted(&self.options, Some(policy), self.disks()));
        // Without the file, an agent that starts while the service is away has to wait for it.
        if !crate::log::is_held_back()
            && let Err(err) = self.state.write(POLICY, policy)
        {
            tracing::warn!("the policy cannot be kept over a restart: {err}");
        }
        self.chores.ring();
    }

    fn disks(&self) -> usize {
        lock(&self.report).as_ref().map_or(1, |report| report.health.disks.len())
    }

    /// Wakes everybody, for the end.
    pub(super) fn wake_all(&self) {
        [&self.heart, &self.orders, &self.chores].iter().for_each(|bell| bell.ring());
    }

    /// The longest wait of a background thread between two tries.
    pub(super) fn longest_wait(&self) -> Duration {
        self.options.retry_wait.unwrap_or(Duration::from_secs(60))
    }
}
