//! What has to be done for which machine, and which instance does it.
//!
//! Work is claimed, not assigned: a claim ends by itself, so an instance may be killed at any time. When a job is claimed its
//! next time is set at once; a notice that comes meanwhile sets it earlier, and is not lost when the claim ends. Deliberately
//! not here: the work (`processor`).

use jiff::{SignedDuration, Timestamp};
use mobility_format::MachineId;
use sqlx::query;

use super::{Columns, Database, Result, millis, time};

/// How long a claim holds unless it is renewed.
pub(crate) const CLAIM: SignedDuration = SignedDuration::from_secs(30);

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
        self.write(query("UPDATE work SET claimed_until = 0 WHERE claimed_until > 0")).await.map(|_| ())
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

    /// Claims up to `most` machines for which the job is due.
    pub(crate) async fn claim_due(
        &self,
        job: Job,
        by: &str,
        most: usize,
        next: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<MachineId>> {
        let statement = query(
            "SELECT w.machine FROM work w JOIN machines m ON m.id = w.machine
             WHERE w.job = $1 AND w.due <= $2 AND w.claimed_until <= $3 AND m.revoked IS NULL
             ORDER BY w.due LIMIT $4",
        );
        let statement = statement.bind(job.name()).bind(millis(now)).bind(millis(now)).bind(most as i64);
        let mut claimed = Vec::new();
        for row in self.all(statement).await? {
            let machine = row.parsed("machine")?;
            if self.claim(job, machine, by, next, now).await? {
                claimed.push(machine);
            }
        }
        Ok(claimed)
    }

    /// Claims the job for one machine, due or not. Whether it was free.
    pub(crate) async fn claim(
        &self,
        job: Job,
        machine: MachineId,
        by: &str,
        next: SignedDuration,
        now: Timestamp,
    ) -> Result<bool> {
        let statement = query(
            "UPDATE work SET claimed_by = $1, claimed_until = $2, due = $3
             WHERE machine = $4 AND job = $5 AND claimed_until <= $6",
        );
        let statement = statement
            .bind(by.to_owned())
            .bind(millis(now + CLAIM))
            .bind(millis(now + next))
            .bind(machine.to_string())
            .bind(job.name())
            .bind(millis(now));
        Ok(self.write(statement).await? == 1)
    }

    /// Holds a claim for longer. Whether it was still held.
    pub(crate) async fn hold(&self, job: Job, machine: MachineId, by: &str, now: Timestamp) -> Result<bool> {
        let statement = query(
            "UPDATE work SET claimed_until = $1 WHERE machine = $2 AND job = $3 AND claimed_by = $4
             AND claimed_until > $5",
        );
        let statement = statement
            .bind(millis(now + CLAIM))
            .bind(machine.to_string())
            .bind(job.name())
            .bind(by.to_owned())
            .bind(millis(now));
        Ok(self.write(statement).await? == 1)
    }

    /// Gives a claim back; the job is due again at `next`, or earlier if that was asked for meanwhile.
    pub(crate) async fn release(
        &self,
        job: Job,
        machine: MachineId,
        by: &str,
        next: Timestamp,
    ) -> Result<()> {
        let statement = query(
            "UPDATE work SET claimed_until = 0, due = CASE WHEN due < $1 THEN due ELSE $2 END
             WHERE machine = $3 AND job = $4 AND claimed_by = $5",
        );
        let statement = statement
            .bind(millis(next))
            .bind(millis(next))
            .bind(machine.to_string())
            .bind(job.name())
            .bind(by.to_owned());
        self.write(statement).await.map(|_| ())
    }

    /// Notes which machines have missed an interval, or have made it again, and tells of each once.
    pub(crate) async fn note_overdue(&self, slack_ms: i64, now: Timestamp) -> Result<Vec<Overdue>> {
        const LATE: &str = "SELECT m.id, m.name, s.point_at, p.interval_ms FROM states s
             JOIN machines m ON m.id = s.machine JOIN policies p ON p.name = m.policy
             WHERE s.overdue = 0 AND m.revoked IS NULL AND p.paused = 0
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
