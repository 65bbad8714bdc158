//! A real database whose rows depend on each other: what a disaster may not tear apart.
//!
//! Each row names the one before and carries a checksum over both, and the writer notes when each was begun, and its commit
//! acknowledged.
//! Uses the SQLite that Python brings along. Deliberately not here: the file system that it lies on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;

use crate::{load::Process, scratch::try_run};

/// With a rollback journal only `extra` syncs the directory after the journal was removed, which is the commit.
const WRITER: &str = r#"
import hashlib, os, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode=" + sys.argv[2]).fetchall()
db.execute("pragma synchronous=extra")
db.execute("create table rows(n integer primary key, previous integer, sum text, filler blob)")
n, sum = 0, ""
while True:
    n += 1
    sum = hashlib.sha256(f"{n} {sum}".encode()).hexdigest()
    sent = time.time_ns()
    db.execute("begin immediate")
    db.execute("insert into rows values(?, ?, ?, ?)", (n, n - 1, sum, os.urandom(300)))
    db.execute("commit")
    print(n, sent, time.time_ns(), flush=True)
    time.sleep(float(sys.argv[3]))
"#;

const CHECKER: &str = r#"
import hashlib, os, sqlite3, sys
if not os.path.exists(sys.argv[1]):
    print(0)
    sys.exit()
db = sqlite3.connect(sys.argv[1])
integrity = db.execute("pragma integrity_check").fetchall()
if integrity != [("ok",)]:
    sys.exit(f"integrity: {integrity}")
rows = []
if db.execute("select count(*) from sqlite_master where name = 'rows'").fetchone()[0]:
    rows = db.execute("select n, previous, sum from rows order by n").fetchall()
sum = ""
for at, (n, previous, found) in enumerate(rows, 1):
    sum = hashlib.sha256(f"{n} {sum}".encode()).hexdigest()
    if (n, previous, found) != (at, at - 1, sum):
        sys.exit(f"row {at} is {n}, after {previous}, {found} instead of {sum}")
print(len(rows))
"#;

/// A database that is written to.
#[derive(Debug)]
pub struct Database {
    /// Its file's name on the file system.
    pub name: String,
    log: PathBuf,
    writer: Process,
}

impl Database {
    /// Starts a writer of a new database in `dir`. `journal` is an SQLite journal mode; `log`, on another disk, takes the
    /// acknowledgements.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(dir: &Path, journal: &str, pause_s: f64, log: PathBuf) -> Database {
        let name = format!("{journal}.sqlite");
        let mut command = Command::new("python3");
        command.args(["-c", WRITER]).arg(dir.join(&name)).arg(journal).arg(pause_s.to_string());
        let writer = Process::start(command.stdout(File::create(&log).unwrap()).current_dir("/"));
        Database { name, log, writer }
    }

    /// Stops the writer. Returns when each row was acknowledged.
    ///
    /// # Panics
    /// When it had failed before.
    #[must_use]
    pub fn stop(mut self) -> Rows {
        assert!(self.writer.is_running(), "the writer of {} has failed", self.name);
        drop(self.writer);
        let text = fs::read_to_string(&self.log).unwrap();
        // The last line may not be whole.
        let lines = text[..text.rfind('\n').map_or(0, |end| end + 1)].lines();
        let time = |field: &str| Timestamp::from_nanosecond(field.parse().unwrap()).unwrap();
        let times = |line: &str| {
            let fields: Vec<_> = line.split(' ').collect();
            (time(fields[1]), time(fields[2]))
        };
        let (sent, acknowledged) = lines.map(times).unzip();
        Rows { name: self.name, sent, acknowledged }
    }
}

/// What a writer knows.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The database's file name.
    pub name: String,
    /// When each row was begun. One more may have been than is in here.
    pub sent: Vec<Timestamp>,
    /// When each row was acknowledged.
    pub acknowledged: Vec<Timestamp>,
}

impl Rows {
    /// Checks the database below `dir` as it was at `time`. Returns how many rows it has.
    ///
    /// # Errors
    /// What is wrong with it, or what it lacks.
    pub fn check(&self, dir: &Path, time: Timestamp) -> Result<usize, String> {
        let path = dir.join(&self.name);
        let printed = try_run("python3", &["-c", CHECKER, path.to_str().unwrap()])?;
        let present: usize = printed.parse().map_err(|_| printed)?;
        let before = self.acknowledged.iter().take_while(|&&at| at < time).count();
        if present < before {
            return Err(format!(
                "{}: {before} rows were acknowledged by {time}, {present} are there",
                self.name
            ));
        }
        Ok(present)
    }

    /// As [`Rows::check`] at `t0`; and that no row is there that was begun after `until`.
    ///
    /// # Errors
    /// What is wrong with it, what it lacks, or what it has too much.
    pub fn check_between(&self, dir: &Path, t0: Timestamp, until: Timestamp) -> Result<usize, String> {
        let present = self.check(dir, t0)?;
        match self.sent[..present.min(self.sent.len())].iter().position(|&sent| sent > until) {
            None => Ok(present),
            Some(row) => Err(format!("{}: row {} was begun after {until}, and is there", self.name, row + 1)),
        }
    }
}
