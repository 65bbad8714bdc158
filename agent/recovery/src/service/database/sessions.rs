//! Which run of an agent goes on with a machine's identity, and the turns by which a copy of it is found out.
//!
//! **Turns.** Each heartbeat shows a turn that an answer gave. Taken are the turn that was shown last, as often as it comes,
//! since its answers may have been lost; and every turn that was answered to that one. Two machines that share a session both
//! come with what one of them has used up: the later of them shows a turn that is neither.
//!
//! Deliberately not here: what the agent is told (`api`).

use jiff::Timestamp;
use mobility_format::{
    Generation, MachineId, SessionId,
    control::{Inventory, MachineHealth},
};
use sqlx::{any::AnyRow, query};

use super::{Columns, Database, DatabaseError, InGroup, Result, Statement, json, millis, stored};
use crate::service::failover::{Gate, Passage};

/// How long the current session has to be silent, in milliseconds, until another boot or other hardware may go on.
const SILENCE_MS: i64 = 60_000;
/// How often a session is tried to be begun while others are begun at the same time.
const TRIES: usize = 8;

/// A session that wants to be the current one.
pub(crate) struct Newcomer<'a> {
    pub(crate) session: SessionId,
    pub(crate) boot: &'a str,
    pub(crate) inventory: &'a Inventory,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is the current one, and this is its turn.
    Current {
        turn: u64,
        /// Whether it took another one's place, whose machine may still run.
        took_over: bool,
    },
    /// It may ask again after so many milliseconds: another one may still be there.
    Wait(i64),
    /// Another one is there.
    Fenced,
    /// The machine is failed over: nobody may begin until it is decided which one is the real one.
    Held,
    /// It was the machine before that was failed over.
    Moved,
}

/// The answer to a heartbeat of the current session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) turn: u64,
    pub(crate) generation: u64,
    pub(crate) taken_in: u64,
}

impl Heard {
    fn of(row: &AnyRow) -> Result<Heard> {
        Ok(Heard {
            turn: row.count("turn_last")?,
            generation: row.count("generation")?,
            taken_in: row.count("taken_in")?,
        })
    }
}

/// The current session, as far as it decides whether another one may take its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Current {
    session: Option<String>,
    boot: String,
    hardware: String,
    heard: i64,
    waiting: Option<String>,
    waiting_since: i64,
    /// Who may begin at all.
    gate: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Replace,
    TakeOver,
    /// So many milliseconds, and from now on.
    Wait(i64),
    WaitOn(i64),
    Fenced,
}

impl Current {
    fn passage(&self, hardware: &str) -> Result<Passage> {
        let gate: Option<Gate> =
            self.gate.as_deref().map(serde_json::from_str).transpose().map_err(|err| {
                DatabaseError::Content(format!("it is not clear who may begin sessions: {err}"))
            })?;
        Ok(gate.unwrap_or_default().passage(hardware))
    }
}

fn decide(current: &Current, session: &str, boot: &str, hardware: &str, now: i64) -> Verdict {
    let silent = now.saturating_sub(current.heard);
    match &current.session {
        None => Verdict::Replace,
        Some(known) if known == session => Verdict::Same,
        Some(_) if current.boot == boot && current.hardware == hardware => Verdict::Replace,
        Some(_) if silent >= SILENCE_MS => Verdict::TakeOver,
        Some(_) if current.waiting.as_deref() != Some(session) => Verdict::Wait(SILENCE_MS - silent),
        Some(_) if current.heard > current.waiting_since => Verdict::Fenced,
        Some(_) => Verdict::WaitOn(SILENCE_MS - silent),
    }
}

