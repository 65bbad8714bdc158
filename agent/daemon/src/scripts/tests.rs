//! The contract of `docs/APPLICATIONS.md`, with real processes.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use super::*;

const SOON: Duration = Duration::from_secs(20);

struct Bench {
    root: tempfile::TempDir,
    timeout: Duration,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { root: tempfile::tempdir().unwrap(), timeout: SOON };
        fs::create_dir(bench.path("d")).unwrap();
        chmod(&bench.path("d"), 0o755);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Adds a script that notes how it was called, and then does `body`.
    fn script(&self, name: &str, body: &str) -> PathBuf {
        let log = self.path("log");
        let text =
            format!("#!/bin/sh\necho \"${{0##*/}} $1 ${{MOBILITY_OUTCOME-}}\" >>{}\n{body}\n", log.display());
        let path = self.path("d").join(name);
        // By another process: one that a test beside this one is starting would inherit an open file, and a file that
        // is open for writing cannot be run.
        let mut cat =
            Command::new("sh").args(["-c", "cat >\"$0\""]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        cat.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(cat.wait().unwrap().success());
        chmod(&path, 0o755);
        path
    }

    fn scripts(&self) -> Scripts {
        Scripts::new(self.path("d"), self.timeout, self.path("m.quiesced"), Arc::default())
    }

    /// How scripts were called.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn noted(&self) -> bool {
        self.path("m.quiesced").exists()
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn point() -> PointInfo {
    PointInfo {
        machine: MachineId([7; 16]),
        generation: Generation(2),
        epoch: Epoch(31),
        disks: vec!["/dev/null".into(), "/dev/nowhere".into()],
        reason: Reason::Request("0123456789abcdef0123456789abcdef".parse().unwrap()),
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn only(failed: &ScriptsFailed) -> &ScriptError {
    assert_eq!(failed.0.len(), 1, "{failed}");
    &failed.0[0]
}

#[test]
fn post_is_called_in_reverse_order() {
    let bench = Bench::new();
    for name in ["20-b", "10-a", "30-c"] {
        bench.script(name, "");
    }
    let quiesced = bench.scripts().pre(&point()).unwrap();
    assert_eq!(bench.calls(), ["10-a pre", "20-b pre", "30-c pre"]);
    assert!(bench.noted() && !quiesced.is_empty());
    quiesced.post(Outcome::ApplicationConsistent).unwrap();
    let post = ["30-c", "20-b", "10-a"].map(|name| format!("{name} post application-consistent"));
    assert_eq!(bench.calls()[3..], post);
    assert!(!bench.noted());
}

#[test]
fn scripts_are_told_what_they_may_know_and_nothing_else() {
    let bench = Bench::new();
    let seen = bench.path("seen");
    bench.script("a", &format!("env >{0}; echo cwd=$PWD >>{0}; cat >>{0}", seen.display()));
    bench.scripts().pre(&point()).unwrap().post(Outcome::Failed).unwrap();
    let seen = fs::read_to_string(seen).unwrap();
    let mut names: Vec<_> = seen.lines().filter_map(|line| line.split('=').next()).collect();
    // The shell's own.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    let expected = [
        "LANG",
        "MOBILITY_DISKS",
        "MOBILITY_EPOCH",
        "MOBILITY_GENERATION",
        "MOBILITY_MACHINE",
        "MOBILITY_OUTCOME",
        "MOBILITY_PHASE",
        "MOBILITY_REASON",
        "MOBILITY_REQUEST",
        "MOBILITY_TIMEOUT_S",
        "MOBILITY_TOKEN",
        "PATH",
        "cwd",
    ];
    assert_eq!(names, expected);
    for line in [
        "MOBILITY_DISKS=/dev/null:/dev/nowhere",
        "MOBILITY_EPOCH=31",
        "MOBILITY_GENERATION=2",
        "MOBILITY_MACHINE=07070707070707070707070707070707",
        "MOBILITY_OUTCOME=failed",
        "MOBILITY_PHASE=post",
        "MOBILITY_REASON=request",
        "MOBILITY_REQUEST=0123456789abcdef0123456789abcdef",
        "MOBILITY_TIMEOUT_S=20",
        "LANG=C",
        "cwd=/",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is not in {seen}");
    }
}

#[test]
fn a_failure_in_the_middle_lets_go_what_was_held() {
    let bench = Bench::new();
    bench.script("10-a", "");
    bench.script("20-b", "[ $1 = post ] || exit 3");
    bench.script("30-c", "");
    let failed = bench.scripts().pre(&point()).unwrap_err();
    assert!(only(&failed).to_string().contains("20-b ended with exit code 3"), "{failed}");
    assert_eq!(bench.calls(), ["10-a pre", "20-b pre", "20-b post failed", "10-a post failed"]);
    assert!(!bench.noted());
}

#[test]
fn post_that_fails_keeps_no_other_from_being_called_and_is_told() {
    let bench = Bench::new();
    bench.script("10-a", "");
    bench.script("20-b", "[ $1 = pre ] || kill -9 $$");
    let failed = bench.scripts().pre(&point()).unwrap().post(Outcome::ApplicationConsistent).unwrap_err();
    assert!(only(&failed).to_string().contains("20-b ended by signal 9"), "{failed}");
    assert_eq!(bench.calls().len(), 4);
    assert!(!bench.noted());
}

#[test]
fn what_takes_too_long_is_stopped_with_all_that_it_started() {
    let bench = Bench { timeout: Duration::from_millis(400), ..Bench::new() };
    let child = bench.path("child");
    bench.script("a", &format!("[ $1 = post ] || {{ sleep 600 & echo $! >{}; wait; }}", child.display()));
    let before = Instant::now();
    let failed = bench.scripts().pre(&point()).unwrap_err();
    assert!(matches!(only(&failed), ScriptError::TimedOut { .. }), "{failed}");
    assert_eq!(bench.calls(), ["a pre", "a post failed"]);
    let child = fs::read_to_string(child).unwrap();
    eventually("the script's child ends", || !is_alive(&child));
    assert!(before.elapsed() < SOON);
}

#[test]
fn what_does_not_listen_is_killed() {
    let bench = Bench { timeout: Duration::from_millis(300), ..Bench::new() };
    bench.script("a", "[ $1 = post ] || { trap '' TERM; while :; do sleep 1; done; }");
    let before = Instant::now();
    let failed = bench.scripts().pre(&point()).unwrap_err();
    assert!(matches!(only(&failed), ScriptError::TimedOut { .. }), "{failed}");
    assert!(before.elapsed() >= child::GRACE && before.elapsed() < SOON);
}

#[test]
fn what_a_script_leaves_running_holds_nobody_up_and_lives_on() {
    let bench = Bench::new();
    let child = bench.path("child");
    bench.script("a", &format!("[ $1 = post ] || {{ sleep 600 & echo $! >{}; }}", child.display()));
    let before = Instant::now();
    bench.scripts().pre(&point()).unwrap().post(Outcome::Failed).unwrap();
    assert!(before.elapsed() < SOON);
    let child = fs::read_to_string(child).unwrap();
    let alive = is_alive(&child);
    let _ = Command::new("kill").arg(child.trim()).status();
    assert!(alive);
}

#[test]
fn a_flood_of_output_neither_stops_a_script_nor_us() {
    let bench = Bench::new();
    bench.script("a", "head -c 20000000 /dev/zero; yes | head -n 1000000");
    bench.scripts().pre(&point()).unwrap().post(Outcome::Failed).unwrap();
    let bench = Bench { timeout: Duration::from_millis(300), ..Bench::new() };
    bench.script("a", "[ $1 = post ] || yes");
    let failed = bench.scripts().pre(&point()).unwrap_err();
    assert!(matches!(only(&failed), ScriptError::TimedOut { .. }), "{failed}");
}

#[test]
fn what_others_could_change_is_not_run() {
    type Spoil = fn(&Bench);
    let spoils: [Spoil; 4] = [
        |bench| chmod(&bench.path("d"), 0o777),
        |bench| chmod(&bench.path("d"), 0o775),
        |bench| chmod(&bench.path("d/b"), 0o757),
        |bench| chmod(bench.root.path(), 0o770),
    ];
    for spoil in spoils {
        let bench = Bench::new();
        bench.script("a", "");
        bench.script("b", "");
        spoil(&bench);
        let failed = bench.scripts().pre(&point()).unwrap_err();
        assert!(matches!(only(&failed), ScriptError::Unsafe { .. }), "{failed}");
        assert!(failed.to_string().contains("chmod go-w"), "{failed}");
        assert_eq!(bench.calls(), [""; 0], "one was run");
    }
}

#[test]
fn root_scripts_of_others_are_not_run() {
    if !rustix::process::geteuid().is_root() {
        return; // Named `root_`: it is run as root by tests/run.
    }
    let bench = Bench::new();
    let script = bench.script("a", "");
    std::os::unix::fs::chown(&script, Some(65534), None).unwrap();
    let failed = bench.scripts().pre(&point()).unwrap_err();
    assert!(failed.to_string().contains("belongs to user 65534"), "{failed}");
    // Nor by a link that is safe itself.
    let bench = Bench::new();
    std::os::unix::fs::symlink(&script, bench.path("d/link")).unwrap();
    assert!(bench.scripts().pre(&point()).is_err());
}

#[test]
fn what_is_no_script_is_left_alone() {
    let bench = Bench::new();
    for name in [".hidden", "a~", "a.dpkg-old", "a.rpmsave"] {
        bench.script(name, "");
    }
    chmod(&bench.script("README", ""), 0o644);
    fs::create_dir(bench.path("d/sub")).unwrap();
    std::os::unix::fs::symlink("/nowhere", bench.path("d/link")).unwrap();
    let scripts = bench.scripts();
    let quiesced = scripts.pre(&point()).unwrap();
    assert!(quiesced.is_empty() && !bench.noted());
    quiesced.post(Outcome::Failed).unwrap();
    assert_eq!(bench.calls(), [""; 0]);
    assert_eq!(scripts.mentioned.lock().unwrap().len(), 7);
    // No directory at all is as good as an empty one.
    fs::remove_dir_all(bench.path("d")).unwrap();
    assert!(scripts.pre(&point()).unwrap().is_empty());
}

#[test]
fn too_many_scripts_are_refused() {
    let bench = Bench::new();
    let one = bench.script("0", "");
    for count in 1..find::MAX_SCRIPTS {
        fs::hard_link(&one, bench.path("d").join(count.to_string())).unwrap();
    }
    assert_eq!(find::find(&bench.path("d")).unwrap().scripts.len(), find::MAX_SCRIPTS);
    fs::hard_link(&one, bench.path("d/more")).unwrap();
    let failed = bench.scripts().pre(&point()).unwrap_err();
    assert!(matches!(only(&failed), ScriptError::TooMany { .. }), "{failed}");
}

#[test]
fn forgetting_to_let_go_lets_go() {
    let bench = Bench::new();
    bench.script("a", "");
    drop(bench.scripts().pre(&point()).unwrap());
    assert_eq!(bench.calls(), ["a pre", "a post failed"]);
    assert!(!bench.noted());
}

#[test]
fn nothing_is_held_that_cannot_be_noted() {
    let bench = Bench::new();
    bench.script("a", "");
    let scripts = Scripts::new(bench.path("d"), SOON, bench.path("nowhere/m.quiesced"), Arc::default());
    let failed = scripts.pre(&point()).unwrap_err();
    assert!(matches!(only(&failed), ScriptError::Record { .. }), "{failed}");
    assert_eq!(bench.calls(), [""; 0]);
}

#[test]
fn an_agent_that_ends_does_not_wait_for_scripts() {
    let bench = Bench::new();
    bench.script("a", "[ $1 = post ] || sleep 600");
    let cancel = Arc::new(AtomicBool::new(false));
    let scripts = Scripts::new(bench.path("d"), SOON, bench.path("m.quiesced"), Arc::clone(&cancel));
    let failed = std::thread::scope(|scope| {
        let pre = scope.spawn(|| scripts.pre(&point()).unwrap_err());
        eventually("the script starts", || !bench.calls().is_empty());
        cancel.store(true, Ordering::Relaxed);
        pre.join().unwrap()
    });
    assert!(matches!(only(&failed), ScriptError::Cancelled { .. }), "{failed}");
    assert_eq!(bench.calls(), ["a pre", "a post failed"]);
    assert!(scripts.pre(&point()).is_err());
    assert_eq!(bench.calls().len(), 2);
}

/// Holds applications and is gone, as an agent that was killed.
fn killed(bench: &Bench) {
    std::mem::forget(bench.scripts().pre(&point()).unwrap());
    fs::remove_file(bench.path("log")).unwrap();
}

#[test]
fn what_a_killed_agent_held_is_let_go_once() {
    let bench = Bench::new();
    let seen = bench.path("seen");
    bench.script("a", "");
    bench.script("b", &format!("env >{}", seen.display()));
    assert!(!bench.scripts().recover().unwrap());
    killed(&bench);
    // Its `pre` was never called.
    bench.script("c", "");
    assert!(bench.scripts().recover().unwrap());
    assert_eq!(bench.calls(), ["b post failed", "a post failed"]);
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("MOBILITY_EPOCH=31") && seen.contains("MOBILITY_REBOOTED=no"), "{seen}");
    assert!(!bench.scripts().recover().unwrap());
    // Also where nobody thought of it, before the next point.
    killed(&bench);
    drop(bench.scripts().pre(&point()).unwrap());
    assert_eq!(bench.calls()[..4], ["c post failed", "b post failed", "a post failed", "a pre"]);
}

#[test]
fn damage_to_the_record_lets_everything_go() {
    let bench = Bench::new();
    bench.script("a", "");
    bench.script("b", "");
    fs::write(bench.path("m.quiesced"), "torn").unwrap();
    assert!(bench.scripts().recover().unwrap());
    assert_eq!(bench.calls(), ["b post failed", "a post failed"]);
    assert!(!bench.noted());
}

#[test]
fn a_script_that_is_gone_is_told_and_a_directory_that_became_unsafe_keeps_the_record() {
    let bench = Bench::new();
    bench.script("a", "");
    let gone = bench.script("b", "");
    killed(&bench);
    fs::remove_file(gone).unwrap();
    chmod(&bench.path("d"), 0o777);
    assert!(matches!(only(&bench.scripts().recover().unwrap_err()), ScriptError::Unsafe { .. }));
    assert!(bench.noted());
    chmod(&bench.path("d"), 0o755);
    let failed = bench.scripts().recover().unwrap_err();
    assert!(matches!(only(&failed), ScriptError::Gone { .. }), "{failed}");
    assert_eq!(bench.calls(), ["a post failed"]);
    assert!(!bench.noted());
}

const ROLE: &str = "MOBILITY_TEST_SCRIPTS_OF";

/// Not a test of its own: the agent that is killed in the test below.
#[test]
fn role_of_an_agent_that_its_script_kills() {
    if let Some(root) = std::env::var_os(ROLE) {
        let root = PathBuf::from(root);
        let scripts = Scripts::new(root.join("d"), SOON, root.join("m.quiesced"), Arc::default());
        let _ = scripts.pre(&point());
    }
}

#[test]
fn a_pre_that_outlives_its_agent_is_ended_before_post() {
    let bench = Bench::new();
    let pid = bench.path("pid");
    let body = format!("[ $1 = post ] || {{ echo $$ >{}; kill -9 $PPID; sleep 600; }}", pid.display());
    bench.script("a", &body);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "scripts::tests::role_of_an_agent_that_its_script_kills"])
        .env(ROLE, bench.root.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success() && bench.noted(), "{status}");
    let pid = fs::read_to_string(pid).unwrap();
    assert!(is_alive(&pid));
    assert!(bench.scripts().recover().unwrap());
    assert!(!is_alive(&pid));
    assert_eq!(bench.calls(), ["a pre", "a post failed"]);
}
