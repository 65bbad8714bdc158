//! How far a machine is: what of it was taken in, and how much that takes.
//!
//! Deliberately not here: which run of its agent may add to it (`sessions`).

use jiff::Timestamp;
use mobility_format::{ByteCount, Generation, Head, MachineId, SessionId};
use sqlx::query;

use super::{Columns, Database, Result, json, millis, stored};

/// The state of a machine that requests are held against.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) session: Option<SessionId>,
    pub(crate) generation: Generation,
    pub(crate) taken_in: u64,
    /// The newest generation of which something was refused.
    pub(crate) refused: Generation,
    pub(crate) head: Option<Head>,
    /// Whether an interval was missed.
    pub(crate) overdue: bool,
    /// How much of target storage its points take, if somebody has looked.
    pub(crate) stored: Option<ByteCount>,
    /// Whether it has something that its quota leaves no room for.
    pub(crate) over_quota: bool,
}

/// An epoch that was taken in.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) head: Head,
    /// Whether it is a recovery point.
    pub(crate) point: bool,
    /// How much its segments take.
    pub(crate) bytes: ByteCount,
}

impl Database {
    /// The machine's state.
    pub(crate) async fn state(&self, machine: MachineId) -> Result<Option<State>> {
        let statement = query(
            "SELECT session, generation, taken_in, refused, head, overdue, stored, over_quota FROM states
             WHERE machine = $1",
        );
        let Some(row) = self.one(statement.bind(machine.to_string())).await? else { return Ok(None) };
        Ok(Some(State {
            session: row.text_if("session")?.and_then(|text| text.parse().ok()),
            generation: Generation(row.count("generation")?),
            taken_in: row.count("taken_in")?,
            refused: Generation(row.count("refused")?),
            head: row.json_if("head")?,
            overdue: row.number("overdue")? != 0,
            stored: row.bytes_if("stored")?,
            over_quota: row.number("over_quota")? != 0,
        }))
    }

    /// Notes the newest generation that target storage knows.
    pub(crate) async fn note_generation(&self, machine: MachineId, generation: Generation) -> Result<()> {
        let statement = query("UPDATE states SET generation = $1 WHERE machine = $2 AND generation < $3");
        let number = stored(generation.0);
        self.write(statement.bind(number).bind(machine.to_string()).bind(number)).await.map(|_| ())
    }

    /// Notes what was taken in: the new head, how much it took of target storage, and whether it is a recovery point.
    pub(crate) async fn note_head(&self, machine: MachineId, taken: &Taken, now: Timestamp) -> Result<()> {
        let statement = query(
            "UPDATE states SET head = $1, taken_in = $2,
                point_epoch = CASE WHEN $3 = 1 THEN $4 ELSE point_epoch END,
                point_at = CASE WHEN $5 = 1 THEN $6 ELSE point_at END, stored = stored + $7
             WHERE machine = $8 AND (taken_in < $9 OR head IS NULL)",
        );
        let head = &taken.head;
        let (point, epoch) = (i64::from(taken.point), stored(head.epoch.0));
        let statement = statement
            .bind(json(head)?)
            .bind(epoch)
            .bind(point)
            .bind(epoch)
            .bind(point)
            .bind(millis(now))
            .bind(stored(taken.bytes.0))
            .bind(machine.to_string())
            .bind(epoch);
        self.write(statement).await.map(|_| ())
    }

    /// Notes how much of target storage a machine's points take.
    pub(crate) async fn note_stored(&self, machine: MachineId, bytes: ByteCount) -> Result<()> {
        let statement = query("UPDATE states SET stored = $1 WHERE machine = $2");
        self.write(statement.bind(stored(bytes.0)).bind(machine.to_string())).await.map(|_| ())
    }

    /// Notes whether a machine has something that its quota leaves no room for. Whether that is news.
    pub(crate) async fn note_over_quota(&self, machine: MachineId, over: bool) -> Result<bool> {
        let statement = query("UPDATE states SET over_quota = $1 WHERE machine = $2 AND over_quota = $3");
        let statement = statement.bind(i64::from(over)).bind(machine.to_string()).bind(i64::from(!over));
        Ok(self.write(statement).await? == 1)
    }
}
