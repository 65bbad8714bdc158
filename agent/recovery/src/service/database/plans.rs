//! Recovery plans by name.
//!
//! Changes of all plans are counted, and each plan is stored under the number of its last change. One that is removed stays as a
//! row without a plan until that is stored as well. Deliberately not here: what a plan may say, which is checked before it gets
//! here, and plan runs.

use sqlx::{any::AnyRow, query};

use super::{Columns, Database, DatabaseError, Result, json, stored};
use crate::service::plan::Plan;

/// Plans that there may be.
const MOST: i64 = 1000;
/// The setting that counts changes of plans.
const CHANGES: &str = "plans";

/// A plan, or that it was removed, and the number of that change.
pub(crate) struct ChangedPlan {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) plan: Option<Plan>,
}

impl Database {
    /// Puts a plan under its name. Not where there are too many.
    pub(crate) async fn set_plan(&self, name: &str, plan: &Plan) -> Result<bool> {
        let statement = query(
            "INSERT INTO plans (name, number, body)
             SELECT $1, CAST(value AS BIGINT), $2 FROM settings WHERE name = 'plans'
                AND (SELECT COUNT(*) FROM plans WHERE name <> $3 AND body IS NOT NULL) < $4
             ON CONFLICT (name) DO UPDATE SET number = excluded.number, body = excluded.body",
        );
        let statement = statement.bind(name.to_owned()).bind(json(plan)?).bind(name.to_owned()).bind(MOST);
        self.change_counted(CHANGES, statement).await
    }

    /// Removes a plan. Whether there was one.
    pub(crate) async fn remove_plan(&self, name: &str) -> Result<bool> {
        let statement = query(
            "UPDATE plans SET body = NULL,
                number = (SELECT CAST(value AS BIGINT) FROM settings WHERE settings.name = 'plans')
             WHERE name = $1 AND body IS NOT NULL",
        );
        self.change_counted(CHANGES, statement.bind(name.to_owned())).await
    }

    /// The plan of that name.
    pub(crate) async fn plan(&self, name: &str) -> Result<Option<Plan>> {
        let row = self.one(query("SELECT body FROM plans WHERE name = $1").bind(name.to_owned())).await?;
        row.map_or(Ok(None), |row| row.json_if("body"))
    }

    /// All plans, by name.
    pub(crate) async fn plans(&self) -> Result<Vec<(String, Plan)>> {
        let statement =
            query("SELECT name, number, body FROM plans WHERE body IS NOT NULL ORDER BY name LIMIT $1");
        let rows = self.all(statement.bind(MOST)).await?;
        let lost = || DatabaseError::Content("a plan is empty".to_owned());
        rows.iter()
            .map(|row| changed(row).and_then(|plan| Ok((plan.name, plan.plan.ok_or_else(lost)?))))
            .collect()
    }

    /// Plans that have changed since they were stored.
    pub(crate) async fn plans_to_store(&self, most: u32) -> Result<Vec<ChangedPlan>> {
        let statement = query("SELECT name, number, body FROM plans WHERE number > stored LIMIT $1");
        self.all(statement.bind(i64::from(most))).await?.iter().map(changed).collect()
    }

    /// Notes that a change of a plan was stored. Nothing remains of one that was removed.
    pub(crate) async fn note_plan_stored(&self, name: &str, number: u64) -> Result<()> {
        let statement = query("UPDATE plans SET stored = $1 WHERE name = $2 AND stored < $3");
        let statement = statement.bind(stored(number)).bind(name.to_owned()).bind(stored(number));
        self.write(statement).await?;
        let statement = query("DELETE FROM plans WHERE name = $1 AND body IS NULL AND number <= stored");
        self.write(statement.bind(name.to_owned())).await.map(|_| ())
    }

    /// Puts plans back as they were stored.
    pub(crate) async fn restore_plans(&self, plans: &[ChangedPlan]) -> Result<()> {
        for ChangedPlan { name, number, plan } in plans {
            let statement = query(
                "INSERT INTO plans (name, number, stored, body) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            );
            // What was removed, and perhaps not all of it, is stored as removed once more.
            let as_stored = if plan.is_some() { *number } else { 0 };
            let statement = statement.bind(name.clone()).bind(stored(*number)).bind(stored(as_stored));
            self.write(statement.bind(plan.as_ref().map(json).transpose()?)).await?;
        }
        let newest = plans.iter().map(|plan| plan.number).max().unwrap_or(0);
        self.restore_count(CHANGES, newest).await
    }
}

fn changed(row: &AnyRow) -> Result<ChangedPlan> {
    Ok(ChangedPlan { name: row.text("name")?, number: row.count("number")?, plan: row.json_if("body")? })
}
