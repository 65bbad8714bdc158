//! Plan runs: kept whole, claimed by the instance that does their steps, and asked something by administrators meanwhile.
//!
//! As failovers are. Deliberately not here: what a plan run is made of (`plan`).

use sqlx::{any::AnyRow, query};

use super::{CLAIM_MS, Columns, Database, DatabaseError, Result, json, millis};
use crate::service::plan::{Action, PlanRun};

/// A plan run, and what waits for it.
#[derive(Clone, Debug)]
pub(crate) struct KeptRun {
    pub(crate) run: PlanRun,
    /// What was asked of it and not taken up yet.
    pub(crate) asked: Option<Action>,
}

const ONE: &str = "SELECT body, asked FROM plan_runs WHERE id = $1";
const OF_ALL: &str = "SELECT body, asked FROM plan_runs ORDER BY created DESC, id LIMIT $1";
const OF_ONE: &str = "SELECT body, asked FROM plan_runs WHERE plan = $1 ORDER BY created DESC, id LIMIT $2";

impl Database {
    /// Keeps a new plan run, to be begun. Not where its plan has one already of which nobody has said what becomes of it: that one.
    pub(crate) async fn add_plan_run(&self, run: &PlanRun, has_scripts: bool) -> Result<Option<String>> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        // Of two at once the second waits here for the first one's end.
        query("UPDATE plans SET name = name WHERE name = $1")
            .bind(run.plan.clone())
            .execute(&mut *transaction)
            .await?;
        let other = query("SELECT id FROM plan_runs WHERE plan = $1 AND settled = 0");
        if let Some(row) = other.bind(run.plan.clone()).fetch_all(&mut *transaction).await?.first() {
            return Ok(Some(row.text("id")?));
        }
        query(
            "INSERT INTO plan_runs (id, plan, created, scripts, busy, body) VALUES ($1, $2, $3, $4, 1, $5)",
        )
        .bind(run.id.clone())
        .bind(run.plan.clone())
        .bind(millis(run.asked))
        .bind(i64::from(has_scripts))
        .bind(json(run)?)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(None)
    }

    /// A plan run.
    pub(crate) async fn plan_run(&self, id: &str) -> Result<Option<KeptRun>> {
        self.one(query(ONE).bind(id.to_owned())).await?.as_ref().map(kept).transpose()
    }

    /// The newest plan runs, of one plan or of all.
    pub(crate) async fn plan_runs(&self, plan: Option<&str>, most: u32) -> Result<Vec<KeptRun>> {
        let statement = match plan {
            None => query(OF_ALL),
            Some(plan) => query(OF_ONE).bind(plan.to_owned()),
        };
        let rows = self.all(statement.bind(i64::from(most))).await?;
        rows.iter().map(kept).collect()
    }

    /// Asks something of a plan run. Not where something waits already.
    pub(crate) async fn ask_plan_run(&self, id: &str, action: Action) -> Result<bool> {
        let statement = query("UPDATE plan_runs SET asked = $1, busy = 1 WHERE id = $2 AND asked IS NULL");
        Ok(self.write(statement.bind(json(&action)?).bind(id.to_owned())).await? == 1)
    }

    /// Plan runs that have something to do and that nobody works on: their ids, and whether programs are a part of them.
    pub(crate) async fn idle_plan_runs(&self) -> Result<Vec<(String, bool)>> {
        let statement = query(
            "SELECT id, scripts FROM plan_runs WHERE busy = 1 AND claimed_until <= $1 ORDER BY created LIMIT 1000",
        );
        let rows = self.all(statement.bind(self.clock().await?)).await?;
        rows.iter().map(|row| Ok((row.text("id")?, row.number("scripts")? == 1))).collect()
    }

    /// Claims a plan run, if nobody works on it.
    pub(crate) async fn claim_plan_run(&self, id: &str, by: &str) -> Result<bool> {
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE plan_runs SET claimed_by = $1, claimed_until = $2 WHERE id = $3 AND claimed_until <= $4",
        );
        let statement = statement.bind(by.to_owned()).bind(clock + CLAIM_MS).bind(id.to_owned()).bind(clock);
        Ok(self.write(statement).await? == 1)
    }

    /// Holds a claim for longer. Whether it was still held.
    pub(crate) async fn hold_plan_run(&self, id: &str, by: &str) -> Result<bool> {
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE plan_runs SET claimed_until = $1 WHERE id = $2 AND claimed_by = $3 AND claimed_until > $4",
        );
        let statement = statement.bind(clock + CLAIM_MS).bind(id.to_owned()).bind(by.to_owned()).bind(clock);
        Ok(self.write(statement).await? == 1)
    }

    /// Keeps what is known of a plan run now, and holds its claim for longer. Whether it was still held. What was asked is taken up
    /// where `taken_up` says so.
    pub(crate) async fn keep_plan_run(&self, run: &PlanRun, by: &str, taken_up: bool) -> Result<bool> {
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE plan_runs SET body = $1, settled = $2, claimed_until = $3,
                asked = CASE WHEN $4 = 1 THEN NULL ELSE asked END
             WHERE id = $5 AND claimed_by = $6 AND claimed_until > $7",
        );
        let statement = statement.bind(json(run)?).bind(i64::from(run.is_settled()));
        let statement = statement.bind(clock + CLAIM_MS).bind(i64::from(taken_up));
        let statement = statement.bind(run.id.clone()).bind(by.to_owned()).bind(clock);
        Ok(self.write(statement).await? == 1)
    }

    /// Gives a claim back. There is nothing more to do where `rests` says so and nothing was asked meanwhile.
    pub(crate) async fn release_plan_run(&self, id: &str, by: &str, rests: bool) -> Result<()> {
        let statement = query(
            "UPDATE plan_runs SET claimed_until = 0,
                busy = CASE WHEN $1 = 1 AND asked IS NULL THEN 0 ELSE 1 END
             WHERE id = $2 AND claimed_by = $3",
        );
        let statement = statement.bind(i64::from(rests)).bind(id.to_owned()).bind(by.to_owned());
        self.write(statement).await.map(|_| ())
    }

    /// Nobody else works with this database, so claims in it are left over.
    pub(crate) async fn drop_plan_run_claims(&self) -> Result<()> {
        self.write(query("UPDATE plan_runs SET claimed_until = 0 WHERE claimed_until <> 0")).await.map(|_| ())
    }
}

fn kept(row: &AnyRow) -> Result<KeptRun> {
    let lost = || DatabaseError::Content("a plan run is empty".to_owned());
    Ok(KeptRun { run: row.json_if("body")?.ok_or_else(lost)?, asked: row.json_if("asked")? })
}
