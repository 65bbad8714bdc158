//! A PostgreSQL server on a directory that is thrown away: made, started, written to, and asked whether it is whole.
//!
//! Deliberately not here: what the directory lies on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

mod writers;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    load::Process,
    scratch::{eventually, run},
};

pub use writers::{Ledger, Writers};

/// How long a server may take to start, recovery included.
const START: Duration = Duration::from_secs(90);
/// How long one may take to end when it is told to drop everything.
const END: Duration = Duration::from_secs(30);
/// The server's own user.
const USER: &str = "postgres";
/// The port that names the socket; nothing listens on a network.
const PORT: &str = "5432";

/// The directory of the server's programs.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Where they are, in the search path or, as Debian has them, in a directory of their version.
    ///
    /// # Errors
    /// What is lacking.
    pub fn find() -> Result<Programs, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("this is not root".to_owned());
        }
        let mut dirs: Vec<PathBuf> = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from).to_vec();
        for versions in ["/usr/lib/postgresql", "/usr/pgsql"] {
            let versions = fs::read_dir(versions).into_iter().flatten().flatten();
            dirs.extend(versions.map(|version| version.path().join("bin")));
        }
        let needed = ["initdb", "postgres", "psql", "pg_isready", "pg_controldata", "pgbench", "pg_amcheck"];
        let all = |dir: &PathBuf| needed.iter().all(|name| dir.join(name).is_file());
        let found = dirs.into_iter().find(all);
        let lack = "there is no PostgreSQL with its contributed programs; packaging/install-build-deps.sh installs it";
        found.map(Programs).ok_or_else(|| lack.to_owned())
    }

    /// The path of one.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A command that runs one as the server's user.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        // Not by `runuser`, which stays in between, so that a signal would reach it and not the server.
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(self.path(name));
        command.current_dir("/").env("LANG", "C").stdin(Stdio::null());
        command
    }

    /// Makes the files of a server in `data`, which the server's user must be able to make, with its log of changes
    /// elsewhere if that is wished. Pages carry checksums. Nothing of it is written out at once.
    ///
    /// # Panics
    /// When that fails.
    pub fn init(&self, data: &Path, log_of_changes: Option<&Path>) {
        let mut command = self.command("initdb");
        command.args(["-N", "-k", "-A", "peer", "-D"]).arg(data);
        if let Some(dir) = log_of_changes {
            command.arg("-X").arg(dir);
        }
        good(&mut command);
    }

    /// What the control file says under `name`.
    ///
    /// # Panics
    /// When it cannot be read or does not say.
    #[must_use]
    pub fn control(&self, data: &Path, name: &str) -> String {
        let all = good(Command::new(self.path("pg_controldata")).arg("-D").arg(data).env("LANG", "C"));
        let value = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in {all}")).trim().to_owned()
    }
}

/// Runs to the end. Returns what was printed.
#[track_caller]
fn good(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{printed}{said}", output.status);
    printed
}

/// Gives a directory to the server's user.
///
/// # Panics
/// When that fails.
pub fn give_to_server(dir: &Path) {
    run("chown", &[&format!("{USER}:"), dir.to_str().unwrap()]);
}

/// A server that runs. It is ended, without a last checkpoint, when it is dropped.
#[derive(Debug)]
pub struct Server {
    programs: Programs,
    sockets: PathBuf,
    process: Option<Child>,
}

impl Server {
    /// Starts one on `data`, with its socket in the directory `sockets` and its messages in `log`, and waits until it
    /// lets in.
    ///
    /// # Errors
    /// What it said, if it does not.
    ///
    /// # Panics
    /// When it cannot be started at all.
    pub fn start(
        programs: &Programs,
        data: &Path,
        sockets: &Path,
        log: &Path,
        settings: &[&str],
    ) -> Result<Server, String> {
        let mut command = programs.command("postgres");
        command.args(["-c", "listen_addresses=", "-c", &format!("port={PORT}"), "-k"]).arg(sockets);
        command.args(settings.iter().flat_map(|setting| ["-c", setting])).arg("-D").arg(data);
        let process = command.stdout(Stdio::null()).stderr(File::create(log).unwrap()).spawn().unwrap();
        let mut server =
            Server { programs: programs.clone(), sockets: sockets.to_owned(), process: Some(process) };
        let answered = eventually("PostgreSQL starts", START, || {
            if server.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mut asked = programs.command("pg_isready");
            asked.args(["-q", "-p", PORT, "-h"]).arg(sockets);
            asked.status().unwrap().success().then_some(true)
        });
        if answered { Ok(server) } else { Err(fs::read_to_string(log).unwrap_or_default()) }
    }

