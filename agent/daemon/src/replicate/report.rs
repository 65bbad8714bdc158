//! Keeps what the operator is told: the log line of each point, the state file, the last error.
//!
//! Deliberately not here: any decision.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use mobility_engine::{
    CommitKind, DiskPhase, DiskStatus, Event, Fault, Limits, PointFigures, Status, Time, Verdict,
};
use mobility_format::{
    ByteCount, Digest, Epoch, MachineId,
    control::{self, DiskHealth, MachineHealth, Trouble},
    manifest::Commit,
};

use super::orders::Captures;
use crate::{
    clock,
    config::Settings,
    state_file::{self, LastPoint, Problem, State},
    stop::StopSettings,
};

/// A fault that comes back within this time is not logged again.
const AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// What the operator is told.
pub(crate) struct Report {
    machine: MachineId,
    settings: Settings,
    file: PathBuf,
    started: Timestamp,
    last_point: Option<LastPoint>,
    last_point_at: Time,
    committing: Option<LastPoint>,
    last_error: Option<Problem>,
    churn: ByteCount,
    outage_known: bool,
    bar: ProgressBar,
    bar_total: u64,
}

impl Report {
    pub(crate) fn new(machine: MachineId, settings: Settings, file: PathBuf, bar: ProgressBar) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Report {
            machine,
            settings,
            file,
            started: clock::wall(),
            last_point: None,
            last_point_at: clock::now(),
            committing: None,
            last_error: None,
            churn: ByteCount(0),
            outage_known: false,
            bar,
            bar_total: 0,
        }
    }

    /// Something came back from work.
    pub(crate) fn notice(&mut self, event: &Event) {
        match event {
            Event::Copied(_, _, Some(fault))
            | Event::Scanned(_, Err(fault))
            | Event::Compared(_, Err(fault))
            | Event::Confirmed(_, Err(fault))
            | Event::CutDone(Verdict::Unread(_, fault), ..) => {
                if !self.just_said(&fault.message) {
                    tracing::error!("{}", fault.message);
                }
                self.error_of(fault);
            }
            Event::CutDone(verdict, figures, _) => {
                let (window_us, held_us, rounds) = (figures.window_us, figures.held_us, figures.rounds);
                tracing::debug!(window_us, held_us, rounds, read = %figures.read, "cut: {verdict:?}");
            }
            Event::Audited(disk, _, missed) if !missed.is_empty() => {
                let message = format!(
                    "the audit found {} blocks of disk {disk} changed that the tracker had not marked; they are sent \
                     again and the whole disk is compared",
                    missed.len()
                );
                tracing::error!("{message}");
                self.error(message);
            }
            _ => {}
        }
    }

    /// Whether this was the last thing that went wrong, again and again until now.
    fn just_said(&self, message: &str) -> bool {
        self.last_error
            .as_ref()
            .is_some_and(|last| last.message == message && clock::wall().duration_since(last.since) < AGAIN)
    }

    /// The storage answered, well or not. Only a change is logged.
    pub(crate) fn outage(&mut self, fault: Option<&Fault>) {
        match fault {
            Some(fault) => {
                if !std::mem::replace(&mut self.outage_known, true) {
                    tracing::error!("{}", fault.message);
                }
                self.error_of(fault);
            }
            None if std::mem::take(&mut self.outage_known) => tracing::info!("the storage works again"),
            None => {}
        }
    }

    pub(crate) fn error(&mut self, message: String) {
        self.last_error =
            Some(Problem { kind: "agent".to_owned(), message, since: clock::wall(), retry: None });
    }

    fn error_of(&mut self, fault: &Fault) {
        let kind = fault.kind.name().to_owned();
        self.last_error =
            Some(Problem { kind, message: fault.message.clone(), since: clock::wall(), retry: None });
    }

    /// What was dirtied each second since the last point.
    pub(crate) fn dirty_rate(&self, kind: &CommitKind) -> ByteCount {
        let millis = clock::now().since(self.last_point_at).as_millis().max(1);
        let changed = figures(kind).map_or(0, |figures| figures.changed.0);
        ByteCount(u64::try_from(u128::from(changed) * 1000 / millis).unwrap_or(u64::MAX))
    }

    pub(crate) fn committing(&mut self, kind: &CommitKind, commit: &Commit, epoch: Epoch, digest: Digest) {
        self.churn = self.dirty_rate(kind);
        let (Some(figures), Commit::Point { consistency, cut }) = (figures(kind), commit) else {
            self.committing = None;
            return;
        };
        let (time, consistency, cut) = (clock::wall(), *consistency, cut.clone());
        self.committing = Some(LastPoint { epoch, digest, time, consistency, cut, changed: figures.changed });
    }

    pub(crate) fn committed(&mut self) {
        let Some(point) = self.committing.take() else { return };
        let (epoch, changed, cut) = (point.epoch, point.changed, &point.cut);
        let (kind, window, held) = (point.consistency.name(), cut.window_us, cut.held_us);
        match &cut.reason {
            None if held > 0 => tracing::info!(
                "recovery point {epoch}: {kind}-consistent, {changed} changed, cut in {window} µs, writes held for {held} µs"
            ),
            None => {
                tracing::info!(
                    "recovery point {epoch}: {kind}-consistent, {changed} changed, cut in {window} µs"
                );
            }
            Some(reason) => {
                tracing::warn!("recovery point {epoch}: only {kind}, {changed} changed: {reason}")
            }
        }
        self.last_point_at = clock::now();
        self.last_point = Some(point);
    }

    /// What a changed configuration means, in words.
    pub(crate) fn settings_changed(&mut self, settings: &Settings) -> Vec<String> {
        let mut changes = Vec::new();
        let old = &self.settings;
        if settings.limits != old.limits {
            changes.push("the changed interval and limits are in force".to_owned());
        }
        if (&settings.vault, &settings.disks, settings.capture) != (&old.vault, &old.disks, old.capture) {
            changes.push(
                "vault, disks and capture as changed come into force when the agent is restarted".to_owned(),
            );
        }
        self.settings.limits = settings.limits;
        self.settings.stop.clone_from(&settings.stop);
        changes
    }

    /// The limits of the configuration.
    pub(crate) fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// Whether and how the machine may be stopped.
    pub(crate) fn stop_settings(&self) -> &StopSettings {
        &self.settings.stop
    }

    /// What a recovery service is told.
    pub(crate) fn health(&self, status: &Status, disks: &Captures) -> MachineHealth {
        let state = self.state(status, disks);
        let trouble = |problem: &Problem| Trouble {
            kind: problem.kind.clone(),
            message: problem.message.clone(),
            since: problem.since,
        };
        let point = |point: &LastPoint| control::LastPoint {
            epoch: point.epoch,
            time: point.time,
            consistency: point.consistency,
        };
        let disk = |disk: &state_file::Disk| DiskHealth {
            id: disk.id,
            name: disk.path.display().to_string(),
            size: disk.size,
            capture: disk.capture.clone(),
            state: disk.state.clone(),
            remaining: disk.remaining,
            resync_reason: disk.resync_reason.clone(),
            audited_blocks: disk.audited_blocks,
            missed_blocks: disk.missed_blocks,
        };
        MachineHealth {
            agent: state.agent.clone(),
            clock: state.updated,
            phase: state.phase.clone(),
            last_point: state.last_point.as_ref().map(point),
            churn_per_s: state.churn_per_s,
            backlog: state.backlog,
            // The connection knows, and fills it in.
            certificate_expires: None,
            trouble: state.outage.iter().chain(&state.last_error).map(trouble).collect(),
            disks: state.disks.iter().map(disk).collect(),
        }
    }

    /// Writes the state file, and returns it as one line.
    pub(crate) fn write(&mut self, status: &Status, disks: &Captures) -> String {
        let state = self.state(status, disks);
        if let Err(err) = state.write(&self.file) {
            tracing::debug!("{}: {err}", self.file.display());
        }
        self.progress(status);
        line(&state)
    }

    fn progress(&mut self, status: &Status) {
        let left: u64 = status.disks.iter().map(|disk| disk.unverified.0).sum();
        self.bar_total = if left == 0 { 0 } else { self.bar_total.max(left) };
        if left == 0 {
            self.bar.finish_and_clear();
            return;
        }
        self.bar.set_length(self.bar_total);
        self.bar.set_position(self.bar_total - left);
        self.bar.set_message(format!("{} left", ByteCount(left)));
    }

    fn state(&self, status: &Status, paths: &Captures) -> State {
        let now = clock::wall();
        let seconds = |since: Timestamp| u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
        let disks: Vec<_> = status.disks.iter().map(|disk| disk_state(disk, paths)).collect();
        State {
            version: state_file::VERSION,
            pid: std::process::id(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            machine: self.machine,
            vault: self.settings.vault.clone(),
            updated: now,
            started: self.started,
            phase: status.phase.to_owned(),
            generation: status.generation,
            epoch: status.epoch,
            interval_s: status.interval.as_secs(),
            rpo_s: self.last_point.as_ref().map(|point| seconds(point.time)),
            last_point: self.last_point.clone(),
            next_point: clock::wall_of(status.point_due),
            churn_per_s: self.churn,
            backlog: ByteCount(status.disks.iter().map(|disk| disk.backlog.0).sum()),
            uploaded: status.uploaded,
            outage: status.outage.as_ref().map(|outage| Problem {
                kind: outage.fault.kind.name().to_owned(),
                message: outage.fault.message.clone(),
                since: clock::wall_of(outage.since),
                retry: Some(clock::wall_of(outage.retry_at)),
            }),
            last_error: self.last_error.clone(),
            disks,
        }
    }

    /// The agent ends: there is nothing to tell any more.
    pub(crate) fn ended(&self) {
        self.bar.finish_and_clear();
        // One that stays behind is seen to be of a process that is gone.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn figures(kind: &CommitKind) -> Option<&PointFigures> {
    match kind {
        CommitKind::Checkpoint => None,
        CommitKind::Point(figures) | CommitKind::Fuzzy(figures, _) => Some(figures),
    }
}

fn disk_state(disk: &DiskStatus, paths: &Captures) -> state_file::Disk {
    let (path, capture) = paths.get(&disk.id).cloned().unwrap_or_default();
    state_file::Disk {
        id: disk.id,
        path,
        capture: capture.to_owned(),
        state: match disk.phase {
            DiskPhase::InitialReplication => "initial-replication",
            DiskPhase::Resync => "resync",
            DiskPhase::Protected => "protected",
            DiskPhase::Failing => "failing",
            DiskPhase::Gone => "gone",
        }
        .to_owned(),
        size: disk.size,
        owed: disk.owed,
        remaining: disk.unverified,
        resync_reason: disk.resync.clone(),
        problem: disk.fault.as_ref().map(|fault| fault.message.clone()),
        audited_blocks: disk.audited_blocks,
        missed_blocks: disk.missed_blocks,
    }
}

/// The state in one line, for systemd.
fn line(state: &State) -> String {
    if let Some(outage) = &state.outage {
        return format!("waiting for storage: {}", outage.message);
    }
    let protected = state.disks.iter().filter(|disk| disk.state == "protected").count();
    let point = state
        .rpo_s
        .map_or_else(|| "no recovery point yet".to_owned(), |rpo| format!("last point {rpo} s ago"));
    format!("{protected} of {} disks protected, {point}, {} to send", state.disks.len(), state.backlog)
}
