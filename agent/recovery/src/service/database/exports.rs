//! Exports: the hash of each one's key, its point, and until when it is good. While one is, its point stays.
//!
//! An export ends by its time or by being removed, whatever becomes of the instance that made it; it is no fact that outlives the
//! database. Deliberately not here: the keys themselves, which nobody keeps.

use jiff::Timestamp;
use mobility_format::{Epoch, MachineId};
use sqlx::query;

use super::{Columns, Database, Result, millis, stored, time};
use crate::service::export::Kept;

const LISTED: &str =
    "SELECT id, created, expires, body FROM exports WHERE expires > $1 ORDER BY created DESC, id LIMIT 1000";
const BY_HASH: &str = "SELECT id, created, expires, body FROM exports WHERE hash = $1 AND expires > $2";
/// A machine may have been taken out of the database meanwhile, and there are never more exports than `most`.
const ADD: &str = "INSERT INTO exports (id, hash, machine, epoch, created, expires, body)
     SELECT $1, $2, id, $3, $4, $5, $6 FROM machines WHERE id = $7
     AND (SELECT COUNT(*) FROM exports WHERE expires > $8) < $9";

impl Database {
    /// Keeps a new export, unless there are so many already or there is no such machine. Those that have ended are forgotten.
    pub(crate) async fn add_export(&self, export: &Kept, hash: &str, most: u64) -> Result<bool> {
        let now = millis(export.created);
        self.write(query("DELETE FROM exports WHERE expires <= $1").bind(now)).await?;
        let statement = query(ADD)
            .bind(export.id.clone())
            .bind(hash.to_owned())
            .bind(stored(export.view.epoch.0))
            .bind(now)
            .bind(millis(export.expires))
            .bind(super::json(&export.view)?)
            .bind(export.view.machine.to_string())
            .bind(now)
            .bind(stored(most));
        Ok(self.write(statement).await? == 1)
    }

    /// Ends an export. Whether there was one.
    pub(crate) async fn end_export(&self, id: &str, now: Timestamp) -> Result<bool> {
        let statement = query("DELETE FROM exports WHERE id = $1 AND expires > $2");
        Ok(self.write(statement.bind(id.to_owned()).bind(millis(now))).await? == 1)
    }

    /// The export whose key has this hash, while it is good.
    pub(crate) async fn export(&self, hash: &str, now: Timestamp) -> Result<Option<Kept>> {
        let row = self.one(query(BY_HASH).bind(hash.to_owned()).bind(millis(now))).await?;
        row.as_ref().map(export).transpose()
    }

    /// All exports that are good, newest first.
    pub(crate) async fn exports(&self, now: Timestamp) -> Result<Vec<Kept>> {
        self.all(query(LISTED).bind(millis(now))).await?.iter().map(export).collect()
    }

    /// The epochs of a machine's points that are exported.
    pub(crate) async fn exported(&self, machine: MachineId, now: Timestamp) -> Result<Vec<Epoch>> {
        let statement = query("SELECT DISTINCT epoch FROM exports WHERE machine = $1 AND expires > $2");
        let rows = self.all(statement.bind(machine.to_string()).bind(millis(now))).await?;
        rows.iter().map(|row| row.count("epoch").map(Epoch)).collect()
    }

    /// By whom work on the machine is claimed now.
    pub(crate) async fn claimed_by(&self, machine: MachineId) -> Result<Option<String>> {
        let statement = query("SELECT claimed_by FROM states WHERE machine = $1 AND claimed_until > $2");
        let statement = statement.bind(machine.to_string()).bind(self.clock().await?);
        self.one(statement).await?.map(|row| row.text("claimed_by")).transpose()
    }
}

fn export(row: &sqlx::any::AnyRow) -> Result<Kept> {
    let view = row.json_if("body")?;
    Ok(Kept {
        id: row.text("id")?,
        created: time(row.number("created")?),
        expires: time(row.number("expires")?),
        view: view.ok_or_else(|| super::DatabaseError::Content("an export without a point".to_owned()))?,
    })
}
