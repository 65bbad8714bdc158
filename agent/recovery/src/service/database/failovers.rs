//! Failovers: kept whole, claimed by the instance that does their steps, and asked something by administrators meanwhile.
//!
//! Only who has claimed a failover writes what is known of it; what is asked of it waits beside until that is done. Deliberately
//! not here: what a failover is made of (`failover`).

use mobility_format::{Epoch, MachineId};
use sqlx::{any::AnyRow, query};

use super::{CLAIM_MS, Columns, Database, DatabaseError, Result, Statement, json, millis, stored};
use crate::service::failover::{Action, Failover, Gate, Phase};

/// A failover, and what waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) failover: Failover,
    /// What was asked of it and not taken up yet.
    pub(crate) asked: Option<Action>,
}

const ONE: &str = "SELECT body, asked FROM failovers WHERE id = $1";
const OF_ALL: &str = "SELECT body, asked FROM failovers ORDER BY created DESC, id LIMIT $1";
const OF_ONE: &str =
    "SELECT body, asked FROM failovers WHERE machine = $1 ORDER BY created DESC, id LIMIT $2";

/// Failovers of a machine that are looked at and stored with its facts: each but one was committed, and waits to be removed.
const MOST_LOOKED_AT: u32 = 1000;
const MOST_STORED: usize = 16;

impl Database {
    /// Keeps a new failover, to be begun. Not where the machine has one already of which nobody has said what becomes of it.
    pub(crate) async fn add_failover(&self, failover: &Failover) -> Result<bool> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        let machine = failover.machine.to_string();
        // Of two at once the second waits here for the first one's end.
        query("UPDATE machines SET name = name WHERE id = $1")
            .bind(machine.clone())
            .execute(&mut *transaction)
            .await?;
        let other = query("SELECT id FROM failovers WHERE machine = $1 AND settled = 0");
        if !other.bind(machine.clone()).fetch_all(&mut *transaction).await?.is_empty() {
            return Ok(false);
        }
        query(
            "INSERT INTO failovers (id, machine, place, created, busy, body) VALUES ($1, $2, $3, $4, 1, $5)",
        )
        .bind(failover.id.clone())
        .bind(machine)
        .bind(failover.place.clone())
        .bind(millis(failover.asked))
        .bind(json(failover)?)
        .execute(&mut *transaction)
        .await?;
        query("UPDATE states SET facts = facts + 1 WHERE machine = $1")
            .bind(failover.machine.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// A failover.
    pub(crate) async fn failover(&self, id: &str) -> Result<Option<Kept>> {
        self.one(query(ONE).bind(id.to_owned())).await?.as_ref().map(kept).transpose()
    }

    /// The newest failovers, of one machine or of all.
    pub(crate) async fn failovers(&self, machine: Option<MachineId>, most: u32) -> Result<Vec<Kept>> {
        let statement = match machine {
            None => query(OF_ALL),
            Some(machine) => query(OF_ONE).bind(machine.to_string()),
        };
        let rows = self.all(statement.bind(i64::from(most))).await?;
        rows.iter().map(kept).collect()
    }

    /// Asks something of a failover. Not where something waits already.
    pub(crate) async fn ask_failover(&self, id: &str, action: &Action) -> Result<bool> {
        let statement = query("UPDATE failovers SET asked = $1, busy = 1 WHERE id = $2 AND asked IS NULL");
        Ok(self.write(statement.bind(json(action)?).bind(id.to_owned())).await? == 1)
    }

    /// Failovers that have something to do and that nobody works on: their ids and places.
    pub(crate) async fn idle_failovers(&self) -> Result<Vec<(String, String)>> {
        let statement = query(
            "SELECT id, place FROM failovers WHERE busy = 1 AND claimed_until <= $1 ORDER BY created LIMIT 1000",
        );
        let rows = self.all(statement.bind(self.clock().await?)).await?;
        rows.iter().map(|row| Ok((row.text("id")?, row.text("place")?))).collect()
    }

    /// Claims a failover, if nobody works on it.
    pub(crate) async fn claim_failover(&self, id: &str, by: &str) -> Result<bool> {
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE failovers SET claimed_by = $1, claimed_until = $2 WHERE id = $3 AND claimed_until <= $4",
        );
        let statement = statement.bind(by.to_owned()).bind(clock + CLAIM_MS).bind(id.to_owned()).bind(clock);
        Ok(self.write(statement).await? == 1)
    }

    /// Keeps what is known of a failover now, and holds its claim for longer. Whether it was still held. What was asked is taken up
    /// where `taken_up` says so.
    pub(crate) async fn keep_failover(&self, failover: &Failover, by: &str, taken_up: bool) -> Result<bool> {
        let statement = self.keeping(failover, by, taken_up).await?;
        Ok(self.write(statement).await? == 1)
    }

    /// As [`Database::keep_failover`], and has it stored with the machine's facts.
    pub(crate) async fn note_failover(&self, failover: &Failover, by: &str, taken_up: bool) -> Result<bool> {
        let statement = self.keeping(failover, by, taken_up).await?;
        self.change_facts(failover.machine, statement).await
    }

