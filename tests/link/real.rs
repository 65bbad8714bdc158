//! The real agent and the real service: a token is made, a machine enrols with it and leaves again.

use mobility_tests::service_process::ServiceProcess;

use crate::agent::Machine;

#[test]
fn a_machine_enrols_with_the_real_service_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let service = ServiceProcess::new(dir.path().join("data"));
    let token = service.admin(&["token", "create", "--uses", "1"]);
    let text = |name: &str| token[name].as_str().unwrap().to_owned();
    let (secret, pin) = (text("token"), text("ca_fingerprint"));
    let enrol = |machine: &Machine, token: &str, pin: &str| {
        let flags = ["--service", &service.address(), "--token-env", "T", "--ca-fingerprint", pin];
        let output = machine.run("enroll", &flags, &[("T", token)]);
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let machine = Machine::new();
    assert_eq!(enrol(&machine, "mobility-token-guessed", &pin).0, 11);
    assert_eq!(enrol(&machine, &secret, &"ab".repeat(32)).0, 13);
    assert_eq!(service.admin(&["machine", "list"]).to_string().matches("\"id\"").count(), 0);
    let (code, said) = enrol(&machine, &secret, &pin);
    assert_eq!(code, 0, "{said}");
    let thief = enrol(&Machine::new(), &secret, &pin);
    assert_eq!(thief.0, 11, "a token that was used up: {}", thief.1);
    let id = said.split(' ').find(|word| word.len() >= 32).unwrap().trim_matches(';').to_owned();
    let listed = service.admin(&["machine", "list"]).to_string();
    assert!(listed.contains(&id) && listed.matches("\"id\"").count() == 1, "{listed}");
    let left = machine.run("unenroll", &[], &[]);
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    let shown = service.admin(&["machine", "show", &id]).to_string();
    assert!(shown.contains("revoked"), "{shown}");
}
