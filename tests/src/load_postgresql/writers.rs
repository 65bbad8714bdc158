//! Writers of a server that note for each transaction when it was sent and when it was acknowledged, and the comparison of
//! what a restored server holds with what it must and must not hold.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;

use super::Server;
use crate::load::Worker;

/// A transaction of a writer.
#[derive(Clone, Copy, Debug)]
struct Issued {
    sent: Timestamp,
    acknowledged: Option<Timestamp>,
}

/// Connections that each insert rows numbered from 1, one transaction a row.
#[derive(Debug)]
pub struct Writers {
    workers: Vec<Worker>,
    issued: Vec<Arc<Mutex<Vec<Issued>>>>,
}

impl Writers {
    /// Starts so many.
    ///
    /// # Panics
    /// When one cannot be started.
    #[must_use]
    pub fn start(server: &Server, count: usize, pause: Duration) -> Writers {
        let issued: Vec<Arc<Mutex<Vec<Issued>>>> = (0..count).map(|_| Arc::default()).collect();
        let workers =
            issued.iter().enumerate().map(|(number, log)| writer(server, number, log.clone(), pause));
        Writers { workers: workers.collect(), issued: issued.clone() }
    }

    /// Ends them. To be called before the server ends.
    ///
    /// # Panics
    /// When one had failed.
    #[must_use]
    pub fn stop(self) -> Ledger {
        for worker in self.workers {
            let _ = worker.stop();
        }
        Ledger(self.issued.into_iter().map(|log| std::mem::take(&mut *log.lock().unwrap())).collect())
    }
}

fn writer(server: &Server, number: usize, log: Arc<Mutex<Vec<Issued>>>, pause: Duration) -> Worker {
    let mut psql = server.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = psql.stdin.take().unwrap();
    let mut from = BufReader::new(psql.stdout.take().unwrap());
    let connection = Connection(psql);
    Worker::start(pause, move |step| {
        let _held = &connection;
        let n = step + 1;
        log.lock().unwrap().push(Issued { sent: Timestamp::now(), acknowledged: None });
        let statement = format!("INSERT INTO numbered VALUES ({number}, {n}, md5('{n}')) RETURNING n;\n");
        to.write_all(statement.as_bytes()).unwrap();
        // It is printed when the server has said that the transaction is committed.
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        assert_eq!(line.trim().parse(), Ok(n), "writer {number}");
        log.lock().unwrap().last_mut().unwrap().acknowledged = Some(Timestamp::now());
    })
}

#[derive(Debug)]
struct Connection(Child);

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What writers know.
#[derive(Clone, Debug)]
pub struct Ledger(Vec<Vec<Issued>>);

impl Ledger {
    /// Demands of a restored server that it holds every transaction that was acknowledged before `t0`, and none that was
    /// sent after `until`. Returns how many it holds of each writer.
    ///
    /// # Errors
    /// What it lacks, or has too much.
    pub fn check(&self, server: &Server, t0: Timestamp, until: Timestamp) -> Result<Vec<usize>, String> {
        let query = |number: usize| {
            let rows = server.ask(&format!(
                "SELECT count(*), coalesce(min(n), 1), coalesce(max(n), 0) FROM numbered WHERE writer = {number}"
            ));
            let fields: Vec<usize> = rows.split('|').map(|field| field.parse().unwrap()).collect();
            if fields[1] != 1 || fields[2] != fields[0] {
                return Err(format!("writer {number}: rows are missing in between: {rows}"));
            }
            Ok(fields[0])
        };
        let check = |(number, issued): (usize, &Vec<Issued>)| {
            let present = query(number)?;
            let must = issued.iter().filter(|row| row.acknowledged.is_some_and(|at| at < t0)).count();
            let may = issued.iter().filter(|row| row.sent <= until).count();
            let sound = (must..=may).contains(&present);
            let found = format!(
                "writer {number}: {must} were acknowledged before {t0} and {may} sent by {until}, {present} are there"
            );
            if sound { Ok(present) } else { Err(found) }
        };
        self.0.iter().enumerate().map(check).collect()
    }

    /// How many were acknowledged, of each writer.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<usize> {
        self.0.iter().map(|issued| issued.iter().filter(|row| row.acknowledged.is_some()).count()).collect()
    }
}