impl Database {
    /// Makes a session the current one, if it may be.
    pub(crate) async fn begin_session(
        &self,
        machine: MachineId,
        newcomer: &Newcomer<'_>,
        now: Timestamp,
    ) -> Result<Begun> {
        for _ in 0..TRIES {
            let current = self.current(machine).await?;
            let (session, hardware) = (newcomer.session.to_string(), &newcomer.inventory.hardware);
            match current.passage(hardware)? {
                Passage::Free => {}
                Passage::Later => return Ok(Begun::Held),
                Passage::Never => return Ok(Begun::Moved),
            }
            let verdict = decide(&current, &session, newcomer.boot, hardware, millis(now));
            match verdict {
                Verdict::Fenced => return Ok(Begun::Fenced),
                Verdict::WaitOn(wait) => return Ok(Begun::Wait(wait)),
                Verdict::Wait(wait) => {
                    let statement = query(
                        "UPDATE states SET waiting = $1, waiting_since = $2 WHERE machine = $3 AND session = $4",
                    );
                    let statement = statement.bind(session).bind(millis(now)).bind(machine.to_string());
                    self.write(statement.bind(current.session)).await?;
                    return Ok(Begun::Wait(wait));
                }
                Verdict::Same | Verdict::Replace | Verdict::TakeOver => {
                    let anew = verdict != Verdict::Same;
                    if let Some(turn) = self.put_session(machine, newcomer, &current, anew, now).await? {
                        self.note_inventory(machine, newcomer.inventory).await?;
                        return Ok(Begun::Current { turn, took_over: verdict == Verdict::TakeOver });
                    }
                }
            }
        }
        Err(DatabaseError::Content(format!("too many sessions of machine {machine} begin at once")))
    }

    async fn current(&self, machine: MachineId) -> Result<Current> {
        let statement = query(
            "SELECT s.session, s.boot, s.hardware, s.heard, s.waiting, s.waiting_since, m.gate
             FROM states s JOIN machines m ON m.id = s.machine WHERE s.machine = $1",
        );
        let Some(row) = self.one(statement.bind(machine.to_string())).await? else {
            return Err(DatabaseError::Content(format!("machine {machine} has no state")));
        };
        Ok(Current {
            session: row.text_if("session")?,
            boot: row.text_if("boot")?.unwrap_or_default(),
            hardware: row.text_if("hardware")?.unwrap_or_default(),
            heard: row.number("heard")?,
            waiting: row.text_if("waiting")?,
            waiting_since: row.number("waiting_since")?,
            gate: row.text_if("gate")?,
        })
    }

    /// Nothing where the current session has changed, or was heard, since it was looked at, or who may begin.
    async fn put_session(
        &self,
        machine: MachineId,
        newcomer: &Newcomer<'_>,
        current: &Current,
        anew: bool,
        now: Timestamp,
    ) -> Result<Option<u64>> {
        let statement = query(
            "UPDATE states SET session = $1, boot = $2, hardware = $3, heard = $4, waiting = NULL,
                turn_first = CASE WHEN $5 = 1 THEN turn_last + 1 ELSE turn_first END,
                turn_shown = CASE WHEN $6 = 1 THEN -1 ELSE turn_shown END,
                turn_last = turn_last + 1
             WHERE machine = $7 AND COALESCE(session, '') = $8 AND heard = $9
                AND EXISTS (SELECT 1 FROM machines WHERE id = $10 AND COALESCE(gate, '') = $11)
             RETURNING turn_last",
        );
        let statement = statement
            .bind(newcomer.session.to_string())
            .bind(newcomer.boot.to_owned())
            .bind(newcomer.inventory.hardware.clone())
            .bind(millis(now))
            .bind(i64::from(anew))
            .bind(i64::from(anew))
            .bind(machine.to_string())
            .bind(current.session.clone().unwrap_or_default())
            .bind(current.heard)
            .bind(machine.to_string())
            .bind(current.gate.clone().unwrap_or_default());
        self.change(statement).await?.map_or(Ok(None), |row| row.count("turn_last").map(Some))
    }

    /// Takes a heartbeat, in one transaction with others'. Nothing where the session is not the current one, or the turn is that of
    /// a copy.
    pub(crate) async fn heartbeat(
        &self,
        machine: MachineId,
        session: SessionId,
        turn: u64,
        health: &MachineHealth,
        now: Timestamp,
    ) -> Result<Option<Heard>> {
        let beat = InGroup {
            order: machine.to_string(),
            statements: vec![
                take_turn(machine, session, turn, health, now)?,
                adopt(machine, session, turn, now),
            ],
            returns: true,
            patient: true,
        };
        self.group.run(beat).await?.rows.first().map(Heard::of).transpose()
    }

    /// Numbers for `count` segments' places, of which this is the last. Nothing where session or generation is not current.
    pub(crate) async fn take_slots(
        &self,
        machine: MachineId,
        session: SessionId,
        generation: Generation,
        count: u32,
    ) -> Result<Option<u64>> {
        let statement = query(
            "UPDATE states SET slots = slots + $1 WHERE machine = $2 AND session = $3 AND generation = $4
             RETURNING slots",
        );
        let statement = statement
            .bind(i64::from(count))
            .bind(machine.to_string())
            .bind(session.to_string())
            .bind(stored(generation.0));
        self.change(statement).await?.map_or(Ok(None), |row| row.count("slots").map(Some))
    }

