//! Questions and answers by files, with the real watcher.

use std::{
    os::unix::fs::PermissionsExt,
    sync::mpsc,
    time::{Duration, SystemTime},
};

use super::{watch::MAX_WAITING, *};

const SOON: Duration = Duration::from_secs(20);

struct Bench {
    root: tempfile::TempDir,
    dir: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let dir = dir(root.path(), MachineId([3; 16]));
        Bench { root, dir }
    }

    fn watch(&self) -> (notify::RecommendedWatcher, mpsc::Receiver<Request>) {
        let (send, received) = mpsc::channel();
        (watch(&self.dir, move |request| send.send(request).unwrap_or_default()).unwrap(), received)
    }

    fn ask(&self, expires: &str) -> Request {
        let request = Request { id: RequestId::draw().unwrap(), application: true };
        ask(&self.dir, &request, expires.parse().unwrap()).unwrap();
        request
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn refusal(&self, id: &RequestId) -> String {
        let end = std::time::Instant::now() + SOON;
        loop {
            match answered(&self.dir, id).unwrap() {
                Some(Answer::Failed { reason }) => return reason,
                Some(other) => panic!("{other:?}"),
                None => assert!(std::time::Instant::now() < end, "no answer"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const LATER: &str = "2999-01-01T00:00:00Z";

fn made() -> Answer {
    Answer::Made(Made {
        id: "7-0123abcd".to_owned(),
        digest: Digest::of(b"point"),
        generation: Generation(1),
        epoch: Epoch(9),
        time: "2026-01-02T03:04:05Z".parse().unwrap(),
        consistency: Consistency::Application,
        method: CutMethod::Freeze,
        reason: None,
    })
}

#[test]
fn what_is_asked_is_heard_and_answered() {
    let bench = Bench::new();
    let (_watcher, received) = bench.watch();
    assert_eq!(fs::metadata(&bench.dir).unwrap().permissions().mode() & 0o777, 0o700);
    let request = bench.ask(LATER);
    assert_eq!(received.recv_timeout(SOON).unwrap(), request);
    assert_eq!(answered(&bench.dir, &request.id).unwrap(), None);
    answer(&bench.dir, &request.id, &made()).unwrap();
    assert_eq!(answered(&bench.dir, &request.id).unwrap(), Some(made()));
    assert_eq!(bench.names(), [format!("{}.answer.json", request.id)]);
    forget(&bench.dir, &request.id);
    assert_eq!(bench.names(), [""; 0]);
    // Heard once, whatever else happens in the directory.
    let other = bench.ask(LATER);
    assert_eq!(received.recv_timeout(SOON).unwrap(), other);
    assert!(received.try_recv().is_err());
}

#[test]
fn a_request_outlives_the_agent_and_is_gone_with_who_asked() {
    let bench = Bench::new();
    drop(bench.watch());
    let (request, given_up) = (bench.ask(LATER), bench.ask(LATER));
    let expired = bench.ask("2020-01-01T00:00:00Z");
    // Answered, and killed before the request was removed.
    let half = bench.ask(LATER);
    replace(&answer_path(&bench.dir, &half.id), &made()).unwrap();
    forget(&bench.dir, &given_up.id);
    let (_watcher, received) = bench.watch();
    assert_eq!(received.recv_timeout(SOON).unwrap(), request);
    assert!(received.try_recv().is_err());
    assert!(!question_path(&bench.dir, &expired.id).exists());
    assert!(!question_path(&bench.dir, &half.id).exists());
    forget(&bench.dir, &request.id);
    answer(&bench.dir, &request.id, &made()).unwrap();
    assert!(!answer_path(&bench.dir, &request.id).exists(), "nobody waits for it");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = Bench::new();
    let (_watcher, received) = bench.watch();
    let long = format!("{{\"version\":1,\"application\":true,\"expires\":\"{LATER}\"}}{}", " ".repeat(4096));
    let newer = format!("{{\"version\":2,\"application\":true,\"expires\":\"{LATER}\"}}");
    let good = format!("{{\"version\":1,\"application\":true,\"expires\":\"{LATER}\"}}");
    let cases = [
        ("longer than", long.as_str(), 0o600),
        ("version 2", newer.as_str(), 0o600),
        ("expected", "no json", 0o600),
        ("only its owner", good.as_str(), 0o622),
    ];
    for (why, text, mode) in cases {
        let id = RequestId::draw().unwrap();
        let unfinished = bench.root.path().join("unfinished");
        fs::write(&unfinished, text).unwrap();
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(unfinished, question_path(&bench.dir, &id)).unwrap();
        let reason = bench.refusal(&id);
        assert!(reason.contains(why), "{reason}");
    }
    let id = RequestId::draw().unwrap();
    std::os::unix::fs::symlink("/dev/zero", question_path(&bench.dir, &id)).unwrap();
    bench.refusal(&id);
    assert!(received.try_recv().is_err());
}

#[test]
fn only_so_many_wait_at_once() {
    let bench = Bench::new();
    let (_watcher, received) = bench.watch();
    let mut asked: Vec<Request> = (0..MAX_WAITING).map(|_| bench.ask(LATER)).collect();
    for _ in 0..MAX_WAITING {
        received.recv_timeout(SOON).unwrap();
    }
    let refused = bench.ask(LATER);
    assert!(bench.refusal(&refused.id).contains("64 requests"));
    answer(&bench.dir, &asked.remove(0).id, &made()).unwrap();
    let next = bench.ask(LATER);
    assert_eq!(received.recv_timeout(SOON).unwrap(), next);
}

#[test]
fn what_nobody_fetches_is_removed() {
    let bench = Bench::new();
    drop(bench.watch());
    let id = RequestId::draw().unwrap();
    let stale = [answer_path(&bench.dir, &id), bench.dir.join(".x.json.new")];
    let fresh = answer_path(&bench.dir, &RequestId::draw().unwrap());
    for path in stale.iter().chain([&fresh]) {
        fs::write(path, "{}").unwrap();
    }
    for path in &stale {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - watch::STALE - Duration::from_secs(1)).unwrap();
    }
    let _watched = bench.watch();
    assert!(stale.iter().all(|path| !path.exists()) && fresh.exists());
}

#[test]
fn a_directory_that_others_may_enter_is_closed() {
    let bench = Bench::new();
    fs::create_dir(&bench.dir).unwrap();
    fs::set_permissions(&bench.dir, fs::Permissions::from_mode(0o777)).unwrap();
    drop(bench.watch());
    assert_eq!(fs::metadata(&bench.dir).unwrap().permissions().mode() & 0o777, 0o700);
    fs::remove_dir(&bench.dir).unwrap();
    std::os::unix::fs::symlink(bench.root.path(), &bench.dir).unwrap();
    assert!(matches!(watch(&bench.dir, |_| ()), Err(RequestError::Unsafe { .. })));
}
