//! Changes of settings that are counted, so that what is stored of them has a number: recovery plans, network mappings.
//!
//! Deliberately not here: the settings (`plans`, `targets`), and storing them (`facts`).

use sqlx::query;

use super::{Columns, Database, Result, Statement};

impl Database {
    /// Counts a change of settings under `counter`, and makes it, by a statement that changes one row if there is anything to change.
    /// Whether there was. The count is in the row of that name in `settings`, also for the statement itself.
    pub(super) async fn change_counted(&self, counter: &'static str, statement: Statement) -> Result<bool> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        // Counted first, so that of two changes at once the second waits here for the first one's end.
        query(
            "INSERT INTO settings (name, value) VALUES ($1, '1')
             ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(settings.value AS BIGINT) + 1 AS TEXT)",
        )
        .bind(counter)
        .execute(&mut *transaction)
        .await?;
        let changed = statement.execute(&mut *transaction).await?.rows_affected() == 1;
        if changed {
            transaction.commit().await?;
        }
        Ok(changed)
    }

    /// How many changes were counted.
    pub(super) async fn counted(&self, counter: &'static str) -> Result<u64> {
        let row = self.one(query("SELECT value FROM settings WHERE name = $1").bind(counter)).await?;
        row.map_or(Ok(0), |row| row.parsed("value"))
    }

    /// Has counting go on from where it was.
    pub(super) async fn restore_count(&self, counter: &'static str, count: u64) -> Result<()> {
        let statement = query("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        self.write(statement.bind(counter).bind(count.to_string())).await.map(|_| ())
    }
}