    /// Lets a session go on that was ended, unless another one has begun.
    pub(crate) async fn resume_session(&self, machine: MachineId, session: SessionId) -> Result<()> {
        let statement = query("UPDATE states SET session = $1 WHERE machine = $2 AND session IS NULL");
        self.write(statement.bind(session.to_string()).bind(machine.to_string())).await.map(|_| ())
    }

    /// Ends the current session, so that any may begin.
    pub(crate) async fn end_session(&self, machine: MachineId) -> Result<()> {
        let statement = query("UPDATE states SET session = NULL, waiting = NULL WHERE machine = $1");
        self.write(statement.bind(machine.to_string())).await.map(|_| ())
    }
}

/// Takes a turn of the current session.
fn take_turn(
    machine: MachineId,
    session: SessionId,
    turn: u64,
    health: &MachineHealth,
    now: Timestamp,
) -> Result<Statement> {
    let turn = stored(turn);
    let statement = query(
        "UPDATE states SET heard = $1, health = $2,
            turn_first = CASE WHEN turn_shown = $3 THEN turn_first ELSE turn_last + 1 END,
            turn_shown = $4, turn_last = turn_last + 1
         WHERE machine = $5 AND session = $6 AND (turn_shown = $7 OR (turn_first <= $8 AND turn_last >= $9))
         RETURNING turn_last, generation, taken_in",
    );
    let statement = statement.bind(millis(now)).bind(json(health)?).bind(turn).bind(turn);
    let statement = statement.bind(machine.to_string()).bind(session.to_string());
    Ok(statement.bind(turn).bind(turn).bind(turn))
}

/// Makes the session current that is heard first after the database was rebuilt, at whatever turn it is, unless there is one
/// already, or the machine is or was failed over: then it has to say on which hardware it is.
fn adopt(machine: MachineId, session: SessionId, turn: u64, now: Timestamp) -> Statement {
    let next = stored(turn).saturating_add(1);
    let statement = query(
        "UPDATE states SET session = $1, heard = $2, turn_shown = $3, turn_first = $4, turn_last = $5
         WHERE machine = $6 AND session IS NULL AND NOT EXISTS (SELECT 1 FROM machines WHERE id = $7 AND gate IS NOT NULL)
         RETURNING turn_last, generation, taken_in",
    );
    let statement = statement.bind(session.to_string()).bind(millis(now)).bind(stored(turn));
    statement.bind(next).bind(next).bind(machine.to_string()).bind(machine.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_takes_the_place_of_another_only_where_that_is_safe() {
        let now = 1_000_000;
        let heard = |ago: i64| Current {
            session: Some("a".to_owned()),
            boot: "boot".to_owned(),
            hardware: "hardware".to_owned(),
            heard: now - ago,
            ..Current::default()
        };
        let waits = |ago: i64, since: i64| Current {
            waiting: Some("b".to_owned()),
            waiting_since: now - since,
            ..heard(ago)
        };
        let table = [
            ("the first", Current::default(), "b", "boot", "hardware", Verdict::Replace),
            ("asked again", heard(1), "a", "boot", "hardware", Verdict::Same),
            ("agent restarted", heard(1), "b", "boot", "hardware", Verdict::Replace),
            ("rebooted just now", heard(10_000), "b", "other", "hardware", Verdict::Wait(50_000)),
            ("copied with its memory", heard(10_000), "b", "boot", "other", Verdict::Wait(50_000)),
            ("rebooted, waits", waits(40_000, 10_000), "b", "other", "hardware", Verdict::WaitOn(20_000)),
            ("rebooted, waited", waits(60_000, 30_000), "b", "other", "hardware", Verdict::TakeOver),
            ("a copy of what is there", waits(9_000, 10_000), "b", "other", "hardware", Verdict::Fenced),
            ("silent for long", heard(60_000), "b", "other", "other", Verdict::TakeOver),
            ("another one waits", waits(9_000, 10_000), "c", "other", "hardware", Verdict::Wait(51_000)),
        ];
        for (name, current, session, boot, hardware, expected) in table {
            assert_eq!(decide(&current, session, boot, hardware, now), expected, "{name}");
        }
    }
}
