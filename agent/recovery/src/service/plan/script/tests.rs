use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

/// A directory with a program in it.
fn with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    // Written by another process: one of ours that forks meanwhile would hold it open for writing, and it could not be run.
    let mut shell = Command::new("sh");
    let mut shell = shell.args(["-c", "cat >\"$0\""]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

fn script(path: &Path, limit: Duration) -> Script {
    Script {
        path: path.to_owned(),
        variables: vec![("RECOVERY_PLAN", "shop".to_owned())],
        input: b"{\"machines\":[]}\n".to_vec(),
        note: path.with_file_name("notes").join("one"),
        limit,
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_program_gets_its_variables_and_its_input_and_nothing_of_ours() {
    let (_dir, path) = with("cat; env | sort | grep -v ^PWD; echo to stderr >&2; exit 3");
    let (end, output) = run(&script(&path, LONG), &AtomicBool::new(false)).unwrap();
    assert!(matches!(end, End::Badly(how) if how == "it ended with exit code 3"));
    let lines: Vec<_> =
        output.lines().filter(|line| !line.starts_with("_=") && !line.starts_with("SHLVL")).collect();
    let path_line = format!("PATH={PATH}");
    assert_eq!(lines, ["{\"machines\":[]}", "LANG=C.UTF-8", &path_line, "RECOVERY_PLAN=shop", "to stderr"]);
    assert!(fs::read_dir(path.with_file_name("notes")).unwrap().next().is_none(), "its input is left over");
}

#[test]
fn what_it_prints_is_kept_as_far_as_its_end() {
    let (_dir, path) = with("head -c 3000000 /dev/zero | tr '\\0' x; printf '\\033[31mthe end'");
    let (end, output) = run(&script(&path, LONG), &AtomicBool::new(false)).unwrap();
    assert!(
        matches!(end, End::Done) && output.len() < MOST_OUTPUT && output.ends_with("x[31mthe end"),
        "{output}"
    );
}

#[test]
fn a_program_that_hangs_is_ended_with_all_that_it_started() {
    let (dir, path) = with("trap '' TERM\ncd \"${0%/*}\"\nsleep 600 &\necho $! >pid\nwait\nsleep 600");
    let (stop, pid) = (AtomicBool::new(false), dir.path().join("pid"));
    let (ended, child) = thread::scope(|scope| {
        let ended = scope.spawn(|| run(&script(&path, LONG), &stop).unwrap().0);
        let begin = Instant::now();
        let child = loop {
            match fs::read_to_string(&pid) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => assert!(begin.elapsed() < LONG, "it never ran"),
            }
            thread::sleep(TICK);
        };
        stop.store(true, Ordering::Relaxed);
        (ended.join().unwrap(), child)
    });
    assert!(matches!(ended, End::Stopped));
    let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    let (end, _) = run(&script(&path, Duration::ZERO), &AtomicBool::new(false)).unwrap();
    assert!(matches!(end, End::TimedOut));
}

#[test]
fn a_second_try_does_not_run_beside_the_first() {
    let (_dir, path) = with("echo ran");
    let first = script(&path, LONG);
    let Held::Ours(note) = lock(&first, Instant::now(), &AtomicBool::new(false)).unwrap() else { panic!() };
    let second = script(&path, Duration::from_millis(100));
    let problem = run(&second, &AtomicBool::new(false)).err().unwrap().problem;
    assert!(problem.contains("still runs"), "{problem}");
    let notes = first.note.parent().unwrap();
    let left = || fs::read_dir(notes).unwrap().count();
    clear(notes);
    assert_eq!(left(), 1, "it is still read");
    drop(note);
    clear(notes);
    assert_eq!(left(), 0);
    clear(&notes.join("nothing"));
    let (end, output) = run(&second, &AtomicBool::new(false)).unwrap();
    assert!(matches!(end, End::Done) && output == "ran\n");
}

#[test]
fn only_what_nobody_else_can_change_runs() {
    let (dir, path) = with("echo ran");
    assert_eq!(find(dir.path(), "program").unwrap(), path);
    std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("data"), "no program").unwrap();
    for name in ["link", "folder", "data", "nothing", "../program", "", ".program", "a b"] {
        assert!(find(dir.path(), name).is_err(), "{name}");
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for writable in [0o775, 0o757] {
        mode(&path, writable);
        assert!(find(dir.path(), "program").unwrap_err().problem.contains("may write to it"));
        mode(&path, 0o755);
        mode(dir.path(), writable);
        assert!(find(dir.path(), "program").unwrap_err().problem.contains("may write to it"));
        mode(dir.path(), 0o755);
    }
    assert!(find(dir.path(), "program").is_ok());
}
