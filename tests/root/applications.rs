//! The ready-made scripts of `packaging/scripts.d` with the real servers, started on a directory that is thrown away.
//!
//! Deliberately not here: how the agent calls scripts (`agent/daemon/src/scripts/tests.rs`), and what comes back when a
//! point is restored.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use mobility_tests::{
    load_postgresql::{self, Programs},
    requirement::Requirement,
};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that ought to happen soon, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(60);
/// How long a commit that nothing holds takes at most, by far.
const HELD: Duration = Duration::from_millis(300);

fn program(name: &str) -> Result<PathBuf, String> {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let found = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("there is no {name}; packaging/install-build-deps.sh installs it"))
}

fn ready(programs: &[&str]) -> Result<Vec<PathBuf>, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this test must be run as root".to_owned());
    }
    programs.iter().map(|name| program(name)).collect()
}

/// A server on a directory of its own, and the configuration of its script.
struct Server {
    root: tempfile::TempDir,
    process: Option<Child>,
    script: &'static str,
    variable: &'static str,
}

impl Server {
    fn new(script: &'static str, variable: &'static str, user: &str) -> Server {
        let root = tempfile::Builder::new().prefix("mobility-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Server { root, process: None, script, variable };
        let data = server.path("data");
        fs::create_dir(&data).unwrap();
        good(Command::new("chown").arg(format!("{user}:")).arg(&data));
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("config"), text).unwrap();
    }

    /// Calls the script as the agent does.
    fn call(&self, phase: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .join("packaging/scripts.d")
            .join(self.script);
        let output = Command::new(script)
            .arg(phase)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C")
            .env("MOBILITY_PHASE", phase)
            .env("MOBILITY_TIMEOUT_S", "30")
            .env(self.variable, self.path("config"))
            .envs(variables.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.success(), said(&output))
    }

