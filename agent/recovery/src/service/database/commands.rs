//! Commands that wait for machines, and what came of them.
//!
//! Deliberately not here: waiting for them (`api::commands`).

use jiff::Timestamp;
use mobility_format::{
    MachineId,
    control::{Command, CommandId, CommandResult, Order},
};
use sqlx::{Any, Transaction, query};

use super::{Columns, Database, DatabaseError, Result, json, millis, stored};

/// Commands that may wait for one machine.
const MOST: i64 = 64;

/// Whether a command could be left for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Under this number.
    As(CommandId),
    /// Too many wait already, or there is no such machine.
    Refused,
}

impl Database {
    /// Leaves a command for a machine.
    pub(crate) async fn order(&self, machine: MachineId, order: &Order, now: Timestamp) -> Result<Waiting> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        let left = leave(&mut transaction, machine, order, now).await?;
        transaction.commit().await?;
        Ok(left)
    }

    /// Leaves the command to resync, unless that was done for this generation already. Whether it was done now.
    pub(crate) async fn order_resync_once(
        &self,
        machine: MachineId,
        generation: u64,
        order: &Order,
        now: Timestamp,
    ) -> Result<bool> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        let noted = query("UPDATE states SET refused = $1 WHERE machine = $2 AND refused < $3")
            .bind(stored(generation))
            .bind(machine.to_string())
            .bind(stored(generation))
            .execute(&mut *transaction)
            .await?;
        if noted.rows_affected() == 0 {
            return Ok(false);
        }
        let left = leave(&mut transaction, machine, order, now).await?;
        if left == Waiting::Refused {
            return Err(DatabaseError::Content(format!("machine {machine} does not take its commands")));
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// The commands that wait for a machine, oldest first.
    pub(crate) async fn commands(&self, machine: MachineId) -> Result<Vec<Command>> {
        let statement =
            query("SELECT id, body FROM commands WHERE machine = $1 AND done IS NULL ORDER BY id LIMIT 64");
        let rows = self.all(statement.bind(machine.to_string())).await?;
        let command = |row: &sqlx::any::AnyRow| {
            let lost = || DatabaseError::Content("a command is empty".to_owned());
            Ok(Command { id: row.count("id")?, order: row.json_if("body")?.ok_or_else(lost)? })
        };
        rows.iter().map(command).collect()
    }

    /// Notes what came of a command. What it was, where it was waiting.
    pub(crate) async fn command_done(
        &self,
        machine: MachineId,
        id: CommandId,
        result: &CommandResult,
        now: Timestamp,
    ) -> Result<Option<Order>> {
        let statement = query(
            "UPDATE commands SET done = $1, succeeded = $2, message = $3
             WHERE machine = $4 AND id = $5 AND done IS NULL RETURNING body",
        );
        let statement = statement
            .bind(millis(now))
            .bind(i64::from(result.done))
            .bind(result.message.clone())
            .bind(machine.to_string())
            .bind(stored(id));
        self.change(statement).await?.map_or(Ok(None), |row| row.json_if("body"))
    }

    /// Machines for which a command was left since `since`: by another instance, perhaps.
    pub(crate) async fn ordered_since(&self, since: Timestamp) -> Result<Vec<MachineId>> {
        let statement = query("SELECT DISTINCT machine FROM commands WHERE created >= $1 AND done IS NULL");
        let rows = self.all(statement.bind(millis(since))).await?;
        rows.iter().map(|row| row.parsed("machine")).collect()
    }
}

async fn leave(
    transaction: &mut Transaction<'static, Any>,
    machine: MachineId,
    order: &Order,
    now: Timestamp,
) -> Result<Waiting> {
    let statement = query(
        "UPDATE states SET commands = commands + 1 WHERE machine = $1
         AND (SELECT COUNT(*) FROM commands WHERE commands.machine = $2 AND done IS NULL) < $3
         RETURNING commands AS number",
    );
    let statement = statement.bind(machine.to_string()).bind(machine.to_string()).bind(MOST);
    let rows = statement.fetch_all(&mut **transaction).await?;
    let Some(row) = rows.first() else { return Ok(Waiting::Refused) };
    let id = row.count("number")?;
    query("INSERT INTO commands (machine, id, body, created) VALUES ($1, $2, $3, $4)")
        .bind(machine.to_string())
        .bind(stored(id))
        .bind(json(order)?)
        .bind(millis(now))
        .execute(&mut **transaction)
        .await?;
    Ok(Waiting::As(id))
}
