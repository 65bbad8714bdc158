//! Machines: who they are, how they enrolled, and what is known of them.
//!
//! Deliberately not here: their sessions, and what is to be done for them.

use jiff::Timestamp;
use mobility_format::{
    ByteCount, Head, MachineId, PublicKey,
    control::{Inventory, MachineHealth},
};
use serde::Serialize;
use sqlx::query;

use super::{Columns, Database, Result, json, millis, stored, time};

/// A machine that asks to be taken in.
pub(crate) struct Enrolment<'a> {
    /// The id it gets if it is new.
    pub(crate) machine: MachineId,
    /// SHA-256 of the token that it came with.
    pub(crate) token: &'a str,
    /// What its keys are known by.
    pub(crate) key_hash: &'a str,
    pub(crate) signing_key: PublicKey,
    pub(crate) inventory: &'a Inventory,
}

/// What every request of a machine asks first.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) revoked: bool,
    /// The name of its policy.
    pub(crate) policy: String,
    /// The newest version of that.
    pub(crate) policy_version: u64,
    pub(crate) signing_key: PublicKey,
    /// Whether it rests, by its policy or on its own.
    pub(crate) paused: bool,
}

/// All that is known of a machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) id: MachineId,
    pub(crate) name: String,
    pub(crate) policy: String,
    pub(crate) enrolled: Timestamp,
    pub(crate) revoked: Option<Timestamp>,
    /// Whether it rests, whatever its policy says.
    pub(crate) paused: bool,
    /// When it was last heard.
    pub(crate) heard: Option<Timestamp>,
    /// The newest generation that was handed out.
    pub(crate) generation: u64,
    /// The newest epoch in target storage.
    pub(crate) taken_in: u64,
    /// The epoch of its newest recovery point.
    pub(crate) point: Option<u64>,
    /// When that was taken in.
    pub(crate) point_at: Option<Timestamp>,
    /// From one point to the next, as its policy wants it.
    pub(crate) interval_s: u64,
    /// Whether an interval was missed.
    pub(crate) overdue: bool,
    /// How much of target storage its points take, if somebody has looked.
    pub(crate) stored: Option<ByteCount>,
    /// Whether it has something that its quota leaves no room for.
    pub(crate) over_quota: bool,
    pub(crate) inventory: Option<Inventory>,
    pub(crate) health: Option<MachineHealth>,
    pub(crate) head: Option<Head>,
}

macro_rules! machines_where {
    ($which:literal) => {
        concat!(
            "SELECT m.id, m.name, m.policy, m.inventory, m.enrolled, m.revoked, m.paused, s.heard, s.generation, s.taken_in,
                s.point_epoch, s.point_at, s.overdue, s.stored, s.over_quota, s.health, s.head, p.interval_ms
             FROM machines m JOIN states s ON s.machine = m.id JOIN policies p ON p.name = m.policy WHERE ",
            $which
        )
    };
}

const AFTER: &str = machines_where!("m.id > $1 ORDER BY m.id LIMIT $2");
const ONE: &str = machines_where!("m.id = $1");

