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

/// How far a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommandState {
    /// It was not answered.
    Waiting,
    /// What it was, and what came of it.
    Answered(Order, CommandResult),
    /// Nobody waits for what comes of it any more.
    Withdrawn,
}

/// What became of the result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is noted, for this order.
    Now(Order),
    /// It had been before, or there is no such command.
    Before,
    /// Nobody waits for it any more.
    Withdrawn,
}

/// `succeeded` of a command that was withdrawn.
const WITHDRAWN: i64 = 2;

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

    /// How far a command is, if there is one.
    pub(crate) async fn command(&self, machine: MachineId, id: CommandId) -> Result<Option<CommandState>> {
        let statement = query(
            "SELECT body, done, succeeded, message, point FROM commands WHERE machine = $1 AND id = $2",
        );
        let row = self.one(statement.bind(machine.to_string()).bind(stored(id))).await?;
        let Some(row) = row else { return Ok(None) };
        let lost = || DatabaseError::Content("a command is empty".to_owned());
        let order = row.json_if("body")?.ok_or_else(lost)?;
        Ok(Some(match (row.number_if("done")?, row.number_if("succeeded")?) {
            (None, _) => CommandState::Waiting,
            (_, Some(WITHDRAWN)) => CommandState::Withdrawn,
            (_, succeeded) => {
                let message = row.text_if("message")?.unwrap_or_default();
                let result =
                    CommandResult { done: succeeded == Some(1), message, point: row.json_if("point")? };
                CommandState::Answered(order, result)
            }
        }))
    }

    /// Gives up on a command. Whether it was not answered until now: what comes of it later does not count.
    pub(crate) async fn withdraw_command(&self, machine: MachineId, id: CommandId) -> Result<bool> {
        let statement = query(
            "UPDATE commands SET done = created, succeeded = $1 WHERE machine = $2 AND id = $3 AND done IS NULL",
        );
        let statement = statement.bind(WITHDRAWN).bind(machine.to_string()).bind(stored(id));
        Ok(self.write(statement).await? == 1)
    }

    /// Notes what came of a command.
    pub(crate) async fn command_done(
        &self,
        machine: MachineId,
        id: CommandId,
        result: &CommandResult,
        now: Timestamp,
    ) -> Result<Noted> {
        let statement = query(
            "UPDATE commands SET done = $1, succeeded = $2, message = $3, point = $4
             WHERE machine = $5 AND id = $6 AND done IS NULL RETURNING body",
        );
        let statement = statement
            .bind(millis(now))
            .bind(i64::from(result.done))
            .bind(result.message.clone())
            .bind(result.point.as_ref().map(json).transpose()?)
            .bind(machine.to_string())
            .bind(stored(id));
        let order = self.change(statement).await?.map_or(Ok(None), |row| row.json_if("body"))?;
        Ok(match order {
            Some(order) => Noted::Now(order),
            None if self.command(machine, id).await? == Some(CommandState::Withdrawn) => Noted::Withdrawn,
            None => Noted::Before,
        })
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
