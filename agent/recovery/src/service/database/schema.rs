//! The tables, and how they came to be: a list of steps that is only ever added to.
//!
//! Each step runs once, in a transaction with the note that it ran, so that of several instances that start at once one makes
//! it and the others see it done. Deliberately not here: what is in the tables.

use sqlx::query;

use super::{Columns, Database, DatabaseError, Result};

const STEPS: [&[&str]; 7] = [FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH, SEVENTH];

const FIRST: &[&str] = &[
    "CREATE TABLE policies (
        name TEXT PRIMARY KEY,
        version BIGINT NOT NULL,
        interval_ms BIGINT NOT NULL,
        paused BIGINT NOT NULL,
        body TEXT NOT NULL)",
    "CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        policy TEXT NOT NULL REFERENCES policies (name),
        uses BIGINT NOT NULL,
        uses_left BIGINT NOT NULL,
        created BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        revoked BIGINT)",
    "CREATE TABLE machines (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        signing_key TEXT NOT NULL,
        policy TEXT NOT NULL REFERENCES policies (name),
        inventory TEXT NOT NULL,
        enrolled BIGINT NOT NULL,
        revoked BIGINT)",
    "CREATE TABLE enrolments (
        token TEXT NOT NULL REFERENCES tokens (hash),
        key_hash TEXT NOT NULL,
        machine TEXT NOT NULL REFERENCES machines (id),
        PRIMARY KEY (token, key_hash))",
    "CREATE TABLE states (
        machine TEXT PRIMARY KEY REFERENCES machines (id),
        session TEXT,
        boot TEXT,
        hardware TEXT,
        heard BIGINT NOT NULL DEFAULT 0,
        turn_shown BIGINT NOT NULL DEFAULT -1,
        turn_first BIGINT NOT NULL DEFAULT 0,
        turn_last BIGINT NOT NULL DEFAULT 0,
        waiting TEXT,
        waiting_since BIGINT NOT NULL DEFAULT 0,
        health TEXT,
        generation BIGINT NOT NULL DEFAULT 0,
        slots BIGINT NOT NULL DEFAULT 0,
        commands BIGINT NOT NULL DEFAULT 0,
        head TEXT,
        taken_in BIGINT NOT NULL DEFAULT 0,
        point_epoch BIGINT,
        point_at BIGINT,
        refused BIGINT NOT NULL DEFAULT 0,
        overdue BIGINT NOT NULL DEFAULT 0)",
    "CREATE TABLE work (
        machine TEXT NOT NULL REFERENCES machines (id),
        job TEXT NOT NULL,
        due BIGINT NOT NULL,
        claimed_by TEXT,
        claimed_until BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (machine, job))",
    "CREATE INDEX work_due ON work (job, due)",
    "CREATE TABLE commands (
        machine TEXT NOT NULL REFERENCES machines (id),
        id BIGINT NOT NULL,
        body TEXT NOT NULL,
        created BIGINT NOT NULL,
        done BIGINT,
        succeeded BIGINT,
        message TEXT,
        PRIMARY KEY (machine, id))",
    "CREATE INDEX commands_created ON commands (created)",
    "CREATE TABLE events (
        id TEXT PRIMARY KEY,
        machine TEXT,
        at BIGINT NOT NULL,
        kind TEXT NOT NULL,
        message TEXT NOT NULL)",
    "CREATE INDEX events_at ON events (at)",
    "CREATE INDEX events_of ON events (machine, at)",
    "CREATE TABLE pins (
        machine TEXT NOT NULL REFERENCES machines (id),
        epoch BIGINT NOT NULL,
        PRIMARY KEY (machine, epoch))",
];

/// One claim covers all work on a machine; and what is known of a machine beside what it commits is stored with its points,
/// numbered.
const SECOND: &[&str] = &[
    "ALTER TABLE states ADD COLUMN claimed_by TEXT",
    "ALTER TABLE states ADD COLUMN claimed_until BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE states ADD COLUMN facts BIGINT NOT NULL DEFAULT 1",
    "ALTER TABLE states ADD COLUMN facts_stored BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE policies ADD COLUMN stored BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE work DROP COLUMN claimed_by",
    "ALTER TABLE work DROP COLUMN claimed_until",
];

/// How much of target storage each machine's points take, NULL where nobody has looked yet, and whether that is all they may;
/// whether a machine rests though its policy says nothing of it.
const THIRD: &[&str] = &[
    "ALTER TABLE states ADD COLUMN stored BIGINT",
    "ALTER TABLE states ADD COLUMN over_quota BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE machines ADD COLUMN paused BIGINT NOT NULL DEFAULT 0",
];

