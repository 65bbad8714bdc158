//! Statements that share a transaction: what it costs to make one durable is paid once for many.
//!
//! A statement is answered after the transaction that it was in is durable, and only then. Each still decides by itself, by its own
//! condition, whether it changes anything: in one transaction they run one after the other, as they would in one each. One
//! whose own content the database does not take fails alone; where the transaction fails, all that were in it do, nothing of it
//! is there, and the next one has nothing to do with it.
//!
//! On SQLite, which takes one writer at a time, every single statement goes this way. On PostgreSQL only heartbeats do, in the
//! order of their machines: then two transactions never wait for each other's rows both. Deliberately not here: what the statements say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{Any, AnyConnection, AnyPool, Connection, Transaction, any::AnyRow, error::ErrorKind};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{DatabaseError, Result, Statement};

/// Statements in one transaction.
pub(super) const MOST: usize = 256;
/// Statements that may wait for one. Each belongs to a request, whose body is in memory anyway.
const QUEUE: usize = 16_384;
/// How long a statement may wait until there is room in the queue.
const ROOM: Duration = Duration::from_secs(20);
/// Transactions at once on PostgreSQL, each of which waits for the server's answer to one statement after the other.
const AT_ONCE: usize = 4;
/// How long a transaction may be held up for others that can wait, too.
const LINGER: Duration = Duration::from_millis(20);

/// What a statement did.
#[derive(Default)]
pub(super) struct Done {
    /// What it returned of the rows that it changed.
    pub(super) rows: Vec<AnyRow>,
    /// How many rows it changed, unless it returned them.
    pub(super) changed: u64,
}

/// A statement that waits for its transaction.
pub(super) struct Waiting {
    /// In a transaction they run in this order.
    pub(super) order: String,
    /// Tried one after the other until one returns a row.
    pub(super) statements: Vec<Statement>,
    /// Whether they return the rows that they change.
    pub(super) returns: bool,
    /// Whether the transaction may be held up for more of them.
    pub(super) patient: bool,
}

struct Entry {
    waiting: Waiting,
    answer: oneshot::Sender<Result<Done>>,
}

/// Where statements go. What it hands them to ends with the last of its copies.
#[derive(Clone)]
pub(super) struct Group {
    queue: mpsc::Sender<Entry>,
    room: Duration,
}

impl Group {
    /// Needs a runtime to work in.
    pub(super) fn new(
        pool: AnyPool,
        one_writer: Option<&'static Semaphore>,
        transactions: Arc<AtomicU64>,
    ) -> Group {
        Group::limited(pool, one_writer, transactions, QUEUE, ROOM)
    }

    fn limited(
        pool: AnyPool,
        one_writer: Option<&'static Semaphore>,
        transactions: Arc<AtomicU64>,
        most: usize,
        room: Duration,
    ) -> Group {
        let (sender, queue) = mpsc::channel(most);
        let writer = Arc::new(Writer { pool, one_writer, transactions });
        tokio::spawn(Collector { writer, queue }.run());
        Group { queue: sender, room }
    }

    /// Runs a statement with others, and comes back when what it did is durable.
    pub(super) async fn run(&self, waiting: Waiting) -> Result<Done> {
        let (answer, answered) = oneshot::channel();
        let busy = || DatabaseError::Together("too much waits to be written".to_owned());
        let room = timeout(self.room, self.queue.reserve()).await.map_err(|_| busy())?;
        room.map_err(|_| gone())?.send(Entry { waiting, answer });
        answered.await.map_err(|_| gone())?
    }
}

fn gone() -> DatabaseError {
    DatabaseError::Together("what writes to it has ended".to_owned())
}

struct Collector {
    writer: Arc<Writer>,
    queue: mpsc::Receiver<Entry>,
}

impl Collector {
    async fn run(mut self) {
        let free = Arc::new(Semaphore::new(if self.writer.one_writer.is_some() { 1 } else { AT_ONCE }));
        while let Some(first) = self.queue.recv().await {
            // While none is free, others gather.
            let Ok(turn) = free.clone().acquire_owned().await else { return };
            let mut entries = self.collect(first).await;
            // Nobody waits for these any more, and nothing relies on them.
            entries.retain(|entry| !entry.answer.is_closed());
            entries.sort_by(|one, other| one.waiting.order.cmp(&other.waiting.order));
            let writer = self.writer.clone();
            tokio::spawn(async move {
                writer.answer(entries).await;
                drop(turn);
            });
        }
    }

