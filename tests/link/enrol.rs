//! Enrolling and leaving, as an operator sees it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mobility_format::control::EnrolRequest;

use crate::{
    agent::{Machine, TOKEN, good_service, take_in},
    authority::Authority,
    server::{Server, answer},
};

fn asked(server: &Server) -> Vec<EnrolRequest> {
    server.requests().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

#[test]
fn a_machine_enrols_once_and_keeps_what_is_secret_to_itself() {
    let (server, authority) = good_service("127.0.0.1:0");
    let machine = Machine::new();
    let flags = ["--service", &server.url(), "--ca-fingerprint", &authority.fingerprint()];
    let (code, said) = machine.enrol(&flags, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&"07".repeat(16)), "{said}");
    let [request] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/enrol"));
    assert!(!String::from_utf8_lossy(&request.body).contains("PRIVATE"));
    for (name, mode) in [("", 0o700), ("identity", 0o600), ("lock", 0o600)] {
        assert_eq!(machine.state().join(name).metadata().unwrap().mode() & 0o777, mode, "{name}");
    }
    assert!(!machine.keeps(TOKEN), "the token is of no use any more");
    let (code, said) = machine.enrol(&flags, &[]);
    assert_eq!(code, 14, "{said}");
    assert_eq!(server.requests().len(), 1, "it did not ask again");
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again_with_the_same_keys() {
    let authority = Arc::new(Authority::new());
    let (signing, tries) = (authority.clone(), AtomicUsize::new(0));
    let server = Server::start("127.0.0.1:0", Some(authority.server(|_| {})), move |request, stream| {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(()),
            _ => take_in(&signing, request, stream),
        }
    });
    let machine = Machine::new();
    let flags = ["--service", &server.url(), "--ca-fingerprint", &authority.fingerprint()];
    let (code, said) = machine.enrol(&flags, &[]);
    assert_eq!(code, 12, "{said}");
    let (code, said) = machine.enrol(&flags, &[]);
    assert_eq!(code, 0, "{said}");
    let asked = asked(&server);
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].signing_key, asked[1].signing_key);
    let key = |csr: &str| {
        let request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        rcgen::PublicKeyData::subject_public_key_info(&request.public_key)
    };
    assert_eq!(key(&asked[0].csr), key(&asked[1].csr));
}

#[test]
fn a_refused_token_has_a_code_of_its_own() {
    let (server, authority) = good_service("127.0.0.1:0");
    let machine = Machine::new();
    let flags =
        ["--service", &server.url(), "--ca-fingerprint", &authority.fingerprint(), "--token-env", "T"];
    let output = machine.run("enroll", &flags, &[("T", "guessed")]);
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    let output = machine.run("enroll", &flags, &[("T", TOKEN)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn the_next_address_is_tried_when_one_fails() {
    let (server, authority) = good_service("127.0.0.1:0");
    let busy = Server::start("127.0.0.1:0", Some(authority.server(|_| {})), |_, stream| {
        answer(stream, "503 Service Unavailable", "", b"")
    });
    // A port that nobody listens on.
    let gone = Server::start("127.0.0.1:0", None, |_, _| Ok(())).url();
    let flags = [
        "--service",
        &gone,
        "--service",
        &busy.url(),
        "--service",
        &server.url(),
        "--ca-fingerprint",
        &authority.fingerprint(),
    ];
    let (code, said) = Machine::new().enrol(&flags, &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!((busy.requests().len(), server.requests().len()), (1, 1));
}

#[test]
fn addresses_of_version_six_will_do() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // The machine has none.
    }
    let (server, authority) = good_service("[::1]:0");
    let flags = ["--service", &server.url(), "--ca-fingerprint", &authority.fingerprint()];
    let (code, said) = Machine::new().enrol(&flags, &[]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn leaving_is_told_to_the_service_and_forgets_everything() {
    let (server, authority) = good_service("127.0.0.1:0");
    let machine = Machine::new();
    assert_eq!(machine.run("unenroll", &[], &[]).status.code(), Some(15));
    let flags = ["--service", &server.url(), "--ca-fingerprint", &authority.fingerprint()];
    assert_eq!(machine.enrol(&flags, &[]).0, 0);
    let left = machine.run("unenroll", &[], &[]);
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    assert_eq!(server.requests().last().unwrap().path, "/v1/unenrol");
    let files: Vec<_> =
        fs::read_dir(machine.state()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["lock"], "nothing else is left");
    assert_eq!(machine.enrol(&flags, &[]).0, 0, "it may come back");
    drop(server);
    let left = machine.run("unenroll", &[], &[]);
    assert_eq!(left.status.code(), Some(12), "{left:?}");
    assert!(machine.state().join("identity").exists(), "it can be tried again");
    assert_eq!(machine.run("unenroll", &["--force"], &[]).status.code(), Some(0));
    assert!(!machine.state().join("identity").exists());
}
