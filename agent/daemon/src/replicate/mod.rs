//! The shell around the engine: turns what happens into events, and what the engine wants into work.
//!
//! One loop owns all state and applies one thing at a time; work that takes long is done elsewhere and comes back as a
//! message. Nothing here decides what to do next. Deliberately not here: how the work is done (the modules below).

mod actions;
mod applications;
mod commit;
mod copy;
mod cut;
mod disk;
mod fault;
mod freeze;
mod halt;
mod health;
mod open;
mod orders;
mod pack;
mod report;
mod scan;
mod start;
mod store;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mobility_engine::{CommitFault, Engine, Event, Fault, SegmentId, Time};
use mobility_format::{DiskId, Generation, Head, manifest::SegmentRef};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use self::{
    applications::Applications,
    commit::Prepared,
    disk::{Opening, Protected},
    halt::Halt,
    open::VaultLock,
    orders::Link,
    pack::{Sealed, SharedChain, Window},
    report::Report,
    store::Store,
    worker::Worker,
};
pub(crate) use self::{freeze::thaw_what_was_left, start::start};
use crate::{
    clock, config::Settings, exit::Failure, identity::Identity, request::Request, service::FromService,
    systemd::Systemd,
};

/// How often the disks are looked at, and the state for `status` is written at least.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long work at hand may take to end when the agent stops.
const LAST_WORK: Duration = Duration::from_secs(4);

/// What comes back to the loop.
pub(crate) enum Message {
    /// An answer for the engine.
    Event(Event),
    /// A segment was packed.
    Sealed(Sealed),
    /// An upload ended, in this slot.
    Uploaded { id: SegmentId, result: Result<Option<u64>, Fault> },
    /// A new generation was given, and the head that it goes on from.
    Generation(Result<(Generation, Option<Head>), Fault>),
    /// A commit ended.
    Committed(Result<Head, CommitFault>),
    /// Somebody wants the agent to end, at once or after a last point.
    Stop { after_point: bool },
    /// Somebody asks for a point.
    Requested(Request),
    /// The recovery service says something.
    Service(FromService),
    /// What writes on the machine is stopped, or was started again for this reason.
    Halted(Result<(), String>),
    /// What was stopped is being started again.
    WentOn(Result<(), String>),
    /// The configuration may have changed.
    Reload,
}

/// Sends messages to the loop from any thread.
pub(crate) type Mailbox = UnboundedSender<Message>;

/// Everything the loop owns.
pub(crate) struct Replication {
    engine: Engine,
    identity: Identity,
    store: Arc<dyn Store>,
    link: Option<Link>,
    head: Option<Head>,
    disks: BTreeMap<DiskId, Protected>,
    /// Disks that are being worked on.
    busy: BTreeSet<DiskId>,
    /// When the last scan of each disk began.
    scanned: BTreeMap<DiskId, jiff::Timestamp>,
    /// Disks that were seen to have grown while work on them was at hand.
    grown: BTreeSet<DiskId>,
    chains: BTreeMap<DiskId, SharedChain>,
    segments: BTreeMap<SegmentId, Arc<Sealed>>,
    references: BTreeMap<SegmentId, SegmentRef>,
    prepared: Option<Prepared>,
    window: Arc<Window>,
    worker: Worker,
    mailbox: Mailbox,
    messages: UnboundedReceiver<Message>,
    cancel: Arc<AtomicBool>,
    opening: Opening,
    head_file: PathBuf,
    applications: Applications,
    halt: Halt,
    report: Report,
    systemd: Systemd,
    next_housekeeping: Time,
    stopped: bool,
    /// Why it ended by itself, if it did.
    failure: Option<Failure>,
    _lock: Option<VaultLock>,
}

impl Replication {
    /// Replicates until told to stop. `reload` reads the configuration again.
    ///
    /// # Errors
    /// Why it ended by itself: the service has no use for this agent any more.
    pub(crate) async fn run(mut self, reload: impl Fn() -> Result<Settings, String>) -> Result<(), Failure> {
        self.systemd.ready();
        self.act();
        while !self.stopped {
            let now = clock::now();
            let wakeup =
                self.engine.wakeup(now).unwrap_or(self.next_housekeeping).min(self.next_housekeeping);
            let wait = wakeup.since(now).min(self.systemd.period().unwrap_or(HOUSEKEEPING) / 2);
            let message = tokio::time::timeout(wait, self.messages.recv()).await;
            match message {
                Ok(Some(Message::Reload)) => self.reload(&reload),
                Ok(Some(message)) => self.take_in(message),
                Ok(None) => self.stopped = true,
                Err(_) => self.engine.tick(clock::now()),
            }
            self.look_at_last_point();
            self.act();
            self.housekeep();
        }
        self.finish();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn take_in(&mut self, message: Message) {
        let now = clock::now();
        match message {
            Message::Event(event) => {
                self.report.notice(&event);
                self.note_idle(&event);
                self.engine.handle(now, event);
                self.look_at_grown();
            }
            Message::Sealed(sealed) => self.sealed(sealed),
            Message::Uploaded { id, result } => self.uploaded(id, result),
            Message::Generation(result) => self.generation_given(result),
            Message::Committed(result) => self.committed(result),
            Message::Stop { after_point } => {
                self.systemd.stopping();
                if !after_point {
                    self.window.close();
                    self.cancel.store(true, Ordering::Relaxed);
                }
                self.engine.handle(now, Event::Stop { after_point });
            }
            Message::Requested(request) => self.requested(request),
            Message::Service(said) => self.said_by_service(said),
            Message::Halted(result) => self.halted(result),
            Message::WentOn(result) => self.went_on(result),
            // Taken in by the loop itself.
            Message::Reload => {}
        }
    }

    fn reload(&mut self, reload: &impl Fn() -> Result<Settings, String>) {
        self.systemd.reloading();
        match reload() {
            Ok(settings) => {
                for change in self.report.settings_changed(&settings) {
                    tracing::info!("{change}");
                }
                self.limits_changed();
            }
            Err(problem) => {
                tracing::error!(
                    "the changed configuration is not valid, the one before stays in force: {problem}"
                );
                self.report.error(problem);
            }
        }
        self.systemd.ready();
    }

    fn finish(&mut self) {
        self.window.close();
        self.cancel.store(true, Ordering::Relaxed);
        self.worker.finish(LAST_WORK);
        self.applications.ended(self.link.as_mut());
        self.stop_service();
        self.report.ended();
        tracing::info!("stopped; tracking goes on in the kernel for disks that have a tracker");
    }
}
