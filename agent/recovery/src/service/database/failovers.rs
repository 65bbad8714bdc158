//! Failovers: which may begin, which of them are stored with a machine's facts, and whose sessions may begin meanwhile.
//!
//! Deliberately not here: what they have in common with plan runs (`stepwise`), and what a failover is made of (`failover`).

use mobility_format::{Epoch, MachineId};
use sqlx::query;

use super::{Columns, Database, Result, Statement, json, millis, stored};
use crate::service::{
    failover::{Failover, Gate, Phase},
    stepwise::Stepwise,
};

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

    /// What is stored of a machine's failovers: those of which something is left somewhere, the newest first.
    pub(crate) async fn failovers_to_store(&self, machine: MachineId) -> Result<Vec<Failover>> {
        let all = self.records::<Failover>(Some(machine.to_string()), MOST_LOOKED_AT).await?.into_iter();
        let left = all.map(|kept| kept.record).filter(|failover| !failover.phase.is_end());
        Ok(left.take(MOST_STORED).map(Failover::stored).collect())
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

/// Puts a failover back that was stored: nobody works on it, and whoever has its place goes on with it.
pub(super) fn put_back(failover: &Failover) -> Result<Statement> {
    let statement = query(
        "INSERT INTO failovers (id, machine, place, created, busy, settled, epoch, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    );
    let statement = statement.bind(failover.id.clone()).bind(failover.machine.to_string());
    let statement = statement.bind(failover.place.clone()).bind(millis(failover.asked));
    let statement = statement.bind(i64::from(failover.phase == Phase::Running));
    let statement = statement.bind(i64::from(failover.is_settled())).bind(failover.more(false).map(stored));
    Ok(statement.bind(json(failover)?))
}
