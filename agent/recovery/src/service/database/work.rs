//! What has to be done for which machine, and which instance does it.
//!
//! Work is claimed, not assigned: a claim ends by itself, so an instance may be killed at any time. One claim covers all work on
//! a machine, since an object store has no locks by which taking in and thinning could be kept apart; its time is measured by the
//! database's clock, which is the same for all instances. When a job is claimed its next time is set at once; a notice that
//! comes meanwhile sets it earlier, and is not lost when the claim ends. Deliberately not here: the work (`processor`).

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use mobility_format::MachineId;
use sqlx::query;

use super::{Columns, Database, Result, millis, time};

/// The clock that all instances of a PostgreSQL database share.
const CLOCK: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now";

/// How long a claim holds unless it is renewed.
pub(crate) const CLAIM: Duration = Duration::from_secs(30);
pub(super) const CLAIM_MS: i64 = CLAIM.as_millis() as i64;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// Taking in what was committed.
    Intake,
    /// Thinning out points.
    Prune,
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Job::Intake => "intake",
            Job::Prune => "prune",
        }
    }
}

/// The right to work on one machine, until it is given back or ends.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) machine: MachineId,
    /// By which it is told from every other.
    pub(crate) by: String,
    /// No later than this it was made.
    pub(crate) made: Instant,
}

/// A machine whose newest point is too old, or not any more.
#[derive(Clone, Debug)]
pub(crate) struct Overdue {
    pub(crate) machine: MachineId,
    pub(crate) name: String,
    /// Whether it is too old now.
    pub(crate) overdue: bool,
    pub(crate) point_at: Timestamp,
    pub(crate) interval_s: u64,
}

impl Database {
    /// Takes every claim back: those of instances that are known to be dead.
    pub(crate) async fn drop_claims(&self) -> Result<()> {
        self.write(query("UPDATE states SET claimed_until = 0 WHERE claimed_until > 0")).await.map(|_| ())
    }

    /// Asks for a job to be done as soon as may be.
    pub(crate) async fn want(&self, job: Job, machine: MachineId, now: Timestamp) -> Result<()> {
        let statement = query("UPDATE work SET due = $1 WHERE machine = $2 AND job = $3 AND due > $4");
        let statement =
            statement.bind(millis(now)).bind(machine.to_string()).bind(job.name()).bind(millis(now));
        self.write(statement).await.map(|_| ())
    }

    /// As [`Database::want`], for all machines with that policy.
    pub(crate) async fn want_for_policy(&self, job: Job, policy: &str, now: Timestamp) -> Result<()> {
        let statement = query(
            "UPDATE work SET due = $1 WHERE job = $2 AND due > $3
             AND machine IN (SELECT id FROM machines WHERE policy = $4)",
        );
        let statement =
            statement.bind(millis(now)).bind(job.name()).bind(millis(now)).bind(policy.to_owned());
        self.write(statement).await.map(|_| ())
    }

    /// Now, by the clock that claims are measured by, in milliseconds.
    pub(super) async fn clock(&self) -> Result<i64> {
        match self.one_writer {
            Some(_) => Ok(millis(Timestamp::now())),
            None => self.one(query(CLOCK)).await?.map_or(Ok(0), |row| row.number("now")),
        }
    }