/// Where a machine is to run when it is failed over, as far as somebody said; which networks stand for which; whose sessions may
/// begin while a machine is failed over; failovers, each with all that is known of it as its body; points that are exported, each
/// until a time.
const FOURTH: &[&str] = &[
    "ALTER TABLE machines ADD COLUMN target TEXT",
    "ALTER TABLE machines ADD COLUMN gate TEXT",
    "CREATE TABLE network_mappings (
        source TEXT PRIMARY KEY,
        target TEXT NOT NULL)",
    "CREATE TABLE failovers (
        id TEXT PRIMARY KEY,
        machine TEXT NOT NULL REFERENCES machines (id),
        place TEXT NOT NULL,
        created BIGINT NOT NULL,
        busy BIGINT NOT NULL,
        settled BIGINT NOT NULL DEFAULT 0,
        epoch BIGINT,
        asked TEXT,
        claimed_by TEXT,
        claimed_until BIGINT NOT NULL DEFAULT 0,
        body TEXT NOT NULL)",
    "CREATE INDEX failovers_of ON failovers (machine, created)",
    "CREATE INDEX failovers_busy ON failovers (busy, claimed_until)",
    "CREATE TABLE exports (
        id TEXT PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        machine TEXT NOT NULL REFERENCES machines (id),
        epoch BIGINT NOT NULL,
        created BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        body TEXT NOT NULL)",
    "CREATE INDEX exports_of ON exports (machine, expires)",
];

/// Recovery plans, each under the number of its last change, without a body once it was removed; and plan runs, each with all that is
/// known of it as its body.
const FIFTH: &[&str] = &[
    "CREATE TABLE plans (
        name TEXT PRIMARY KEY,
        number BIGINT NOT NULL,
        stored BIGINT NOT NULL DEFAULT 0,
        body TEXT)",
    "CREATE TABLE plan_runs (
        id TEXT PRIMARY KEY,
        plan TEXT NOT NULL,
        created BIGINT NOT NULL,
        scripts BIGINT NOT NULL,
        busy BIGINT NOT NULL,
        settled BIGINT NOT NULL DEFAULT 0,
        asked TEXT,
        claimed_by TEXT,
        claimed_until BIGINT NOT NULL DEFAULT 0,
        body TEXT NOT NULL)",
    "CREATE INDEX plan_runs_of ON plan_runs (plan, created)",
    "CREATE INDEX plan_runs_busy ON plan_runs (busy, claimed_until)",
];

/// Which point an agent made last before it stopped its machine.
const SIXTH: &[&str] = &["ALTER TABLE commands ADD COLUMN point TEXT"];

/// Plan runs are stored as well, each under the number of its last change; the index finds those that are not yet.
const SEVENTH: &[&str] = &[
    "ALTER TABLE plan_runs ADD COLUMN changes BIGINT NOT NULL DEFAULT 1",
    "ALTER TABLE plan_runs ADD COLUMN stored BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX plan_runs_to_store ON plan_runs (id) WHERE changes > stored",
];

/// Held by who changes the tables of a PostgreSQL database, among all that share it.
const LOCK: &str = "SELECT CAST(pg_advisory_xact_lock(7305813244915873) AS TEXT)";

impl Database {
    pub(super) async fn migrate(&self) -> Result<()> {
        let _writer = self.writer().await;
        let mut transaction = self.begin().await?;
        if self.one_writer.is_none() {
            query(LOCK).fetch_all(&mut *transaction).await?;
        }
        query("CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            .execute(&mut *transaction)
            .await?;
        let row =
            query("SELECT value FROM settings WHERE name = 'schema'").fetch_all(&mut *transaction).await?;
        let done: usize = row.first().map_or(Ok(0), |row| row.parsed("value"))?;
        if done > STEPS.len() {
            let problem = format!("its tables are of version {done}, and this program knows {}", STEPS.len());
            return Err(DatabaseError::Content(format!("{problem}: upgrade it")));
        }
        for statement in STEPS[done..].iter().copied().flatten() {
            query(*statement).execute(&mut *transaction).await?;
        }
        if done < STEPS.len() {
            query("DELETE FROM settings WHERE name = 'schema'").execute(&mut *transaction).await?;
            query("INSERT INTO settings (name, value) VALUES ('schema', $1)")
                .bind(STEPS.len().to_string())
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}
