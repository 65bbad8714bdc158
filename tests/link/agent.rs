//! The agent's commands, and a service that enrols whoever comes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::{
    MachineId,
    control::{EnrolRequest, Enrolled},
};
use mobility_tests::agent_process::program;

use crate::{
    authority::Authority,
    server::{Connection, Request, Server, answer},
};

/// The token that the tests' service takes.
pub(crate) const TOKEN: &str = "canary-token-4711";

/// A machine that is to be enrolled.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Machine { dir }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Runs a command of the agent, with the variables of the environment given and none about proxies otherwise.
    pub(crate) fn run(&self, command: &str, flags: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut agent = Command::new(program("mobility-agent"));
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
            agent.env_remove(name).env_remove(name.to_lowercase());
        }
        agent.arg(command).args(["--state-dir".as_ref(), self.state().as_os_str()]).args(flags);
        agent.envs(variables.iter().copied()).output().unwrap()
    }

    /// Enrols, and returns the exit code and what was said.
    pub(crate) fn enrol(&self, flags: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
        let token = self.dir.path().join("token");
        let mut all = vec!["--token-file", token.to_str().unwrap()];
        all.extend(flags);
        let output = self.run("enroll", &all, variables);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!said.contains(TOKEN), "the token is shown: {said}");
        (output.status.code().unwrap(), said)
    }

    /// Whether any file of the state directory holds this text.
    pub(crate) fn keeps(&self, text: &str) -> bool {
        let holds = |path: &Path| {
            let content = fs::read(path).unwrap();
            content.windows(text.len()).any(|window| window == text.as_bytes())
        };
        fs::read_dir(self.state()).unwrap().any(|entry| holds(&entry.unwrap().path()))
    }
}

/// Answers an enrolment as a service would.
pub(crate) fn take_in(
    authority: &Authority,
    request: &Request,
    stream: &mut dyn Connection,
) -> io::Result<()> {
    if request.path != "/v1/enrol" {
        return answer(stream, "200 OK", "", b"{}");
    }
    let asked: EnrolRequest = serde_json::from_slice(&request.body)?;
    if asked.token != TOKEN {
        return answer(stream, "401 Unauthorized", "", br#"{"code":"token-refused","message":"no"}"#);
    }
    let enrolled = Enrolled {
        machine: MachineId([7; 16]),
        certificate: authority.sign(&asked.csr),
        expires: Timestamp::now() + SignedDuration::from_hours(24),
        authorities: authority.pem(),
        addresses: Vec::new(),
    };
    answer(stream, "200 OK", "", &serde_json::to_vec(&enrolled)?)
}

/// A service that does all right, and its authority.
pub(crate) fn good_service(address: &str) -> (Server, Arc<Authority>) {
    let authority = Arc::new(Authority::new());
    let signing = authority.clone();
    let server = Server::start(address, Some(authority.server(|_| {})), move |request, stream| {
        take_in(&signing, request, stream)
    });
    (server, authority)
}