    /// Makes one in `dir`, through which its user has to get, that lets in every user of this machine, and starts it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn fresh(programs: &Programs, dir: &Path) -> Server {
        let (place, sockets) = (dir.join("database"), dir.join("sockets"));
        for made in [&place, &sockets] {
            fs::create_dir(made).unwrap();
            give_to_server(made);
        }
        let data = place.join("data");
        programs.init(&data, None);
        fs::write(data.join("pg_hba.conf"), "local all all trust\n").unwrap();
        let server = Server::start(programs, &data, &sockets, &dir.join("database.log"), &[]);
        server.unwrap_or_else(|said| panic!("{said}"))
    }

    /// The address of a database in it.
    #[must_use]
    pub fn address(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost:{PORT}/{database}?host={}", self.sockets.display())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{PORT}"))
    }

    /// The id of its first process, of which all others are children.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.programs.command(program);
        command.args(["-p", PORT, "-h"]).arg(&self.sockets);
        command
    }

    fn psql(&self) -> Command {
        let mut command = self.client("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        command
    }

    /// Has it carry out a statement. Returns what it gives back.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    #[track_caller]
    pub fn ask(&self, statement: &str) -> String {
        good(self.psql().args(["-c", statement])).trim().to_owned()
    }

    /// Makes the tables of `pgbench` and those of the writers.
    ///
    /// # Panics
    /// When that fails.
    pub fn prepare(&self) {
        good(self.client("pgbench").args(["-i", "-q", "-s", "2", "postgres"]));
        let _ = self.ask("CREATE EXTENSION amcheck");
        let _ = self.ask(
            "CREATE TABLE numbered (writer int, n int, filler text, PRIMARY KEY (writer, n)); \
             CREATE INDEX ON numbered (filler)",
        );
    }

    /// Has `pgbench` work until dropped; as much as goes, or so many transactions each second.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn bench(&self, per_second: Option<u32>) -> Process {
        let mut command = self.client("pgbench");
        command.args(["-n", "-c", "4", "-j", "1", "-T", "3600"]);
        command.args(per_second.map(|rate| format!("--rate={rate}"))).arg("postgres");
        Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Whether everything is whole: every page by its checksum, every index against its table, and the sums that each of
    /// `pgbench`'s transactions keeps.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<(), String> {
        let output = self.client("pg_amcheck").args(["--heapallindexed", "-d", "postgres"]).output().unwrap();
        if !output.status.success() {
            let (printed, said) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            return Err(format!("pg_amcheck: {}\n{printed}{said}", output.status));
        }
        let sums = self.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
        );
        let each: Vec<_> = sums.split('|').collect();
        let equal = each.len() == 4 && each.iter().all(|sum| *sum == each[0]);
        if equal { Ok(()) } else { Err(format!("half of a transaction is there: the sums are {sums}")) }
    }

    /// Ends it at once, as a crash would.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
        let end = Instant::now() + END;
        while let Ok(None) = process.try_wait() {
            if Instant::now() > end {
                let _ = process.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many bytes of its log of changes a server replayed when it came back, by its messages.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn replayed(log: &Path) -> u64 {
    let text = fs::read_to_string(log).unwrap();
    let position = |after: &str| {
        let (_, rest) = text.split_once(after)?;
        let (high, low) = rest.split_whitespace().next()?.split_once('/')?;
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        Some((number(high)? << 32) + number(low)?)
    };
    match (position("redo starts at "), position("redo done at ")) {
        (Some(from), Some(to)) => to - from,
        _ => 0,
    }
}

/// Makes a restored server find its log of changes, and forget the process that had its files on the other machine.
///
/// # Panics
/// When that fails.
pub fn moved(data: &Path, log_of_changes: Option<&Path>) {
    let _ = fs::remove_file(data.join("postmaster.pid"));
    if let Some(dir) = log_of_changes {
        let link = data.join("pg_wal");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(dir, link).unwrap();
    }
}
