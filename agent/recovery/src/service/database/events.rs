//! What happened, for people: a history of each machine and of the service.
//!
//! Deliberately not here: who is told at once (`processor::watch`).

use jiff::{SignedDuration, Timestamp};
use mobility_format::MachineId;
use serde::Serialize;
use sqlx::query;

use super::{Columns, Database, DatabaseError, Result, millis, time};
use crate::service::secret;

/// How long events are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// The longest message, in characters.
const MAX_MESSAGE: usize = 4096;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Enrolled,
    Unenrolled,
    Revoked,
    Fenced,
    SessionReplaced,
    GenerationStarted,
    EpochRefused,
    StorageDamaged,
    IntervalMissed,
    IntervalMet,
    QuotaExceeded,
    QuotaKept,
    CommandDone,
    CommandFailed,
    PolicyChanged,
    TargetChanged,
    NetworksChanged,
    Paused,
    Resumed,
    PointsRemoved,
    Failover,
    FailoverFailed,
    PlansChanged,
    PlanRun,
    PlanRunWaits,
    PlanRunFailed,
    Exported,
    ExportEnded,
}

impl Kind {
    /// The word for it, as it is written everywhere.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Enrolled => "enrolled",
            Kind::Unenrolled => "unenrolled",
            Kind::Revoked => "revoked",
            Kind::Fenced => "fenced",
            Kind::SessionReplaced => "session-replaced",
            Kind::GenerationStarted => "generation-started",
            Kind::EpochRefused => "epoch-refused",
            Kind::StorageDamaged => "storage-damaged",
            Kind::IntervalMissed => "interval-missed",
            Kind::IntervalMet => "interval-met",
            Kind::QuotaExceeded => "quota-exceeded",
            Kind::QuotaKept => "quota-kept",
            Kind::CommandDone => "command-done",
            Kind::CommandFailed => "command-failed",
            Kind::PolicyChanged => "policy-changed",
            Kind::TargetChanged => "target-changed",
            Kind::NetworksChanged => "networks-changed",
            Kind::Paused => "paused",
            Kind::Resumed => "resumed",
            Kind::PointsRemoved => "points-removed",
            Kind::Failover => "failover",
            Kind::FailoverFailed => "failover-failed",
            Kind::PlansChanged => "plans-changed",
            Kind::PlanRun => "plan-run",
            Kind::PlanRunWaits => "plan-run-waits",
            Kind::PlanRunFailed => "plan-run-failed",
            Kind::Exported => "exported",
            Kind::ExportEnded => "export-ended",
        }
    }

    /// Whether somebody has to be told at once.
    pub(crate) fn is_alert(self) -> bool {
        matches!(
            self,
            Kind::Fenced
                | Kind::EpochRefused
                | Kind::StorageDamaged
                | Kind::IntervalMissed
                | Kind::IntervalMet
                | Kind::QuotaExceeded
                | Kind::QuotaKept
                | Kind::FailoverFailed
                | Kind::PlanRunWaits
                | Kind::PlanRunFailed
        )
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) at: Timestamp,
    pub(crate) machine: Option<MachineId>,
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Database {
    pub(crate) async fn add_event(&self, kind: Kind, event: &Event) -> Result<()> {
        let id = secret::random::<16>().map_err(|err| DatabaseError::Content(err.to_string()))?;
        let message: String = event.message.chars().take(MAX_MESSAGE).collect();
        let statement =
            query("INSERT INTO events (id, machine, at, kind, message) VALUES ($1, $2, $3, $4, $5)");
        let statement = statement
            .bind(secret::hex(&id))
            .bind(event.machine.map(|machine| machine.to_string()))
            .bind(millis(event.at))
            .bind(kind.name())
            .bind(message);
        self.write(statement).await.map(|_| ())
    }

    /// The newest events, of one machine or of all, newest first.
    pub(crate) async fn events(&self, machine: Option<MachineId>, most: u32) -> Result<Vec<Event>> {
        let statement = match machine {
            None => query("SELECT machine, at, kind, message FROM events ORDER BY at DESC, id LIMIT $1"),
            Some(machine) => query(
                "SELECT machine, at, kind, message FROM events WHERE machine = $1 ORDER BY at DESC, id LIMIT $2",
            )
            .bind(machine.to_string()),
        };
        let rows = self.all(statement.bind(i64::from(most))).await?;
        let event = |row: &sqlx::any::AnyRow| {
            Ok(Event {
                at: time(row.number("at")?),
                machine: row.text_if("machine")?.and_then(|text| text.parse().ok()),
                kind: row.text("kind")?,
                message: row.text("message")?,
            })
        };
        rows.iter().map(event).collect()
    }

    /// Removes what is old, of events and of commands that were carried out.
    pub(crate) async fn forget_old(&self, now: Timestamp) -> Result<()> {
        let before = millis(now - KEPT);
        self.write(query("DELETE FROM events WHERE at < $1").bind(before)).await?;
        self.write(query("DELETE FROM commands WHERE done < $1").bind(before)).await.map(|_| ())
    }
}
