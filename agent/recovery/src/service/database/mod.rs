//! The service's database: SQLite in a file, or PostgreSQL where several instances share it.
//!
//! One set of statements serves both: `$1` for parameters, times as milliseconds since 1970, ids as hexadecimal text, messages
//! as JSON. What two instances may do at once is decided by one conditional `UPDATE`, never by what was read before. Everything
//! that has to outlast it is stored with the points, too (`facts`), so that it can be rebuilt (`reindex`). Deliberately not here: what the
//! rows mean to anybody else.

mod commands;
mod counted;
mod events;
mod exports;
mod facts;
mod failovers;
mod group;
mod machines;
mod plan_runs;
mod plans;
mod policies;
mod schema;
mod sessions;
mod states;
mod stepwise;
mod targets;
mod tokens;
mod work;

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use mobility_format::ByteCount;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Any, AnyConnection, AnyPool, Row,
    any::{AnyArguments, AnyPoolOptions, AnyRow},
    query::Query,
};
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use commands::{CommandState, Noted, Waiting};
pub(crate) use events::{Event, Kind as EventKind};
pub(crate) use facts::Found;
pub(crate) use machines::{Enrolment, Machine, Standing};
pub(crate) use plan_runs::NoRun;
pub(crate) use plans::ChangedPlan;
pub(crate) use sessions::{Begun, Newcomer};
pub(crate) use states::{State, Taken};
pub(crate) use stepwise::Kept;
pub(crate) use targets::essential;
pub(crate) use tokens::Token;
pub(crate) use work::{CLAIM, Claim, Job, Overdue};

use self::{
    group::{Done, Group, Waiting as InGroup},
    work::CLAIM_MS,
};
use super::config;

/// Connections to the database.
const CONNECTIONS: u32 = 8;
/// How long to wait for one of them.
const WAIT: Duration = Duration::from_secs(20);

/// The database fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    /// It says so itself.
    #[error("the database fails: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// What is in it makes no sense.
    #[error("the database holds what cannot be: {0}")]
    Content(String),
    /// What several statements were to do failed for all of them.
    #[error("the database fails: {0}")]
    Together(String),
}

pub(crate) type Result<T> = std::result::Result<T, DatabaseError>;

/// A statement with its parameters.
type Statement = Query<'static, Any, AnyArguments>;

/// The database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Database {
    pool: AnyPool,
    /// SQLite takes one writer at a time, and is unfair when there are more.
    one_writer: Option<&'static Semaphore>,
    group: Group,
    /// Transactions begun to write something.
    transactions: Arc<AtomicU64>,
}

impl Database {
    /// Connects, and brings the tables up to date.
    pub(crate) async fn open(place: &config::Database) -> Result<Database> {
        static DRIVERS: Once = Once::new();
        static WRITER: Semaphore = Semaphore::const_new(1);
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let pool = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(WAIT);
        let (pool, one_writer) = match place {
            config::Database::File(path) => {
                let url = format!("sqlite://{}?mode=rwc", path.display());
                let pool = pool.after_connect(|connection, _| Box::pin(set_up_sqlite(connection)));
                (pool.connect(&url).await?, Some(&WRITER))
            }
            config::Database::Server(url) => (pool.connect(url).await?, None),
        };
        let transactions = Arc::<AtomicU64>::default();
        let group = Group::new(pool.clone(), one_writer, transactions.clone());
        let database = Database { pool, one_writer, group, transactions };
        database.migrate().await?;
        Ok(database)
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Held while something is written.
    async fn writer(&self) -> Option<SemaphorePermit<'static>> {
        match self.one_writer {
            Some(writer) => writer.acquire().await.ok(),
            None => None,
        }
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, Any>> {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        Ok(match self.one_writer {
            // So that it does not find out at its first write that it read what is old.
            Some(_) => self.pool.begin_with("BEGIN IMMEDIATE").await?,
            None => self.pool.begin().await?,
        })
    }

    /// How many transactions were begun to write something.
    pub(crate) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// How many rows a statement has changed.
    async fn write(&self, statement: Statement) -> Result<u64> {
        if self.one_writer.is_some() {
            return Ok(self.with_others(statement, false).await?.changed);
        }
        self.transactions.fetch_add(1, Ordering::Relaxed);
        Ok(statement.execute(&self.pool).await?.rows_affected())
    }

    /// What a statement that changes one row at most returns of it.
    async fn change(&self, statement: Statement) -> Result<Option<AnyRow>> {
        if self.one_writer.is_some() {
            return Ok(self.with_others(statement, true).await?.rows.pop());
        }
        self.transactions.fetch_add(1, Ordering::Relaxed);
        Ok(statement.fetch_all(&self.pool).await?.pop())
    }

    async fn with_others(&self, statement: Statement, returns: bool) -> Result<Done> {
        let statements = vec![statement];
        self.group.run(InGroup { order: String::new(), statements, returns, patient: false }).await
    }

    async fn one(&self, statement: Statement) -> Result<Option<AnyRow>> {
        Ok(statement.fetch_all(&self.pool).await?.pop())
    }

    async fn all(&self, statement: Statement) -> Result<Vec<AnyRow>> {
        Ok(statement.fetch_all(&self.pool).await?)
    }
}

async fn set_up_sqlite(connection: &mut AnyConnection) -> sqlx::Result<()> {
    for pragma in [
        "PRAGMA busy_timeout = 10000",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
    ] {
        sqlx::query(pragma).fetch_all(&mut *connection).await?;
    }
    Ok(())
}

/// A time as it is stored.
pub(crate) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A time as it was stored.
pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A number as it is stored. What is larger than the database can hold is no number of ours.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|err| DatabaseError::Content(err.to_string()))
}

/// What a row holds, in the types of this program.
trait Columns {
    fn text(&self, name: &str) -> Result<String>;
    fn text_if(&self, name: &str) -> Result<Option<String>>;
    fn number(&self, name: &str) -> Result<i64>;
    fn number_if(&self, name: &str) -> Result<Option<i64>>;

    fn count(&self, name: &str) -> Result<u64> {
        u64::try_from(self.number(name)?).map_err(|_| DatabaseError::Content(format!("{name} is below zero")))
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        text.parse().map_err(|_| DatabaseError::Content(format!("{name} is '{text}'")))
    }

    fn json_if<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let read = |text: String| {
            serde_json::from_str(&text).map_err(|err| DatabaseError::Content(format!("{name}: {err}")))
        };
        self.text_if(name)?.map(read).transpose()
    }

    fn bytes_if(&self, name: &str) -> Result<Option<ByteCount>> {
        Ok(self.number_if(name)?.map(|bytes| ByteCount(bytes.try_into().unwrap_or(0))))
    }

    fn time_if(&self, name: &str) -> Result<Option<Timestamp>> {
        Ok(self.number_if(name)?.map(time))
    }
}

impl Columns for AnyRow {
    fn text(&self, name: &str) -> Result<String> {
        Ok(self.try_get(name)?)
    }

    fn text_if(&self, name: &str) -> Result<Option<String>> {
        Ok(self.try_get(name)?)
    }

    fn number(&self, name: &str) -> Result<i64> {
        Ok(self.try_get(name)?)
    }

    fn number_if(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.try_get(name)?)
    }
}
