//! Plan runs: which may begin, which have changed since they were stored, and which are forgotten.
//!
//! Each is stored under the number of its last change. Deliberately not here: what they have in common with failovers (`stepwise`), and
//! what a plan run is made of (`plan`).

use sqlx::query;

use super::{Columns, Database, Result, json, millis, stored};
use crate::service::{
    plan::{Phase, PlanRun},
    stepwise::Stepwise,
};

/// Plan runs that have come to their end and are remembered.
const MOST_ENDED: i64 = 1000;
/// Plan runs that may be waiting to be decided. One for each plan, but for those of plans that were removed meanwhile.
const MOST_UNDECIDED: u64 = 2000;

/// Why a plan run may not begin.
pub(crate) enum NoRun {
    /// This one of the same plan is not decided yet.
    Other(String),
    /// Too many are not decided yet.
    TooMany,
}

impl Database {
    /// Keeps a new plan run, to be begun, unless something is in the way.
    pub(crate) async fn add_plan_run(&self, run: &PlanRun) -> Result<Option<NoRun>> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        // Of two at once the second waits here for the first one's end.
        query("UPDATE plans SET name = name WHERE name = $1")
            .bind(run.plan.clone())
            .execute(&mut *transaction)
            .await?;
        let other = query("SELECT id FROM plan_runs WHERE plan = $1 AND settled = 0");
        if let Some(row) = other.bind(run.plan.clone()).fetch_all(&mut *transaction).await?.first() {
            return Ok(Some(NoRun::Other(row.text("id")?)));
        }
        let count = query("SELECT COUNT(*) AS undecided FROM plan_runs WHERE settled = 0");
        let count = count.fetch_all(&mut *transaction).await?;
        if count.first().map_or(Ok(0), |row| row.count("undecided"))? >= MOST_UNDECIDED {
            return Ok(Some(NoRun::TooMany));
        }
        query(
            "INSERT INTO plan_runs (id, plan, created, scripts, busy, body) VALUES ($1, $2, $3, $4, 1, $5)",
        )
        .bind(run.id.clone())
        .bind(run.plan.clone())
        .bind(millis(run.asked))
        .bind(i64::from(run.has_scripts()))
        .bind(json(run)?)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(None)
    }

    /// Plan runs that have changed since they were stored: their ids.
    pub(crate) async fn plan_runs_to_store(&self, most: u32) -> Result<Vec<String>> {
        let statement = query("SELECT id FROM plan_runs WHERE changes > stored LIMIT $1");
        let rows = self.all(statement.bind(i64::from(most))).await?;
        rows.iter().map(|row| row.text("id")).collect()
    }

    /// The number of a plan run's last change.
    pub(crate) async fn plan_run_number(&self, id: &str) -> Result<Option<u64>> {
        let statement = query("SELECT changes FROM plan_runs WHERE id = $1");
        self.one(statement.bind(id.to_owned())).await?.map(|row| row.count("changes")).transpose()
    }

    /// Notes that a change of a plan run was stored.
    pub(crate) async fn note_plan_run_stored(&self, id: &str, number: u64) -> Result<()> {
        let statement = query("UPDATE plan_runs SET stored = $1 WHERE id = $2 AND stored < $3");
        let statement = statement.bind(stored(number)).bind(id.to_owned()).bind(stored(number));
        self.write(statement).await.map(|_| ())
    }

    /// Puts a plan run back that was stored under a number: nobody works on it, and whoever can goes on with it.
    pub(crate) async fn restore_plan_run(&self, run: &PlanRun, number: u64) -> Result<()> {
        let statement = query(
            "INSERT INTO plan_runs (id, plan, created, scripts, busy, settled, changes, stored, body)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        );
        let statement = statement.bind(run.id.clone()).bind(run.plan.clone()).bind(millis(run.asked));
        let statement = statement.bind(i64::from(run.has_scripts()));
        let statement = statement.bind(i64::from(run.phase == Phase::Running));
        let statement = statement.bind(i64::from(Stepwise::is_settled(run)));
        let statement = statement.bind(stored(number)).bind(stored(number)).bind(json(run)?);
        self.write(statement).await.map(|_| ())
    }

    /// Plan runs that have ended and are not remembered any longer, since there are so many newer ones: their ids.
    pub(crate) async fn plan_runs_to_forget(&self, most: u32) -> Result<Vec<String>> {
        let statement = query(
            "SELECT id FROM plan_runs WHERE settled = 1 AND busy = 0 ORDER BY created DESC, id LIMIT $1 OFFSET $2",
        );
        let rows = self.all(statement.bind(i64::from(most)).bind(MOST_ENDED)).await?;
        rows.iter().map(|row| row.text("id")).collect()
    }

    /// Forgets a plan run.
    pub(crate) async fn forget_plan_run(&self, id: &str) -> Result<()> {
        self.write(query("DELETE FROM plan_runs WHERE id = $1").bind(id.to_owned())).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::service::{
        config,
        failover::Kind,
        plan::{Plan, Wanted},
    };

    async fn open(dir: &Path) -> Database {
        Database::open(&config::Database::File(dir.join("test.db"))).await.unwrap()
    }

    /// A run of a plan without machines that has come to its end so many minutes after the first one.
    fn ended(number: i64, phase: Phase) -> PlanRun {
        let plan: Plan = serde_json::from_str(r#"{ "groups": [] }"#).unwrap();
        let wanted = Wanted { kind: Kind::Test, point: "latest".to_owned(), skip_manual: false };
        let run = PlanRun::new(format!("{number:016x}"), "shop".to_owned(), &plan, wanted, Vec::new());
        let asked = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(number);
        PlanRun { asked, phase, ..run }
    }

    #[tokio::test]
    async fn the_oldest_that_have_ended_are_forgotten_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path()).await;
        let undecided = [ended(0, Phase::Ready), ended(2, Phase::Failed)];
        for run in &undecided {
            database.restore_plan_run(run, 1).await.unwrap();
        }
        for number in [1, 3, 4].into_iter().chain(5..MOST_ENDED + 2) {
            database.restore_plan_run(&ended(number, Phase::Cancelled), 1).await.unwrap();
        }
        assert!(database.plan_runs_to_forget(9).await.unwrap().is_empty(), "there is room for all of them");
        for number in [MOST_ENDED + 2, MOST_ENDED + 3] {
            database.restore_plan_run(&ended(number, Phase::Committed), 1).await.unwrap();
        }
        let old = database.plan_runs_to_forget(9).await.unwrap();
        assert_eq!(old, [3, 1].map(|number: i64| format!("{number:016x}")));
        for id in old {
            database.forget_plan_run(&id).await.unwrap();
        }
        assert!(database.plan_runs_to_forget(9).await.unwrap().is_empty());
        assert!(database.record::<PlanRun>(&undecided[0].id).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_noted_is_to_be_stored_and_what_only_was_kept_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path()).await;
        let run = ended(1, Phase::Running);
        assert!(database.add_plan_run(&run).await.unwrap().is_none());
        let again = database.add_plan_run(&ended(2, Phase::Running)).await.unwrap();
        assert!(matches!(again, Some(NoRun::Other(id)) if id == run.id));
        let due = async || database.plan_runs_to_store(9).await.unwrap();
        assert_eq!(due().await, [&*run.id], "it is stored before anything is done");
        database.note_plan_run_stored(&run.id, 1).await.unwrap();
        assert!(database.claim_record::<PlanRun>(&run.id, "one").await.unwrap());
        assert!(!database.note_record(&run, "two", false).await.unwrap(), "whose claim it is not");
        assert!(database.keep_record(&run, "one").await.unwrap());
        assert!(due().await.is_empty());
        assert!(database.note_record(&run, "one", false).await.unwrap());
        assert_eq!((due().await.len(), database.plan_run_number(&run.id).await.unwrap()), (1, Some(2)));
        database.release_record::<PlanRun>(&run.id, "one", false).await.unwrap();
        assert!(!database.keep_record(&run, "one").await.unwrap(), "it was given back");
    }
}
