//! Records of steps: kept whole, claimed by the instance that does their steps, and asked something by administrators meanwhile.
//!
//! Only who has claimed a record writes what is known of it; what is asked of it waits beside until that is done. Failovers and plan
//! runs have a table each, of which this needs the same columns. Deliberately not here: what else their rows hold (`failovers`,
//! `plan_runs`), and what becomes of them (`service::stepwise`).

use sqlx::{AssertSqlSafe, any::AnyRow, query};

use super::{CLAIM_MS, Columns, Database, DatabaseError, Result, Statement, json, stored};
use crate::service::stepwise::Stepwise;

/// Records that are looked at in one go for whether anybody works on them.
const MOST_IDLE: u32 = 1000;

/// A record, and what waits for it.
pub(crate) struct Kept<T: Stepwise> {
    pub(crate) record: T,
    /// What was asked of it and not taken up yet.
    pub(crate) asked: Option<T::Action>,
}

/// A statement that is made of constants.
pub(super) fn statement(text: String) -> Statement {
    query(AssertSqlSafe(text))
}

impl Database {
    /// A record.
    pub(crate) async fn record<T: Stepwise>(&self, id: &str) -> Result<Option<Kept<T>>> {
        let one = statement(format!("SELECT body, asked FROM {} WHERE id = $1", T::TABLE));
        self.one(one.bind(id.to_owned())).await?.as_ref().map(kept).transpose()
    }

    /// The newest records, of one thing or of all.
    pub(crate) async fn records<T: Stepwise>(&self, of: Option<String>, most: u32) -> Result<Vec<Kept<T>>> {
        let select = format!("SELECT body, asked FROM {}", T::TABLE);
        let newest = match of {
            None => statement(format!("{select} ORDER BY created DESC, id LIMIT $1")),
            Some(of) => {
                let column = T::OF;
                statement(format!("{select} WHERE {column} = $1 ORDER BY created DESC, id LIMIT $2")).bind(of)
            }
        };
        let rows = self.all(newest.bind(i64::from(most))).await?;
        rows.iter().map(kept).collect()
    }

    /// Asks something of a record. Not where something waits already.
    pub(crate) async fn ask_record<T: Stepwise>(&self, id: &str, action: &T::Action) -> Result<bool> {
        let ask = format!("UPDATE {} SET asked = $1, busy = 1 WHERE id = $2 AND asked IS NULL", T::TABLE);
        Ok(self.write(statement(ask).bind(json(action)?).bind(id.to_owned())).await? == 1)
    }

    /// Records that have something to do and that nobody works on: their ids, and what it needs to do it.
    pub(crate) async fn idle_records<T: Stepwise>(&self) -> Result<Vec<(String, String)>> {
        let idle = statement(format!(
            "SELECT id, {} AS needs FROM {} WHERE busy = 1 AND claimed_until <= $1 ORDER BY created LIMIT $2",
            T::NEEDS,
            T::TABLE
        ));
        let rows = self.all(idle.bind(self.clock().await?).bind(i64::from(MOST_IDLE))).await?;
        rows.iter().map(|row| Ok((row.text("id")?, row.text("needs")?))).collect()
    }

    /// Claims a record, if nobody works on it.
    pub(crate) async fn claim_record<T: Stepwise>(&self, id: &str, by: &str) -> Result<bool> {
        let clock = self.clock().await?;
        let claim = statement(format!(
            "UPDATE {} SET claimed_by = $1, claimed_until = $2 WHERE id = $3 AND claimed_until <= $4",
            T::TABLE
        ));
        let claim = claim.bind(by.to_owned()).bind(clock + CLAIM_MS).bind(id.to_owned()).bind(clock);
        Ok(self.write(claim).await? == 1)
    }

    /// Holds the claim on a record for longer. Whether it was still held.
    pub(crate) async fn hold_record<T: Stepwise>(&self, id: &str, by: &str) -> Result<bool> {
        let clock = self.clock().await?;
        let hold = statement(format!(
            "UPDATE {} SET claimed_until = $1 WHERE id = $2 AND claimed_by = $3 AND claimed_until > $4",
            T::TABLE
        ));
        let hold = hold.bind(clock + CLAIM_MS).bind(id.to_owned()).bind(by.to_owned()).bind(clock);
        Ok(self.write(hold).await? == 1)
    }

    /// Keeps what is known of a record now, and holds its claim for longer. Whether it was still held.
    pub(crate) async fn keep_record<T: Stepwise>(&self, record: &T, by: &str) -> Result<bool> {
        let keep = self.keeping(record, by, false, false).await?;
        Ok(self.write(keep).await? == 1)
    }

    /// As [`Database::keep_record`], and has it stored where it outlasts the database. What was asked is taken up where `taken_up` says
    /// so.
    pub(crate) async fn note_record<T: Stepwise>(
        &self,
        record: &T,
        by: &str,
        taken_up: bool,
    ) -> Result<bool> {
        let keep = self.keeping(record, by, taken_up, true).await?;
        match record.machine() {
            Some(machine) => self.change_facts(machine, keep).await,
            None => Ok(self.write(keep).await? == 1),
        }
    }

    async fn keeping<T: Stepwise>(
        &self,
        record: &T,
        by: &str,
        taken_up: bool,
        noted: bool,
    ) -> Result<Statement> {
        let clock = self.clock().await?;
        let keep = statement(format!(
            "UPDATE {} SET body = $1, settled = $2, claimed_until = $3,
                asked = CASE WHEN $4 = 1 THEN NULL ELSE asked END, {}
             WHERE id = $6 AND claimed_by = $7 AND claimed_until > $8",
            T::TABLE,
            T::MORE
        ));
        let keep = keep.bind(json(record)?).bind(i64::from(record.is_settled())).bind(clock + CLAIM_MS);
        let keep = keep.bind(i64::from(taken_up)).bind(record.more(noted).map(stored));
        Ok(keep.bind(record.id().to_owned()).bind(by.to_owned()).bind(clock))
    }

    /// Gives a claim back. There is nothing more to do where `rests` says so and nothing was asked meanwhile.
    pub(crate) async fn release_record<T: Stepwise>(&self, id: &str, by: &str, rests: bool) -> Result<()> {
        let release = statement(format!(
            "UPDATE {} SET claimed_until = 0,
                busy = CASE WHEN $1 = 1 AND asked IS NULL THEN 0 ELSE 1 END
             WHERE id = $2 AND claimed_by = $3",
            T::TABLE
        ));
        let release = release.bind(i64::from(rests)).bind(id.to_owned()).bind(by.to_owned());
        self.write(release).await.map(|_| ())
    }

    /// Nobody else works with this database, so claims in it are left over.
    pub(crate) async fn drop_record_claims<T: Stepwise>(&self) -> Result<()> {
        let drop = format!("UPDATE {} SET claimed_until = 0 WHERE claimed_until <> 0", T::TABLE);
        self.write(statement(drop)).await.map(|_| ())
    }
}

fn kept<T: Stepwise>(row: &AnyRow) -> Result<Kept<T>> {
    let lost = || DatabaseError::Content(format!("a {} is empty", T::WHAT));
    Ok(Kept { record: row.json_if("body")?.ok_or_else(lost)?, asked: row.json_if("asked")? })
}
