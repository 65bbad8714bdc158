//! What tests do to a service's database behind its back: lose it, have it rebuilt, change it, and have it refuse to note a step.
//!
//! Deliberately not here: what must come of that.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use mobility_tests::binary::program;
use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

use crate::rig::{Rig, wait_for};

/// The address of a PostgreSQL server, without a database, where the tests are to use one instead of SQLite.
pub(crate) const POSTGRESQL: &str = "MOBILITY_TEST_POSTGRESQL";

/// The database of a service.
pub(crate) enum Database {
    /// Of SQLite.
    File(PathBuf),
    /// Of PostgreSQL: the server's address, with a place for the database's name, and that name.
    Server(String, String),
}

impl Database {
    /// One of its own for a test: in a service's data directory, unless the tests are to use a server.
    pub(crate) fn fresh(data: &Path) -> Database {
        match std::env::var(POSTGRESQL) {
            Ok(server) => Database::on(&format!("{server}/{{}}")),
            Err(_) => Database::File(data.join("service.db")),
        }
    }

    /// One of its own on a server, whose address has a place for the name.
    pub(crate) fn on(server: &str) -> Database {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let database = Database::Server(server.to_owned(), name);
        database.make();
        database
    }

    fn make(&self) {
        if let Database::Server(server, name) = self {
            run(&server.replace("{}", "postgres"), &format!("CREATE DATABASE {name}"));
        }
    }

    /// The line of the configuration that names it.
    pub(crate) fn configuration(&self) -> String {
        match self {
            Database::File(_) => String::new(),
            Database::Server(..) => format!("database = '{}'\n", self.address()),
        }
    }

    fn address(&self) -> String {
        match self {
            Database::File(path) => format!("sqlite://{}", path.display()),
            Database::Server(server, name) => server.replace("{}", name),
        }
    }

    /// Changes it.
    pub(crate) fn change(&self, statement: &str) {
        run(&self.address(), statement);
    }

    /// Loses all of it. Nobody may be at it.
    pub(crate) fn lose(&self) {
        match self {
            Database::File(path) => {
                fs::remove_file(path).unwrap();
                for more in ["db-wal", "db-shm"] {
                    fs::remove_file(path.with_extension(more)).ok();
                }
            }
            Database::Server(server, name) => {
                run(&server.replace("{}", "postgres"), &format!("DROP DATABASE {name} WITH (FORCE)"));
                self.make();
            }
        }
    }

    /// From now on it refuses that a record in `table` has more than `steps` steps that have ended: the one after these is done, and
    /// not noted.
    pub(crate) fn refuse_after(&self, table: &str, steps: usize) {
        let of_file = format!(
            "{steps} < (SELECT COUNT(*) FROM json_each(NEW.body, '$.steps') WHERE json_extract(value, '$.ended') IS NOT NULL)"
        );
        let of_server = format!(
            "{steps} < (SELECT COUNT(*) FROM json_array_elements(NEW.body::json -> 'steps') AS step
                WHERE step ->> 'ended' IS NOT NULL)"
        );
        self.refuse(table, &of_file, &of_server);
    }

    /// From now on it refuses that a failover knows which order its machine was given: it was, and that is not noted.
    pub(crate) fn refuse_orders(&self) {
        let of_file = "json_extract(NEW.body, '$.source.command') IS NOT NULL";
        self.refuse("failovers", of_file, "NEW.body::json -> 'source' ->> 'command' IS NOT NULL");
    }

    /// From now on it refuses that a plan run knows a failover of its own: it was begun, and that is not noted.
    pub(crate) fn refuse_begun(&self) {
        let of_file = "EXISTS (SELECT 1 FROM json_each(NEW.body, '$.machines') WHERE json_extract(value, '$.failover') IS NOT NULL)";
        let of_server = "EXISTS (SELECT 1 FROM json_array_elements(NEW.body::json -> 'machines') AS machine
            WHERE machine ->> 'failover' IS NOT NULL)";
        self.refuse("plan_runs", of_file, of_server);
    }

    fn refuse(&self, table: &str, of_file: &str, of_server: &str) {
        self.relent(table);
        self.change(&match self {
            Database::File(_) => format!(
                "CREATE TRIGGER struck BEFORE UPDATE OF body ON {table} WHEN {of_file}
                 BEGIN SELECT RAISE(ABORT, 'a test wants it so'); END"
            ),
            Database::Server(..) => format!(
                "CREATE OR REPLACE FUNCTION struck() RETURNS trigger AS $$ BEGIN
                    IF {of_server} THEN RAISE EXCEPTION 'a test wants it so'; END IF;
                    RETURN NEW; END $$ LANGUAGE plpgsql;
                 CREATE TRIGGER struck BEFORE UPDATE OF body ON {table} FOR EACH ROW EXECUTE FUNCTION struck()"
            ),
        });
    }

    /// It refuses nothing any more.
    pub(crate) fn relent(&self, table: &str) {
        self.change(&match self {
            Database::File(_) => "DROP TRIGGER IF EXISTS struck".to_owned(),
            Database::Server(..) => format!("DROP TRIGGER IF EXISTS struck ON {table}"),
        });
    }

    /// The time of all claims is up. Those of a service that is alone end when it is started.
    fn end_claims(&self) {
        if let Database::Server(..) = self {
            self.change("UPDATE failovers SET claimed_until = 0; UPDATE plan_runs SET claimed_until = 0");
        }
    }
}

