//! What has changed and is not stored yet, and the way back: rows made from what was stored.
//!
//! Deliberately not here: storing and reading (`facts`, `reindex`).

use jiff::Timestamp;
use mobility_format::{
    Epoch, Generation, Head, MachineId,
    control::{Inventory, Policy},
};
use sqlx::query;

use super::{Columns, Database, DatabaseError, Result, Statement, failovers::put_back, json, millis, stored};
use crate::service::{facts::MachineFacts, failover::Gate};

/// The setting that says that the database is being rebuilt.
const REBUILDING: &str = "rebuilding";

/// A machine as it is found in storage.
pub(crate) struct Found {
    pub(crate) facts: MachineFacts,
    /// The highest number under which facts of it are stored.
    pub(crate) number: u64,
    /// The newest generation that was handed out.
    pub(crate) generation: Generation,
    pub(crate) head: Option<Head>,
    /// Its newest point, and when that was taken in.
    pub(crate) point: Option<(Epoch, Timestamp)>,
    /// From where on places are numbered.
    pub(crate) slots: u64,
}

impl Database {
    /// Changes one row that says something of a machine, and has the machine's facts stored. Whether there was anything to change.
    pub(super) async fn change_facts(&self, machine: MachineId, statement: Statement) -> Result<bool> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        let changed = statement.execute(&mut *transaction).await?.rows_affected() == 1;
        if changed {
            query("UPDATE states SET facts = facts + 1 WHERE machine = $1")
                .bind(machine.to_string())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
        }
        Ok(changed)
    }

    /// Machines of which something has changed since it was stored.
    pub(crate) async fn facts_to_store(&self, most: u32) -> Result<Vec<MachineId>> {
        let statement = query("SELECT machine FROM states WHERE facts > facts_stored LIMIT $1");
        let rows = self.all(statement.bind(i64::from(most))).await?;
        rows.iter().map(|row| row.parsed("machine")).collect()
    }

    /// The number of a machine's facts as they are now.
    pub(crate) async fn facts_number(&self, machine: MachineId) -> Result<Option<u64>> {
        let statement = query("SELECT facts FROM states WHERE machine = $1");
        self.one(statement.bind(machine.to_string())).await?.map(|row| row.count("facts")).transpose()
    }

    /// Notes that facts were stored.
    pub(crate) async fn note_facts_stored(&self, machine: MachineId, number: u64) -> Result<()> {
        let statement = query("UPDATE states SET facts_stored = $1 WHERE machine = $2 AND facts_stored < $3");
        let statement = statement.bind(stored(number)).bind(machine.to_string()).bind(stored(number));
        self.write(statement).await.map(|_| ())
    }

    /// Policies that have changed since they were stored.
    pub(crate) async fn policies_to_store(&self, most: u32) -> Result<Vec<Policy>> {
        let statement = query("SELECT body FROM policies WHERE version > stored LIMIT $1");
        let rows = self.all(statement.bind(i64::from(most))).await?;
        let lost = || DatabaseError::Content("a policy is empty".to_owned());
        rows.iter().map(|row| row.json_if("body")?.ok_or_else(lost)).collect()
    }

    /// Notes that a version of a policy was stored.
    pub(crate) async fn note_policy_stored(&self, name: &str, version: u64) -> Result<()> {
        let statement = query("UPDATE policies SET stored = $1 WHERE name = $2 AND stored < $3");
        let statement = statement.bind(stored(version)).bind(name.to_owned()).bind(stored(version));
        self.write(statement).await.map(|_| ())
    }

    /// Begins to rebuild. Nothing may be in the database but what an earlier try has left.
    pub(crate) async fn begin_rebuilding(&self) -> Result<bool> {
        if self.is_rebuilding().await? {
            return Ok(true);
        }
        if self.has_machines().await? {
            return Ok(false);
        }
        let statement = query("INSERT INTO settings (name, value) VALUES ($1, 'begun')");
        self.write(statement.bind(REBUILDING)).await.map(|_| true)
    }

    /// Whether rebuilding was begun and has not ended.
    pub(crate) async fn is_rebuilding(&self) -> Result<bool> {
        let row = self.one(query("SELECT value FROM settings WHERE name = $1").bind(REBUILDING)).await?;
        Ok(row.is_some())
    }

    /// Rebuilding has ended.
    pub(crate) async fn end_rebuilding(&self) -> Result<()> {
        self.write(query("DELETE FROM settings WHERE name = $1").bind(REBUILDING)).await.map(|_| ())
    }

    /// Puts a policy back in the version that it had.
    pub(crate) async fn restore_policy(&self, policy: &Policy) -> Result<()> {
        let statement = query(
            "INSERT INTO policies (name, version, interval_ms, paused, body, stored)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        );
        let statement = statement
            .bind(policy.name.clone())
            .bind(stored(policy.version))
            .bind(stored(policy.interval_s.saturating_mul(1000)))
            .bind(i64::from(policy.paused))
            .bind(json(policy)?)
            .bind(stored(policy.version));
        self.write(statement).await.map(|_| ())
    }

    /// Puts a machine back. It has no session: the one that is heard first goes on.
    pub(crate) async fn restore_machine(&self, found: &Found, now: Timestamp) -> Result<()> {
        let (facts, machine) = (&found.facts, found.facts.machine.to_string());
        let unknown = Inventory { name: facts.name.clone(), ..Inventory::default() };
        let inventory = facts.inventory.as_ref().unwrap_or(&unknown);
        let (head, number) = (found.head.as_ref(), stored(found.number));
        let mut statements = vec![
            query(
                "INSERT INTO machines (id, name, signing_key, policy, inventory, enrolled, revoked, paused, gate, target)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            )
            .bind(machine.clone())
            .bind(facts.name.clone())
            .bind(facts.key.to_string())
            .bind(facts.policy.clone())
            .bind(json(inventory)?)
            .bind(millis(facts.enrolled))
            .bind(facts.revoked.map(millis))
            .bind(i64::from(facts.paused))
            .bind(if facts.gate == Gate::default() { None } else { Some(json(&facts.gate)?) })
            .bind(facts.target.as_ref().map(json).transpose()?),
            query(
                "INSERT INTO states (machine, generation, slots, head, taken_in, point_epoch, point_at, facts,
                    facts_stored) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
            )
            .bind(machine.clone())
            .bind(stored(found.generation.0))
            .bind(stored(found.slots))
            .bind(head.map(json).transpose()?)
            .bind(stored(head.map_or(0, |head| head.epoch.0)))
            .bind(found.point.map(|(epoch, _)| stored(epoch.0)))
            .bind(found.point.map(|(_, at)| millis(at)))
            .bind(number + 1)
            .bind(number),
        ];
        for job in ["intake", "prune"] {
            let statement =
                query("INSERT INTO work (machine, job, due) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
            statements.push(statement.bind(machine.clone()).bind(job).bind(millis(now)));
        }
        for epoch in &facts.pins {
            let statement = query("INSERT INTO pins (machine, epoch) VALUES ($1, $2) ON CONFLICT DO NOTHING");
            statements.push(statement.bind(machine.clone()).bind(stored(*epoch)));
        }
        for failover in facts.failovers.iter().filter(|failover| failover.machine == facts.machine) {
            statements.push(put_back(failover)?);
        }
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        for statement in statements {
            statement.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}