    fn pre(&self) {
        let (success, said) = self.call("pre", &[]);
        assert!(success, "{said}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn good(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn postgresql() -> Option<(Server, Programs, load_postgresql::Server)> {
    let programs = Requirement::Root.or_skip(Programs::find())?;
    let server = Server::new("50-postgresql", "MOBILITY_POSTGRESQL_CONFIG", "postgres");
    let data = server.path("data");
    programs.init(&data, None);
    let running =
        load_postgresql::Server::start(&programs, &data, &data, &server.path("log"), &["fsync=off"]);
    let running = running.unwrap_or_else(|said| panic!("{said}"));
    server.configure(&format!("POSTGRESQL_SOCKETS={}\n", running.socket().display()));
    Some((server, programs, running))
}

#[test]
fn root_postgresql_makes_a_checkpoint() {
    let Some((server, programs, running)) = postgresql() else { return };
    let data = server.path("data");
    let last = || programs.control(&data, "Latest checkpoint location");
    let before = last();
    let (success, said) = server.call("pre", &[]);
    assert!(success, "{said}");
    let after = last();
    assert_ne!(before, after);
    assert!(said.contains(&after), "{said} does not name {after}");
    let (success, said) = server.call("post", &[("MOBILITY_OUTCOME", "application-consistent")]);
    assert!(success && said.is_empty(), "{said}");
    // Somebody who may connect, but may not make a checkpoint; and a server that is gone though it was asked for.
    let configured = fs::read_to_string(server.path("config")).unwrap();
    server.configure(&format!("{configured}POSTGRESQL_USER=nobody\n"));
    assert!(!server.call("pre", &[]).0);
    server.configure(&configured);
    running.stop();
    let (success, said) = server.call("pre", &[]);
    assert!(!success && said.contains(".s.PGSQL.5432"), "{said}");
    // Without configuration, a machine where no server runs is fine.
    server.configure("");
    if !fs::read_dir("/run/postgresql").is_ok_and(|mut entries| entries.next().is_some()) {
        assert_eq!(server.call("pre", &[]), (true, String::new()));
    }
}

/// A MariaDB or MySQL server with a table.
struct Sql(Server);

impl Sql {
    fn start() -> Option<Sql> {
        let programs = Requirement::Root.or_skip(ready(&["mariadbd", "mariadb-install-db", "mariadb"]))?;
        let mut server = Server::new("50-mysql", "MOBILITY_MYSQL_CONFIG", "mysql");
        let data = server.path("data");
        let at = |option: &str, path: &Path| format!("--{option}={}", path.display());
        good(
            Command::new(&programs[1])
                .args(["--no-defaults", "--user=mysql", "--auth-root-authentication-method=socket"])
                .args(["--skip-test-db", &at("datadir", &data)]),
        );
        let log = fs::File::create(server.path("log")).unwrap();
        let started = Command::new(&programs[0])
            .args([
                "--no-defaults",
                "--user=mysql",
                "--skip-networking",
                "--innodb-flush-log-at-trx-commit=0",
            ])
            .args([at("datadir", &data), at("socket", &data.join("sock")), at("pid-file", &data.join("pid"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        server.process = Some(started.unwrap());
        let sql = Sql(server);
        eventually("MariaDB starts", || sql.client("SELECT 1").output().unwrap().status.success());
        sql.run("CREATE DATABASE d; CREATE TABLE d.t (n INT PRIMARY KEY AUTO_INCREMENT) ENGINE=InnoDB");
        sql.configure("");
        Some(sql)
    }

    fn configure(&self, more: &str) {
        let (socket, state) = (self.0.path("data/sock"), self.0.path("state"));
        let text = format!("MYSQL_SOCKETS={}\nMYSQL_STATE={}\n{more}\n", socket.display(), state.display());
        self.0.configure(&text);
    }

    fn client(&self, statement: &str) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--batch", "--skip-column-names", "--execute", statement, "--socket"]);
        command.arg(self.0.path("data/sock")).stdin(Stdio::null());
        command
    }

    fn run(&self, statement: &str) -> String {
        good(&mut self.client(statement)).trim().to_owned()
    }

    fn rows(&self) -> u32 {
        self.run("SELECT COUNT(*) FROM d.t").parse().unwrap()
    }

    /// Starts a commit, and shows that it does not get through.
    fn blocked_commit(&self) -> Child {
        let mut writer = self.client("INSERT INTO d.t VALUES ()").spawn().unwrap();
        std::thread::sleep(HELD);
        assert!(writer.try_wait().unwrap().is_none(), "a commit got through");
        writer
    }

    fn post(&self, outcome: &str) -> (bool, String) {
        self.0.call("post", &[("MOBILITY_OUTCOME", outcome)])
    }

    fn holders(&self) -> Vec<Pid> {
        let wanted = format!("--socket={}", self.0.path("data/sock").display());
        let process = |entry: fs::DirEntry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let is_client =
                line.starts_with(b"mariadb\0") && line.split(|b| *b == 0).any(|f| f == wanted.as_bytes());
            is_client.then_some(pid)
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(process).collect()
    }
}

fn ends(mut writer: Child) {
    eventually("the commit gets through", || {
        writer.try_wait().unwrap().is_some_and(|status| status.success())
    });
}

#[test]
fn root_mariadb_holds_commits_until_post_or_its_own_limit() {
    let Some(sql) = Sql::start() else { return };
    for lock in ["", "MYSQL_LOCK='FLUSH TABLES WITH READ LOCK;'"] {
        sql.configure(lock);
        let before = sql.rows();
        sql.0.pre();
        let writer = sql.blocked_commit();
        assert_eq!(sql.rows(), before, "reading goes on, and sees nothing new");
        let (success, said) = sql.post("application-consistent");
        assert!(success && said.contains("commits go on"), "{said}");
        ends(writer);
        assert_eq!(sql.rows(), before + 1);
        eventually("the client ends", || sql.holders().is_empty());
    }
    // Where nothing is held there is nothing to let go.
    assert!(sql.post("failed").0);
    // The agent is gone, and `post` with it; then the lock's client does not run, either.
    for signal in [None, Some(Signal::STOP)] {
        sql.configure("MYSQL_HOLD_S=2");
        sql.0.pre();
        let holders = sql.holders();
        assert_eq!(holders.len(), 1);
        if let Some(signal) = signal {
            kill_process(holders[0], signal).unwrap();
        }
        ends(sql.blocked_commit());
        if signal.is_some() {
            kill_process(holders[0], Signal::CONT).unwrap();
        }
        let (success, said) = sql.post("application-consistent");
        assert!(!success && said.contains("not held any more"), "{said}");
        assert!(sql.post("application-consistent").0, "it was told once");
        eventually("the client ends", || sql.holders().is_empty());
    }
}

#[test]
fn root_mariadb_that_cannot_be_held_is_told_and_not_held() {
    let Some(mut sql) = Sql::start() else { return };
    // Somebody else has a lock that the one of the script has to wait for.
    sql.configure("MYSQL_LOCK='FLUSH TABLES WITH READ LOCK;' MYSQL_LOCK_WAIT_S=1");
    let mut busy =
        sql.client("LOCK TABLES d.t WRITE; SELECT SLEEP(30)").stdout(Stdio::null()).spawn().unwrap();
    eventually("the other lock is there", || {
        sql.run("SHOW OPEN TABLES FROM d WHERE In_use > 0").contains('t')
    });
    let (success, said) = sql.0.call("pre", &[]);
    let _ = busy.kill();
    let _ = busy.wait();
    assert!(!success && said.contains("could not be held"), "{said}");
    assert!(sql.post("failed").0);
    eventually("the client ends", || sql.holders().is_empty());
    // A server that was named must answer, and one that was found need not.
    let mut server = sql.0.process.take().unwrap();
    let _ = server.kill();
    let _ = server.wait();
    let (success, said) = sql.0.call("pre", &[]);
    assert!(!success && said.contains("ERROR 2002"), "{said}");
}