    /// What is there, and what comes soon enough if all of it can wait.
    async fn collect(&mut self, first: Entry) -> Vec<Entry> {
        let until = Instant::now() + LINGER;
        let mut hurry = !first.waiting.patient;
        let mut entries = vec![first];
        while entries.len() < MOST {
            let next = match self.queue.try_recv() {
                Ok(entry) => entry,
                Err(_) if hurry => break,
                Err(_) => match timeout_at(until, self.queue.recv()).await {
                    Ok(Some(entry)) => entry,
                    _ => break,
                },
            };
            hurry |= !next.waiting.patient;
            entries.push(next);
        }
        entries
    }
}

struct Writer {
    pool: AnyPool,
    one_writer: Option<&'static Semaphore>,
    transactions: Arc<AtomicU64>,
}

impl Writer {
    /// Runs all in one transaction, and then answers each.
    async fn answer(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let (mut waiting, mut answers) = (Vec::new(), Vec::new());
        for entry in entries {
            waiting.push(entry.waiting);
            answers.push(entry.answer);
        }
        let outcome = self.transact(waiting).await;
        match outcome {
            Ok(done) => {
                for (answer, done) in answers.into_iter().zip(done) {
                    // Who does not wait any more asks again.
                    answer.send(done).ok();
                }
            }
            Err(err) => {
                let problem = err.to_string();
                for answer in answers {
                    answer.send(Err(DatabaseError::Together(problem.clone()))).ok();
                }
            }
        }
    }

    async fn transact(&self, waiting: Vec<Waiting>) -> sqlx::Result<Vec<Result<Done>>> {
        let _writer = match self.one_writer {
            Some(writer) => writer.acquire().await.ok(),
            None => None,
        };
        let mut connection = self.pool.acquire().await?;
        let outcome = self.transact_on(&mut connection, waiting).await;
        if outcome.is_err() {
            // SQLite may have ended the transaction by itself, without the driver's knowledge: it would begin none on it any more.
            connection.close().await.ok();
        }
        outcome
    }

    async fn transact_on(
        &self,
        connection: &mut AnyConnection,
        waiting: Vec<Waiting>,
    ) -> sqlx::Result<Vec<Result<Done>>> {
        let mut transaction = match self.one_writer {
            Some(_) => connection.begin_with("BEGIN IMMEDIATE").await?,
            None => connection.begin().await?,
        };
        self.transactions.fetch_add(1, Ordering::Relaxed);
        let mut all = Vec::with_capacity(waiting.len());
        for one in waiting {
            match execute(&mut transaction, one).await {
                Ok(done) => all.push(Ok(done)),
                // SQLite takes back that statement and nothing else; PostgreSQL would refuse all that follow.
                Err(err) if self.one_writer.is_some() && is_its_own(&err) => all.push(Err(err.into())),
                Err(err) => return Err(err),
            }
        }
        transaction.commit().await?;
        Ok(all)
    }
}

async fn execute(transaction: &mut Transaction<'_, Any>, waiting: Waiting) -> sqlx::Result<Done> {
    let mut done = Done::default();
    for statement in waiting.statements {
        match waiting.returns {
            true => done.rows = statement.fetch_all(&mut **transaction).await?,
            false => done.changed = statement.execute(&mut **transaction).await?.rows_affected(),
        }
        if !done.rows.is_empty() {
            break;
        }
    }
    Ok(done)
}

/// Whether a statement failed by what it wanted to write, and not by the database's state.
fn is_its_own(err: &sqlx::Error) -> bool {
    err.as_database_error().is_some_and(|err| !matches!(err.kind(), ErrorKind::Other))
}

#[cfg(test)]
mod tests {
    use sqlx::query;

    use super::*;
    use crate::service::{config, database::Database};

