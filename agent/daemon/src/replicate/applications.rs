//! What reaches outside for a point: applications that get ready for it, and people who asked for it.
//!
//! Deliberately not here: how scripts are run (`scripts`), how a request comes in (`request`), and when it is time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use mobility_engine::{CommitKind, Event};
use mobility_format::{Epoch, Generation, manifest::Commit};

use mobility_recovery::PointId;

use super::{Message, Replication, freeze::Freezing, orders::Link, pack::lock};
use crate::{
    clock,
    request::{self, Answer, Made, Request},
    scripts::{Outcome, PointInfo, Quiesced, Reason, Scripts},
};

/// Why no application is told of a point.
const NO_SCRIPTS: &str = "the machine's policy does not let scripts run: allow them there, or ask for a point without --app-consistent";

/// Scripts, requests, and the freeze.
pub(crate) struct Applications {
    pub(super) scripts: Scripts,
    /// What is ready for a point, and waits to be let go.
    quiesced: Arc<Mutex<Option<Quiesced>>>,
    pub(super) freezing: Arc<Mutex<Freezing>>,
    requests_dir: PathBuf,
    /// The requests that wait, by the number that the engine has for them.
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    /// What the point under way is, for those who asked for it.
    committing: Option<(Vec<u64>, Made)>,
}

impl Applications {
    pub(crate) fn new(scripts: Scripts, freezing: Freezing, requests_dir: &Path) -> Applications {
        Applications {
            scripts,
            quiesced: Arc::default(),
            freezing: Arc::new(Mutex::new(freezing)),
            requests_dir: requests_dir.to_owned(),
            requests: BTreeMap::new(),
            next_request: 1,
            committing: None,
        }
    }

    fn answer(&mut self, number: u64, answer: &Answer, link: Option<&mut Link>) {
        let Some(Request { id, .. }) = self.requests.remove(&number) else { return };
        link.into_iter().for_each(|link| link.answered(&id, answer));
        if let Err(err) = request::answer(&self.requests_dir, &id, answer) {
            tracing::warn!("request {id} cannot be answered: {err}");
        }
    }

    /// Those who wait for a point will not get it from this run of the agent.
    pub(super) fn ended(&mut self, mut link: Option<&mut Link>) {
        let reason = "the agent was stopped before the point was made; ask again when it runs".to_owned();
        let numbers: Vec<u64> = self.requests.keys().copied().collect();
        let answer = Answer::Failed { reason };
        numbers.into_iter().for_each(|number| self.answer(number, &answer, link.as_deref_mut()));
    }

    fn reason(&self) -> Reason {
        let asked = self.requests.values().find(|request| request.application);
        asked.map_or(Reason::Schedule, |request| Reason::Request(request.id))
    }
}

impl Replication {
    /// Where requests come in.
    pub(crate) fn requests_dir(&self) -> &Path {
        &self.applications.requests_dir
    }

    /// Somebody asks for a point.
    pub(super) fn requested(&mut self, request: Request) {
        let number = self.applications.next_request;
        self.applications.next_request += 1;
        let allowed = !request.application || self.link.as_ref().is_none_or(Link::allows_scripts);
        self.applications.requests.insert(number, request);
        if !allowed {
            let answer = Answer::Failed { reason: NO_SCRIPTS.to_owned() };
            return self.applications.answer(number, &answer, self.link.as_mut());
        }
        if let Some(reason) = self.halt.refuses_points() {
            let answer = Answer::Failed { reason: reason.to_owned() };
            return self.applications.answer(number, &answer, self.link.as_mut());
        }
        let wish = mobility_engine::Request { id: number, application: request.application };
        self.engine.handle(clock::now(), Event::PointWanted(wish));
    }

    pub(super) fn sync(&self) {
        let disks: Vec<_> =
            self.disks.values().filter(|disk| !disk.gone).map(|disk| disk.disk.clone()).collect();
        let (freezing, mailbox) = (self.applications.freezing.clone(), self.mailbox.clone());
        self.worker.run(move || {
            lock(&freezing).prepare(&disks);
            let _ = mailbox.send(Message::Event(Event::Synced));
        });
    }

    pub(super) fn quiesce(&self, generation: Generation, epoch: Epoch) {
        // The policy may have changed since the point was wanted.
        if self.link.as_ref().is_some_and(|link| !link.allows_scripts()) {
            let _ = self.mailbox.send(Message::Event(Event::Quiesced(Err(NO_SCRIPTS.to_owned()))));
            return;
        }
        let point = PointInfo {
            machine: self.identity.machine,
            generation,
            epoch,
            disks: self.disks.values().map(|disk| disk.disk.given.clone()).collect(),
            reason: self.applications.reason(),
        };
        let scripts = self.applications.scripts.clone();
        let (slot, mailbox) = (self.applications.quiesced.clone(), self.mailbox.clone());
        tokio::task::spawn_blocking(move || {
            let told = scripts.pre(&point).map(|quiesced| {
                let any = !quiesced.is_empty();
                *lock(&slot) = Some(quiesced);
                any
            });
            if let Err(failed) = &told {
                tracing::error!("the applications could not be made ready for a point: {failed}");
            }
            let _ = mailbox.send(Message::Event(Event::Quiesced(told.map_err(|failed| failed.to_string()))));
        });
    }

    pub(super) fn release(&self, succeeded: bool) {
        let (slot, mailbox) = (self.applications.quiesced.clone(), self.mailbox.clone());
        tokio::task::spawn_blocking(move || {
            let outcome = if succeeded { Outcome::ApplicationConsistent } else { Outcome::Failed };
            let quiesced = lock(&slot).take();
            let ended = quiesced.map_or(Ok(()), |quiesced| quiesced.post(outcome));
            if let Err(failed) = &ended {
                tracing::error!("the applications were told to go on, with an error: {failed}");
            }
            let _ = mailbox.send(Message::Event(Event::Released(ended.map_err(|failed| failed.to_string()))));
        });
    }

    /// A point is being committed: what those who asked for it will be told.
    pub(super) fn note_committing(&mut self, kind: &CommitKind, commit: &Commit, made: MadeOf) {
        let (CommitKind::Point(figures) | CommitKind::Fuzzy(figures, _)) = kind else { return };
        let Commit::Point { consistency, cut } = commit else { return };
        let made = Made {
            id: PointId::new(made.epoch, made.digest).to_string(),
            digest: made.digest,
            generation: made.generation,
            epoch: made.epoch,
            time: cut.t0,
            consistency: *consistency,
            method: cut.method,
            reason: cut.reason.clone(),
        };
        self.applications.committing = Some((figures.requests.clone(), made));
    }

    /// The point that was being committed is there.
    pub(super) fn answer_requests(&mut self) {
        let Some((numbers, made)) = self.applications.committing.take() else { return };
        let answer = Answer::Made(made);
        let (applications, link) = (&mut self.applications, &mut self.link);
        numbers.into_iter().for_each(|number| applications.answer(number, &answer, link.as_mut()));
    }
}

/// Names a point.
#[derive(Clone, Copy)]
pub(super) struct MadeOf {
    pub(super) digest: mobility_format::Digest,
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
}
