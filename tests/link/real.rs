//! The real agent and the real service: a token is made, a machine enrols with it and leaves again.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use mobility_tests::agent_process::program;
use serde_json::Value;

use crate::agent::Machine;

/// A running service; ended when it is dropped.
struct Service {
    process: Child,
    data: tempfile::TempDir,
    url: String,
}

impl Service {
    fn start() -> Service {
        let data = tempfile::tempdir().unwrap();
        // A free port: nobody else takes it in the moment between.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (listen, url) = (format!("127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
        let mut process = Command::new(program("recovery-service"))
            .args(["serve", "--data"])
            .arg(data.path())
            .args(["--listen", &listen, "--address", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(first.contains(&listen), "{first}");
        Service { process, data, url }
    }

    /// What a command of an administrator answers.
    fn ask(&self, command: &[&str]) -> Value {
        let mut asked = Command::new(program("recovery-service"));
        asked
            .args(command)
            .args(["--service".as_ref(), Path::new(self.data.path()).as_os_str()])
            .arg("--json");
        let output = asked.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_machine_enrols_with_the_real_service_and_leaves() {
    let service = Service::start();
    let token = service.ask(&["token", "create", "--uses", "1"]);
    let text = |name: &str| token[name].as_str().unwrap().to_owned();
    let (secret, pin) = (text("token"), text("ca_fingerprint"));
    let enrol = |machine: &Machine, token: &str, pin: &str| {
        let flags = ["--service", &service.url, "--token-env", "T", "--ca-fingerprint", pin];
        let output = machine.run("enroll", &flags, &[("T", token)]);
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let machine = Machine::new();
    assert_eq!(enrol(&machine, "mobility-token-guessed", &pin).0, 11);
    assert_eq!(enrol(&machine, &secret, &"ab".repeat(32)).0, 13);
    assert_eq!(service.ask(&["machine", "list"]).to_string().matches("\"id\"").count(), 0);
    let (code, said) = enrol(&machine, &secret, &pin);
    assert_eq!(code, 0, "{said}");
    let thief = enrol(&Machine::new(), &secret, &pin);
    assert_eq!(thief.0, 11, "a token that was used up: {}", thief.1);
    let id = said.split(' ').find(|word| word.len() >= 32).unwrap().trim_matches(';').to_owned();
    let listed = service.ask(&["machine", "list"]).to_string();
    assert!(listed.contains(&id) && listed.matches("\"id\"").count() == 1, "{listed}");
    let left = machine.run("unenroll", &[], &[]);
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    let shown = service.ask(&["machine", "show", &id]).to_string();
    assert!(shown.contains("revoked"), "{shown}");
}