    async fn open(dir: &std::path::Path) -> Database {
        Database::open(&config::Database::File(dir.join("test.db"))).await.unwrap()
    }

    /// Puts a setting of that name, once.
    async fn put(database: &Database, name: &str) -> bool {
        let statement = query("INSERT INTO settings (name, value) VALUES ($1, '')").bind(name.to_owned());
        let statements = vec![statement];
        let waiting = Waiting { order: name.to_owned(), statements, returns: false, patient: true };
        database.group.run(waiting).await.is_ok()
    }

    async fn there(database: &Database) -> Vec<String> {
        use crate::service::database::Columns;
        let rows =
            database.all(query("SELECT name FROM settings WHERE name <> 'schema' ORDER BY name")).await;
        rows.unwrap().iter().map(|row| row.text("name").unwrap()).collect()
    }

    #[tokio::test]
    async fn many_statements_share_few_transactions() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path()).await;
        let before = database.transactions();
        let names: Vec<String> = (0..MOST * 2).map(|number| format!("{number:04}")).collect();
        let put = names.iter().map(|name| put(&database, name));
        assert!(futures_util::future::join_all(put).await.into_iter().all(|put| put));
        assert_eq!(there(&database).await, names);
        // A machine that does something else in between may need one or two more.
        assert!((2..=6).contains(&(database.transactions() - before)), "{}", database.transactions());
    }

    #[tokio::test]
    async fn what_cannot_be_written_fails_alone() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path()).await;
        assert!(put(&database, "b").await);
        let put = tokio::join!(put(&database, "a"), put(&database, "b"), put(&database, "c"));
        assert_eq!(put, (true, false, true));
        assert_eq!(there(&database).await, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn of_a_transaction_that_fails_nothing_is_there_and_everybody_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path()).await;
        for how in ["ABORT", "ROLLBACK"] {
            let make = format!(
                "CREATE TRIGGER broken_{how} BEFORE INSERT ON settings WHEN NEW.name = 'bad'
                 BEGIN SELECT RAISE({how}, 'a test wants it so'); END"
            );
            query(sqlx::AssertSqlSafe(make)).execute(&database.pool).await.unwrap();
            let all = tokio::join!(put(&database, "a"), put(&database, "bad"), put(&database, "c"));
            assert_eq!(all, (false, false, false), "{how}");
            assert!(there(&database).await.is_empty(), "{how}");
            assert!(put(&database, "d").await, "{how}: the next one has nothing to do with it");
            assert_eq!(there(&database).await, ["d"], "{how}");
            database.write(query("DELETE FROM settings WHERE name = 'd'")).await.unwrap();
            let drop = format!("DROP TRIGGER broken_{how}");
            query(sqlx::AssertSqlSafe(drop)).execute(&database.pool).await.unwrap();
        }
    }

    #[tokio::test]
    async fn more_than_may_wait_is_refused_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let mut database = open(dir.path()).await;
        let (pool, one_writer) = (database.pool.clone(), database.one_writer);
        database.group = Group::limited(pool, one_writer, Arc::default(), 2, Duration::from_millis(50));
        // Held, so that nothing can be written yet: a few are collected, two wait, and there is room for no more.
        let writer = database.writer().await;
        let all: Vec<_> = (0..10)
            .map(|number| {
                let database = database.clone();
                let statement =
                    query("INSERT INTO settings (name, value) VALUES ($1, '')").bind(number.to_string());
                tokio::spawn(async move { database.write(statement).await })
            })
            .collect();
        while !all.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(writer);
        let mut written = 0;
        for one in all {
            match one.await.unwrap() {
                Ok(changed) => written += changed,
                Err(err) => assert!(err.to_string().contains("too much waits"), "{err}"),
            }
        }
        assert!((3..10).contains(&written), "{written}");
        assert_eq!(there(&database).await.len() as u64, written);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path()).await;
        // Held, so that nothing can be written yet.
        let writer = database.writer().await;
        assert!(timeout(Duration::from_millis(1), put(&database, "a")).await.is_err());
        let second = put(&database, "b");
        drop(writer);
        assert!(second.await);
        assert_eq!(there(&database).await, ["b"]);
    }
}
