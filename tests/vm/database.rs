//! PostgreSQL in the guest: its load, and what it says of itself in a machine that was made of a point.
//!
//! A writer numbers its rows and notes in memory, which no point holds, when each was acknowledged; `pgbench` works beside it. The server is the
//! distribution's, started by its systemd, and recovers by itself. Deliberately not here: databases on loop devices, of which many more
//! points are looked at (`root/databases`).

use std::time::Duration;

use crate::{installed::Installed, machine::Machine};

/// Makes the tables, and has both begin. What is changed in a short time is more than such a small disk has room for twice.
const LOAD: &str = r#"cd / && as() { runuser -u postgres -- "$@"; } &&
as psql -Xq -c "ALTER SYSTEM SET max_wal_size = '64MB'" -c "ALTER SYSTEM SET min_wal_size = '32MB'" -c 'SELECT pg_reload_conf()' >/dev/null &&
as createdb bench && as pgbench -i -q -s 1 bench && as psql -Xq -d bench -c 'CREATE EXTENSION amcheck' \
    -c 'CREATE TABLE log (n int PRIMARY KEY, filler text)' -c 'CREATE TABLE target (words text)' &&
cat >/run/load <<'END'
coproc rows { exec runuser -u postgres -- psql -XqAt -d bench; }
n=0
while n=$((n + 1)); echo "INSERT INTO log VALUES ($n, repeat('x', 200)); SELECT $n;" >&${rows[1]}; read -r -u ${rows[0]} acknowledged; do
    echo $acknowledged $EPOCHREALTIME >>/run/durable
done
END
nohup bash /run/load >/dev/null 2>&1 &
nohup runuser -u postgres -- pgbench -n -c 2 -R 10 -T 86400 bench >/dev/null 2>&1 &"#;

/// Says how many rows there are, and fails where one is missing, an index is not as its table, a page's checksum is wrong, or half of one of
/// `pgbench`'s transactions is there.
const HELD: &str = r#"cd / && systemctl start postgresql@15-main && runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_amcheck --heapallindexed --schema public -d bench &&
runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 -d bench -c "SELECT count(*), coalesce(max(n), 0) = count(*),
    (SELECT count(DISTINCT sum) FROM (SELECT sum(abalance) FROM pgbench_accounts UNION ALL SELECT sum(tbalance) FROM pgbench_tellers
        UNION ALL SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history) AS sums) FROM log""#;

/// What lets the ready-made script become the server's user.
const DROP_IN: &str = include_str!("../../systemd/examples/mobility-agent/applications.conf");

/// How long making the tables may take.
const A_WHILE: Duration = Duration::from_secs(180);

/// Begins the load; what is acknowledged, and when, is in the guest's `/run/durable`.
pub(crate) fn begin_load(machine: &mut Machine) {
    machine.run_for(LOAD, A_WHILE);
}

/// Has the agent call the ready-made script for application-consistent points.
pub(crate) fn with_script(guest: &mut Installed) {
    guest.machine.run(&format!(
        "mkdir -p /etc/mobility-agent/scripts.d /etc/systemd/system/mobility-agent.service.d && \
         ln -s /usr/lib/mobility-agent/scripts.d/50-postgresql /etc/mobility-agent/scripts.d/ && \
         cat >/etc/systemd/system/mobility-agent.service.d/applications.conf <<'END'\n{DROP_IN}\nEND\n\
         systemctl daemon-reload && systemctl restart mobility-agent"
    ));
}

/// How many rows are there, by whoever asks the machine, who has to find everything whole.
#[track_caller]
pub(crate) fn held(ask: impl FnOnce(&str) -> String) -> u64 {
    let said = ask(HELD);
    let (rows, whole) =
        said.trim().rsplit('\n').next().unwrap().split_once('|').unwrap_or_else(|| panic!("{said}"));
    assert_eq!(whole, "t|1", "rows are missing, or half a transaction is there: {said}");
    rows.parse().unwrap()
}

/// Adds words on the machine at the target.
pub(crate) fn adding(words: &str) -> String {
    format!(
        "cd / && runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d bench -c \"INSERT INTO target VALUES ('{words}')\""
    )
}

/// All words, in the order in which they were added.
pub(crate) const WORDS: &str = "cd / && systemctl start postgresql@15-main && runuser -u postgres -- psql -XqAt -d bench -c 'SELECT words FROM target'";
