//! Hundreds of machines at once: they share transactions of the database, and nothing else.
//!
//! Deliberately not here: how many machines an instance holds, and how quickly it answers them (`tests/perf/fleet`).

use std::time::Duration;

use mobility_format::control::ErrorCode;
use mobility_tests::{
    fleet::{Failed, Fleet},
    requirement::skipped,
};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    database::POSTGRESQL,
    rig::{Rig, wait_for},
};

const MACHINES: usize = 200;
const SEED: u64 = 20_261_123;
/// How often all of them beat.
const ROUNDS: u64 = 6;
/// Heartbeats for each transaction, at least: a tenth of what is usual here.
const SHARED: u64 = 4;

fn fleet(rig: &Rig, machines: usize) -> Fleet {
    let mut fleet = Fleet::new(rig.place(), SEED);
    fleet.enrol(&rig.token(machines as u64), machines);
    fleet
}

/// How many transactions the service has begun, once it has nothing left to do of its own accord.
fn transactions_at_rest(rig: &Rig) -> u64 {
    let count = || rig.figure("recovery_service_transactions_total").unwrap();
    let mut before = count();
    wait_for("the service to rest", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = count();
        let rests = now - before < 3;
        before = now;
        rests.then_some(now)
    })
}

fn code<T>(answer: &Result<T, Failed>) -> Option<ErrorCode> {
    answer.as_ref().err().map(|failed| failed.code.unwrap_or_else(|| panic!("no answer: {failed}")))
}

#[test]
fn hundreds_of_machines_are_all_heard_and_all_get_their_points() {
    let rig = Rig::new();
    let fleet = fleet(&rig, MACHINES);
    let before = transactions_at_rest(&rig);
    for _ in 0..ROUNDS {
        for answer in fleet.all_at_once(|machine| async move { machine.beat().await }) {
            answer.unwrap_or_else(|failed| panic!("a heartbeat was not answered: {failed}"));
        }
    }
    let used = rig.figure("recovery_service_transactions_total").unwrap() - before;
    let beats = ROUNDS * MACHINES as u64;
    assert!(used > 0 && used * SHARED <= beats, "{used} transactions for {beats} heartbeats");

    for answer in fleet.all_at_once(|machine| async move { machine.commit().await }) {
        answer.unwrap_or_else(|failed| panic!("a commit was refused: {failed}"));
    }
    let revoked = &fleet.machines()[MACHINES / 2];
    rig.admin(&["machine", "revoke", &revoked.id.to_string()]);
    for (machine, answer) in fleet.all_at_once(|machine| async move { (machine.id, machine.beat().await) }) {
        let expected = (machine == revoked.id).then_some(ErrorCode::Revoked);
        assert_eq!(code(&answer), expected, "{machine}: {answer:?}");
    }
    wait_for("all commits to be taken in", || {
        let beats = fleet.all_at_once(|machine| async move { (machine.id, machine.beat().await) });
        let of_others = beats.into_iter().filter(|(machine, _)| *machine != revoked.id);
        of_others.into_iter().all(|(_, answer)| answer.unwrap().taken_in.0 == 1).then_some(())
    });
    let listed = rig.admin(&["machine", "list"]);
    let listed = listed["machines"].as_array().unwrap();
    assert_eq!(listed.len(), MACHINES);
    for machine in listed.iter().filter(|machine| machine["id"] != revoked.id.to_string()) {
        assert_eq!(machine["point"], 1, "{machine}");
    }
}

/// What the service does not expect: a statement that makes its whole transaction fail.
#[test]
fn a_transaction_that_fails_is_answered_and_the_next_one_does_not() {
    if std::env::var_os(POSTGRESQL).is_some() {
        return skipped("it makes the database fail by a trigger of SQLite's");
    }
    let rig = Rig::new();
    let fleet = fleet(&rig, 40);
    let broken = fleet.machines()[7].id;
    let change = |statement: String| {
        let options = SqliteConnectOptions::new().filename(rig.data().join("service.db"));
        fleet.wait(async {
            let mut database = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.unwrap();
            database.close().await.unwrap();
        });
    };
    change(format!(
        "CREATE TRIGGER broken BEFORE UPDATE OF heard ON states WHEN NEW.machine = '{broken}'
         BEGIN SELECT RAISE(ROLLBACK, 'a test wants it so'); END"
    ));
    let beat = |of: &dyn Fn(mobility_format::MachineId) -> bool| {
        fleet.all_at_once(|machine| {
            let asked = of(machine.id);
            async move { (machine.id, if asked { Some(machine.beat().await) } else { None }) }
        })
    };
    for (machine, answer) in beat(&|_| true) {
        let answer = answer.unwrap();
        match code(&answer) {
            Some(code) => assert_eq!(code, ErrorCode::Unavailable, "{machine}: {answer:?}"),
            None => assert_ne!(machine, broken),
        }
    }
    for _ in 0..2 {
        let one = beat(&|machine| machine == broken).into_iter().find_map(|(_, answer)| answer).unwrap();
        assert_eq!(code(&one), Some(ErrorCode::Unavailable), "{one:?}");
        for (machine, answer) in beat(&|machine| machine != broken) {
            assert!(
                answer.is_none_or(|answer| answer.is_ok()),
                "{machine} has to do with another one's failure"
            );
        }
    }
    change("DROP TRIGGER broken".to_owned());
    for (machine, answer) in beat(&|_| true) {
        let answer = answer.unwrap();
        assert!(answer.is_ok(), "{machine}: {answer:?}");
    }
}
