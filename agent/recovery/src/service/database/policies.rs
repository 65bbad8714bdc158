//! Policies by name.
//!
//! Versions are numbered across all policies, so that a machine which is moved from one to another sees a version that it does
//! not have. Deliberately not here: what a policy may say, which is checked before it gets here.

use mobility_format::control::Policy;
use sqlx::query;

use super::{Columns, Database, DatabaseError, Result, json, stored};

impl Database {
    /// Puts a policy under its name, with a version of its own.
    pub(crate) async fn set_policy(&self, policy: &Policy) -> Result<Policy> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        let rows = query("SELECT COALESCE(MAX(version), 0) AS newest FROM policies")
            .fetch_all(&mut *transaction)
            .await?;
        let newest = rows.first().map_or(Ok(0), |row| row.count("newest"))?;
        let policy = Policy { version: newest + 1, ..policy.clone() };
        query(
            "INSERT INTO policies (name, version, interval_ms, paused, body) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, interval_ms = excluded.interval_ms,
                paused = excluded.paused, body = excluded.body",
        )
        .bind(policy.name.clone())
        .bind(stored(policy.version))
        .bind(stored(policy.interval_s.saturating_mul(1000)))
        .bind(i64::from(policy.paused))
        .bind(json(&policy)?)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(policy)
    }

    /// Keeps a policy where there is none of its name yet.
    pub(crate) async fn keep_policy(&self, policy: &Policy) -> Result<()> {
        match self.policy(&policy.name).await? {
            Some(_) => Ok(()),
            None => self.set_policy(policy).await.map(|_| ()),
        }
    }

    /// The policy of that name.
    pub(crate) async fn policy(&self, name: &str) -> Result<Option<Policy>> {
        let row = self.one(query("SELECT body FROM policies WHERE name = $1").bind(name.to_owned())).await?;
        row.map_or(Ok(None), |row| row.json_if("body"))
    }

    /// All policies, by name.
    pub(crate) async fn policies(&self) -> Result<Vec<Policy>> {
        let rows = self.all(query("SELECT body FROM policies ORDER BY name LIMIT 1000")).await?;
        let lost = || DatabaseError::Content("a policy is empty".to_owned());
        rows.iter().map(|row| row.json_if("body")?.ok_or_else(lost)).collect()
    }
}