/// Has a database carry out statements.
fn run(address: &str, statements: &str) {
    sqlx::any::install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut database = AnyConnection::connect(address).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut database).await;
        done.unwrap_or_else(|err| panic!("{statements}: {err}"));
        database.close().await.unwrap();
    });
}

/// Loses the database of a service that does not run, has it rebuilt, and starts the service; what was said.
pub(crate) fn rebuild(rig: &mut Rig) -> Value {
    rig.database.lose();
    let mut command = Command::new(program("recovery-service"));
    let rebuilt = command.args(["reindex", "--json", "--config"]).arg(rig.config()).output().unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    rig.start();
    serde_json::from_slice(&rebuilt.stdout).unwrap()
}

/// A service that is killed after each step of what it does, when that is done and cannot be noted.
pub(crate) struct Strikes {
    table: &'static str,
    log: PathBuf,
}

impl Strikes {
    /// Those of a service with what is in `table`.
    pub(crate) fn at(rig: &mut Rig, table: &'static str) -> Strikes {
        let log = rig.data().with_extension("log");
        rig.log_to(log.clone());
        Strikes { table, log }
    }

    fn seen(&self) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches("stands still until").count()
    }

    /// Lets `ask` begin something, and waits until the step after so many is done and cannot be noted.
    pub(crate) fn strike(&self, rig: &Rig, steps: usize, ask: impl FnOnce()) {
        rig.database.refuse_after(self.table, steps);
        self.struck(ask);
    }

    /// Lets `ask` begin something, and waits until something of it cannot be noted.
    pub(crate) fn struck(&self, ask: impl FnOnce()) {
        let before = self.seen();
        ask();
        wait_for("something that cannot be noted", || (self.seen() > before).then_some(()));
    }

    /// Kills the service that stands still, and starts it with a database that takes everything.
    pub(crate) fn kill(&self, rig: &mut Rig) {
        rig.kill();
        rig.database.relent(self.table);
        rig.database.end_claims();
        rig.start();
    }

    /// Has it killed after each of these steps, when that is done and cannot be noted. `ask` begins the first of them.
    pub(crate) fn at_each(&self, rig: &mut Rig, steps: Range<usize>, ask: impl FnOnce(&Rig)) {
        self.strike(rig, steps.start, || ask(rig));
        self.go_on(rig, steps);
    }

    /// As [`Strikes::at_each`], where the first one has struck.
    pub(crate) fn go_on(&self, rig: &mut Rig, steps: Range<usize>) {
        for step in steps.start + 1..steps.end {
            let before = self.seen();
            rig.kill();
            rig.database.refuse_after(self.table, step);
            rig.database.end_claims();
            rig.start();
            wait_for("a step that cannot be noted", || (self.seen() > before).then_some(()));
        }
        self.kill(rig);
    }
}