    async fn keeping(&self, failover: &Failover, by: &str, taken_up: bool) -> Result<Statement> {
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE failovers SET body = $1, settled = $2, epoch = $3, claimed_until = $4,
                asked = CASE WHEN $5 = 1 THEN NULL ELSE asked END
             WHERE id = $6 AND claimed_by = $7 AND claimed_until > $8",
        );
        let (settled, epoch) = columns(failover);
        let statement = statement.bind(json(failover)?).bind(settled).bind(epoch);
        let statement = statement.bind(clock + CLAIM_MS).bind(i64::from(taken_up));
        Ok(statement.bind(failover.id.clone()).bind(by.to_owned()).bind(clock))
    }

    /// What is stored of a machine's failovers: those of which something is left somewhere, the newest first.
    pub(crate) async fn failovers_to_store(&self, machine: MachineId) -> Result<Vec<Failover>> {
        let all = self.failovers(Some(machine), MOST_LOOKED_AT).await?.into_iter();
        let left = all.map(|kept| kept.failover).filter(|failover| !failover.phase.is_end());
        Ok(left.take(MOST_STORED).map(Failover::stored).collect())
    }

    /// Gives a claim back. There is nothing more to do where `rests` says so and nothing was asked meanwhile.
    pub(crate) async fn release_failover(&self, id: &str, by: &str, rests: bool) -> Result<()> {
        let statement = query(
            "UPDATE failovers SET claimed_until = 0,
                busy = CASE WHEN $1 = 1 AND asked IS NULL THEN 0 ELSE 1 END
             WHERE id = $2 AND claimed_by = $3",
        );
        let statement = statement.bind(i64::from(rests)).bind(id.to_owned()).bind(by.to_owned());
        self.write(statement).await.map(|_| ())
    }

    /// Nobody else works with this database, so claims in it are left over.
    pub(crate) async fn drop_failover_claims(&self) -> Result<()> {
        self.write(query("UPDATE failovers SET claimed_until = 0 WHERE claimed_until <> 0")).await.map(|_| ())
    }

    /// Points of a machine that failovers need.
    pub(crate) async fn epochs_failed_over(&self, machine: MachineId) -> Result<Vec<Epoch>> {
        let statement = query("SELECT epoch FROM failovers WHERE machine = $1 AND epoch IS NOT NULL");
        let rows = self.all(statement.bind(machine.to_string())).await?;
        rows.iter().map(|row| row.count("epoch").map(Epoch)).collect()
    }

    /// Whose sessions of a machine may begin.
    pub(crate) async fn gate(&self, machine: MachineId) -> Result<Gate> {
        let row =
            self.one(query("SELECT gate FROM machines WHERE id = $1").bind(machine.to_string())).await?;
        Ok(row.map_or(Ok(None), |row| row.json_if("gate"))?.unwrap_or_default())
    }

    /// Changes whose sessions of a machine may begin.
    pub(crate) async fn set_gate(&self, machine: MachineId, gate: &Gate) -> Result<()> {
        let text = if *gate == Gate::default() { None } else { Some(json(gate)?) };
        let statement = query("UPDATE machines SET gate = $1 WHERE id = $2");
        self.change_facts(machine, statement.bind(text).bind(machine.to_string())).await.map(|_| ())
    }

    /// The hardware that a machine's sessions came from last.
    pub(crate) async fn hardware(&self, machine: MachineId) -> Result<Option<String>> {
        let row = self
            .one(query("SELECT hardware FROM states WHERE machine = $1").bind(machine.to_string()))
            .await?;
        Ok(row.map_or(Ok(None), |row| row.text_if("hardware"))?.filter(|hardware| !hardware.is_empty()))
    }
}

/// What else is kept of a failover: whether somebody has said what becomes of it, and the point that it needs.
fn columns(failover: &Failover) -> (i64, Option<i64>) {
    let settled = failover.committed || failover.phase.is_end();
    let held = failover.chosen.as_ref().filter(|_| failover.holds_point);
    (i64::from(settled), held.map(|chosen| stored(chosen.epoch.0)))
}

/// Puts a failover back that was stored: nobody works on it, and whoever has its place goes on with it.
pub(super) fn put_back(failover: &Failover) -> Result<Statement> {
    let statement = query(
        "INSERT INTO failovers (id, machine, place, created, busy, settled, epoch, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    );
    let (settled, epoch) = columns(failover);
    let statement = statement.bind(failover.id.clone()).bind(failover.machine.to_string());
    let statement = statement.bind(failover.place.clone()).bind(millis(failover.asked));
    let statement = statement.bind(i64::from(failover.phase == Phase::Running)).bind(settled).bind(epoch);
    Ok(statement.bind(json(failover)?))
}

fn kept(row: &AnyRow) -> Result<Kept> {
    let lost = || DatabaseError::Content("a failover is empty".to_owned());
    Ok(Kept { failover: row.json_if("body")?.ok_or_else(lost)?, asked: row.json_if("asked")? })
}