    /// Claims up to `most` machines for which the job is due. `name` gives each claim a name of its own.
    pub(crate) async fn claim_due(
        &self,
        job: Job,
        name: impl Fn() -> String,
        most: usize,
        next: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Claim>> {
        let statement = query(
            "SELECT w.machine FROM work w JOIN machines m ON m.id = w.machine JOIN states s ON s.machine = w.machine
             WHERE w.job = $1 AND w.due <= $2 AND s.claimed_until <= $3 AND m.revoked IS NULL
             ORDER BY w.due LIMIT $4",
        );
        let statement =
            statement.bind(job.name()).bind(millis(now)).bind(self.clock().await?).bind(most as i64);
        let mut claimed = Vec::new();
        for row in self.all(statement).await? {
            claimed.extend(self.claim(job, row.parsed("machine")?, name(), next, now).await?);
        }
        Ok(claimed)
    }

    /// Claims a machine for a job, due or not, if nobody works on it.
    pub(crate) async fn claim(
        &self,
        job: Job,
        machine: MachineId,
        by: String,
        next: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Claim>> {
        let made = Instant::now();
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE states SET claimed_by = $1, claimed_until = $2 WHERE machine = $3 AND claimed_until <= $4",
        );
        let statement =
            statement.bind(by.clone()).bind(clock + CLAIM_MS).bind(machine.to_string()).bind(clock);
        if self.write(statement).await? != 1 {
            return Ok(None);
        }
        // What is noticed from here on is seen by the work that begins now, or sets it earlier again.
        let statement = query("UPDATE work SET due = $1 WHERE machine = $2 AND job = $3");
        self.write(statement.bind(millis(now + next)).bind(machine.to_string()).bind(job.name())).await?;
        Ok(Some(Claim { machine, by, made }))
    }

    /// Holds a claim for longer. Whether it was still held.
    pub(crate) async fn hold(&self, claim: &Claim) -> Result<bool> {
        let clock = self.clock().await?;
        let statement = query(
            "UPDATE states SET claimed_until = $1 WHERE machine = $2 AND claimed_by = $3 AND claimed_until > $4",
        );
        let statement = statement
            .bind(clock + CLAIM_MS)
            .bind(claim.machine.to_string())
            .bind(claim.by.clone())
            .bind(clock);
        Ok(self.write(statement).await? == 1)
    }

    /// Gives a claim back; the job is due again at `next`, or earlier if that was asked for meanwhile.
    pub(crate) async fn release(&self, job: Job, claim: &Claim, next: Timestamp) -> Result<()> {
        let statement = query("UPDATE work SET due = $1 WHERE machine = $2 AND job = $3 AND due > $4");
        let statement = statement.bind(millis(next)).bind(claim.machine.to_string()).bind(job.name());
        self.write(statement.bind(millis(next))).await?;
        let statement = query("UPDATE states SET claimed_until = 0 WHERE machine = $1 AND claimed_by = $2");
        self.write(statement.bind(claim.machine.to_string()).bind(claim.by.clone())).await.map(|_| ())
    }

    /// Notes which machines have missed an interval, or have made it again, and tells of each once.
    pub(crate) async fn note_overdue(&self, slack_ms: i64, now: Timestamp) -> Result<Vec<Overdue>> {
        const LATE: &str = "SELECT m.id, m.name, s.point_at, p.interval_ms FROM states s
             JOIN machines m ON m.id = s.machine JOIN policies p ON p.name = m.policy
             WHERE s.overdue = 0 AND m.revoked IS NULL AND m.paused = 0 AND p.paused = 0
             AND s.point_at + 2 * p.interval_ms + $1 < $2 LIMIT 1000";
        const MET: &str = "SELECT m.id, m.name, s.point_at, p.interval_ms FROM states s
             JOIN machines m ON m.id = s.machine JOIN policies p ON p.name = m.policy
             WHERE s.overdue = 1 AND s.point_at + 2 * p.interval_ms + $1 >= $2 LIMIT 1000";
        let mut noted = Vec::new();
        for (overdue, statement) in [(true, LATE), (false, MET)] {
            for row in self.all(query(statement).bind(slack_ms).bind(millis(now))).await? {
                let machine: MachineId = row.parsed("id")?;
                let statement = query("UPDATE states SET overdue = $1 WHERE machine = $2 AND overdue = $3");
                let statement = statement.bind(i64::from(overdue)).bind(machine.to_string());
                if self.write(statement.bind(i64::from(!overdue))).await? == 1 {
                    noted.push(Overdue {
                        machine,
                        name: row.text("name")?,
                        overdue,
                        point_at: time(row.number("point_at")?),
                        interval_s: row.count("interval_ms")? / 1000,
                    });
                }
            }
        }
        Ok(noted)
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::{PublicKey, control::Inventory};

    use super::*;
    use crate::service::{admin, config, database::Enrolment};

    const NEXT: SignedDuration = SignedDuration::from_mins(1);

    async fn with_a_machine(dir: &std::path::Path) -> (Database, MachineId) {
        let database = Database::open(&config::Database::File(dir.join("test.db"))).await.unwrap();
        let (machine, now) = (MachineId([7; 16]), Timestamp::now());
        database.keep_policy(&admin::first_policy()).await.unwrap();
        let statement = "INSERT INTO tokens (id, hash, policy, uses, uses_left, created, expires)
                         VALUES ('a', 'b', 'default', 1, 1, 0, $1)";
        database.write(query(statement).bind(millis(now + NEXT))).await.unwrap();
        let enrolment = Enrolment {
            machine,
            token: "b",
            key_hash: "c",
            signing_key: PublicKey([1; 32]),
            inventory: &Inventory::default(),
        };
        database.enrol(&enrolment, now).await.unwrap().unwrap();
        (database, machine)
    }

    #[tokio::test]
    async fn one_claim_covers_all_work_on_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (database, machine) = with_a_machine(dir.path()).await;
        let now = Timestamp::now();
        let name = |name: &str| name.to_owned();
        let first = database.claim(Job::Intake, machine, name("one"), NEXT, now).await.unwrap().unwrap();
        for job in [Job::Intake, Job::Prune] {
            assert!(database.claim(job, machine, name("two"), NEXT, now).await.unwrap().is_none(), "{job:?}");
            assert!(
                database.claim_due(job, || name("two"), 9, NEXT, now).await.unwrap().is_empty(),
                "{job:?}"
            );
        }
        assert!(database.hold(&first).await.unwrap());
        // Thinning out had no chance and is still due; taking in is due in a minute.
        database.release(Job::Intake, &first, now + NEXT).await.unwrap();
        assert!(!database.hold(&first).await.unwrap());
        assert!(database.claim_due(Job::Intake, || name("two"), 9, NEXT, now).await.unwrap().is_empty());
        let second = database.claim_due(Job::Prune, || name("two"), 9, NEXT, now).await.unwrap();
        assert_eq!(second.iter().map(|claim| claim.machine).collect::<Vec<_>>(), [machine]);
        // One that has lost its claim gives nothing back.
        database.release(Job::Intake, &first, now).await.unwrap();
        assert!(database.claim(Job::Intake, machine, name("three"), NEXT, now).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_notice_while_work_is_done_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (database, machine) = with_a_machine(dir.path()).await;
        let now = Timestamp::now();
        let claim = database.claim(Job::Intake, machine, "one".to_owned(), NEXT, now).await.unwrap().unwrap();
        database.want(Job::Intake, machine, now).await.unwrap();
        database.release(Job::Intake, &claim, now + NEXT).await.unwrap();
        let again = database.claim_due(Job::Intake, || "two".to_owned(), 9, NEXT, now).await.unwrap();
        assert_eq!(again.len(), 1);
    }
}
