//! Whom the agent does not send its token to.

use std::{fs, sync::Arc};

use rcgen::{CertificateParams, SanType, date_time_ymd};
use rustls::{ServerConfig, version::TLS12};

use crate::{
    agent::{Machine, take_in},
    authority::Authority,
    server::Server,
};

/// Starts a server with this certificate, has the agent enrol with it, and checks that it was refused without a request.
fn refused(what: &str, tls: Option<Arc<ServerConfig>>, trust: &[&str]) {
    let authority = Authority::new();
    let server =
        Server::start("127.0.0.1:0", tls, move |request, stream| take_in(&authority, request, stream));
    let machine = Machine::new();
    let url = server.url();
    let mut flags = vec!["--service", url.as_str()];
    flags.extend(trust);
    let (code, said) = machine.enrol(&flags, &[]);
    assert_eq!(code, 13, "{what}: {said}");
    let seen = server.requests();
    assert!(seen.is_empty(), "{what}: {seen:?}");
}

#[test]
fn a_service_that_cannot_show_who_it_is_gets_no_request() {
    type Spoil = fn(&mut CertificateParams);
    let (authority, other) = (Authority::new(), Authority::new());
    let pin = authority.fingerprint();
    let pinned = ["--ca-fingerprint", pin.as_str()];
    let spoilt: [(&str, Spoil); 4] = [
        ("expired", |params| params.not_after = date_time_ymd(2024, 1, 1)),
        ("not yet good", |params| params.not_before = date_time_ymd(4000, 1, 1)),
        ("another name", |params| {
            params.subject_alt_names = vec![SanType::DnsName("recovery.example".try_into().unwrap())];
        }),
        ("another address", |params| {
            params.subject_alt_names = vec![SanType::IpAddress("127.0.0.2".parse().unwrap())]
        }),
    ];
    for (what, spoil) in spoilt {
        refused(what, Some(authority.server(spoil)), &pinned);
    }
    refused("another authority", Some(other.server(|_| {})), &pinned);
    refused("no authority that the system knows", Some(authority.server(|_| {})), &[]);
    refused("TLS 1.2 alone", Some(authority.server_of(&[&TLS12], |_| {})), &pinned);
}

#[test]
fn a_file_of_authorities_may_vouch_instead_of_a_fingerprint() {
    let (authority, other) = (Arc::new(Authority::new()), Authority::new());
    let signing = authority.clone();
    let server = Server::start("127.0.0.1:0", Some(authority.server(|_| {})), move |request, stream| {
        take_in(&signing, request, stream)
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let enrol = |pem: &str| {
        fs::write(&file, pem).unwrap();
        Machine::new().enrol(&["--service", &server.url(), "--ca-file", file.to_str().unwrap()], &[]).0
    };
    assert_eq!(enrol(&other.pem()), 13);
    assert_eq!(enrol("rubbish"), 3);
    assert_eq!(enrol(&authority.pem()), 0);
}

#[test]
fn what_speaks_no_tls_is_not_spoken_to() {
    let pin = Authority::new().fingerprint();
    let trust = ["--ca-fingerprint", pin.as_str()];
    let server = Server::start("127.0.0.1:0", None, |_, _| Ok(()));
    let url = server.url();
    let (code, said) = Machine::new().enrol(&[["--service", url.as_str()], trust].concat(), &[]);
    assert!([12, 13].contains(&code), "{code}: {said}");
    let url = url.replace("https", "http");
    let (code, said) = Machine::new().enrol(&[["--service", url.as_str()], trust].concat(), &[]);
    assert_eq!(code, 3, "{said}");
    assert!(server.requests().is_empty());
}