impl Database {
    /// Takes a machine in: the one that came with the same token and keys before, or a new one at the cost of a use of the
    /// token. Nothing where the token does not allow it.
    pub(crate) async fn enrol(
        &self,
        enrolment: &Enrolment<'_>,
        now: Timestamp,
    ) -> Result<Option<(MachineId, bool)>> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        // First, so that of two requests at once the second waits here for the first one's end.
        let used = query(
            "UPDATE tokens SET uses_left = uses_left - 1
             WHERE hash = $1 AND revoked IS NULL AND uses_left > 0 AND expires > $2 RETURNING policy",
        )
        .bind(enrolment.token.to_owned())
        .bind(millis(now))
        .fetch_all(&mut *transaction)
        .await?;
        let before = query(
            "SELECT m.id FROM enrolments e JOIN machines m ON m.id = e.machine JOIN tokens t ON t.hash = e.token
             WHERE e.token = $1 AND e.key_hash = $2 AND t.revoked IS NULL AND m.revoked IS NULL",
        )
        .bind(enrolment.token.to_owned())
        .bind(enrolment.key_hash.to_owned())
        .fetch_all(&mut *transaction)
        .await?;
        if let Some(row) = before.first() {
            // Dropping the transaction gives the use back.
            return Ok(Some((row.parsed("id")?, false)));
        }
        let Some(row) = used.first() else { return Ok(None) };
        let machine = enrolment.machine.to_string();
        query(
            "INSERT INTO machines (id, name, signing_key, policy, inventory, enrolled) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(machine.clone())
        .bind(enrolment.inventory.name.clone())
        .bind(enrolment.signing_key.to_string())
        .bind(row.text("policy")?)
        .bind(json(enrolment.inventory)?)
        .bind(millis(now))
        .execute(&mut *transaction)
        .await?;
        query("INSERT INTO states (machine) VALUES ($1)")
            .bind(machine.clone())
            .execute(&mut *transaction)
            .await?;
        for job in ["intake", "prune"] {
            query("INSERT INTO work (machine, job, due) VALUES ($1, $2, $3)")
                .bind(machine.clone())
                .bind(job)
                .bind(millis(now))
                .execute(&mut *transaction)
                .await?;
        }
        query("INSERT INTO enrolments (token, key_hash, machine) VALUES ($1, $2, $3)")
            .bind(enrolment.token.to_owned())
            .bind(enrolment.key_hash.to_owned())
            .bind(machine)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some((enrolment.machine, true)))
    }

    /// What a machine may do.
    pub(crate) async fn standing(&self, machine: MachineId) -> Result<Option<Standing>> {
        let statement = query(
            "SELECT m.revoked, m.policy, m.signing_key, m.paused, p.version, p.paused AS policy_paused
             FROM machines m JOIN policies p ON p.name = m.policy
             WHERE m.id = $1",
        );
        let Some(row) = self.one(statement.bind(machine.to_string())).await? else { return Ok(None) };
        Ok(Some(Standing {
            revoked: row.number_if("revoked")?.is_some(),
            policy: row.text("policy")?,
            policy_version: row.count("version")?,
            signing_key: row.parsed("signing_key")?,
            paused: row.number("paused")? != 0 || row.number("policy_paused")? != 0,
        }))
    }

    /// Takes a machine's rights away. Whether it had any.
    pub(crate) async fn revoke_machine(&self, machine: MachineId, now: Timestamp) -> Result<bool> {
        let statement = query("UPDATE machines SET revoked = $1 WHERE id = $2 AND revoked IS NULL");
        self.change_facts(machine, statement.bind(millis(now)).bind(machine.to_string())).await
    }

    /// Lets a machine rest, or go on. Whether it did otherwise before.
    pub(crate) async fn pause(&self, machine: MachineId, paused: bool) -> Result<bool> {
        let statement = query("UPDATE machines SET paused = $1 WHERE id = $2 AND paused = $3");
        let statement = statement.bind(i64::from(paused)).bind(machine.to_string()).bind(i64::from(!paused));
        self.change_facts(machine, statement).await
    }

    /// Gives a machine another policy. Whether there are both.
    pub(crate) async fn assign_policy(&self, machine: MachineId, policy: &str) -> Result<bool> {
        let statement = query(
            "UPDATE machines SET policy = $1 WHERE id = $2 AND EXISTS (SELECT 1 FROM policies WHERE name = $3)",
        );
        let statement = statement.bind(policy.to_owned()).bind(machine.to_string()).bind(policy.to_owned());
        self.change_facts(machine, statement).await
    }

    /// Machines in the order of their ids, those after `after`.
    pub(crate) async fn machines(&self, after: &str, most: u32) -> Result<Vec<Machine>> {
        let rows = self.all(query(AFTER).bind(after.to_owned()).bind(i64::from(most))).await?;
        rows.iter().map(machine).collect()
    }

    /// One machine.
    pub(crate) async fn machine(&self, id: MachineId) -> Result<Option<Machine>> {
        let row = self.one(query(ONE).bind(id.to_string())).await?;
        row.as_ref().map(machine).transpose()
    }

    /// Whether any machine has ever enrolled.
    pub(crate) async fn has_machines(&self) -> Result<bool> {
        Ok(self.one(query("SELECT id FROM machines LIMIT 1")).await?.is_some())
    }

    /// Keeps a point from being pruned, or lets it go.
    pub(crate) async fn pin(&self, machine: MachineId, epoch: u64, pinned: bool) -> Result<()> {
        let statement = match pinned {
            true => query("INSERT INTO pins (machine, epoch) VALUES ($1, $2) ON CONFLICT DO NOTHING"),
            false => query("DELETE FROM pins WHERE machine = $1 AND epoch = $2"),
        };
        self.change_facts(machine, statement.bind(machine.to_string()).bind(stored(epoch))).await.map(|_| ())
    }

    /// The epochs of a machine's points that are not to be pruned.
    pub(crate) async fn pins(&self, machine: MachineId) -> Result<Vec<u64>> {
        let statement = query("SELECT epoch FROM pins WHERE machine = $1 ORDER BY epoch");
        let rows = self.all(statement.bind(machine.to_string())).await?;
        rows.iter().map(|row| row.count("epoch")).collect()
    }
}

fn machine(row: &sqlx::any::AnyRow) -> Result<Machine> {
    let heard = row.number("heard")?;
    Ok(Machine {
        id: row.parsed("id")?,
        name: row.text("name")?,
        policy: row.text("policy")?,
        enrolled: time(row.number("enrolled")?),
        revoked: row.time_if("revoked")?,
        paused: row.number("paused")? != 0,
        heard: (heard != 0).then(|| time(heard)),
        generation: row.count("generation")?,
        taken_in: row.count("taken_in")?,
        point: row.number_if("point_epoch")?.and_then(|epoch| u64::try_from(epoch).ok()),
        point_at: row.time_if("point_at")?,
        interval_s: row.count("interval_ms")? / 1000,
        overdue: row.number("overdue")? != 0,
        stored: row.bytes_if("stored")?,
        over_quota: row.number("over_quota")? != 0,
        inventory: row.json_if("inventory")?,
        health: row.json_if("health")?,
        head: row.json_if("head")?,
    })
}
