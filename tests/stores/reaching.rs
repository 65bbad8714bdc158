//! Stores that do not let us in, do not answer, or are not there: said within the limits, and in words that help.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use mobility_recovery::{
    AzureCredentials, Objects, Remote, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret,
    StorageErrorKind,
};
use mobility_tests::{object_stores, requirement::Requirement};

use crate::support::runtime;

/// What reading and putting come to.
fn outcome(settings: &RemoteSettings) -> (StorageErrorKind, StorageErrorKind) {
    let runtime = runtime();
    let remote = Remote::open(settings, runtime.handle().clone()).unwrap();
    let read = remote.read("target/some", 10).expect_err("there is nothing");
    let put = remote.put_new("target/some", b"x").expect_err("it should not be put");
    let shown = put.to_string();
    assert!(shown.contains("target/some") && !shown.contains("secret"), "{shown}");
    (read.kind(), put.kind())
}

fn quick() -> RemoteLimits {
    RemoteLimits {
        connect: Duration::from_secs(1),
        request: Duration::from_secs(1),
        retries: 1,
        give_up: Duration::from_secs(3),
    }
}

#[test]
fn a_store_that_does_not_listen_or_answer_is_unavailable_within_the_limits() {
    // Taken by nobody after this, or by somebody who never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    for port in [closed, silent.local_addr().unwrap().port()] {
        let account = RemoteAccount::S3 {
            bucket: "bucket".to_owned(),
            region: None,
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            virtual_hosted: false,
            credentials: S3Credentials::Key { id: "id".to_owned(), secret: Secret::new("secret") },
        };
        let settings = RemoteSettings {
            account,
            prefix: String::new(),
            authorities: None,
            allow_http: true,
            limits: quick(),
        };
        let start = Instant::now();
        assert_eq!(outcome(&settings), (StorageErrorKind::Unavailable, StorageErrorKind::Unavailable));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

#[test]
fn s3_says_why_it_refuses() {
    let Some(server) = Requirement::Stores.or_skip(object_stores::s3()) else { return };
    let right = server.settings("");
    let mut wrong = right.clone();
    let RemoteAccount::S3 { credentials, .. } = &mut wrong.account else { unreachable!() };
    *credentials = S3Credentials::Key { id: "mobility".to_owned(), secret: Secret::new("wrong") };
    assert_eq!(outcome(&wrong), (StorageErrorKind::Refused, StorageErrorKind::Refused));
    let mut elsewhere = right;
    let RemoteAccount::S3 { bucket, .. } = &mut elsewhere.account else { unreachable!() };
    *bucket = "no-such-bucket".to_owned();
    // This server makes a bucket of every first put.
    let runtime = runtime();
    let remote = Remote::open(&elsewhere, runtime.handle().clone()).unwrap();
    assert_eq!(remote.check().expect_err("no such bucket").kind(), StorageErrorKind::Unavailable);
}

#[test]
fn azure_says_why_it_refuses() {
    let Some(server) = Requirement::Stores.or_skip(object_stores::azurite()) else { return };
    let right = server.settings("");
    let mut wrong = right.clone();
    let RemoteAccount::Azure { credentials, .. } = &mut wrong.account else { unreachable!() };
    *credentials = AzureCredentials::Key(Secret::new("d3Jvbmc="));
    assert_eq!(outcome(&wrong), (StorageErrorKind::Refused, StorageErrorKind::Refused));
    let mut elsewhere = right.clone();
    let RemoteAccount::Azure { container, .. } = &mut elsewhere.account else { unreachable!() };
    *container = "no-such-container".to_owned();
    assert_eq!(outcome(&elsewhere), (StorageErrorKind::Unavailable, StorageErrorKind::Unavailable));
    // An authority that nobody told us to trust.
    let stranger = RemoteSettings { authorities: None, limits: quick(), ..right };
    assert_eq!(outcome(&stranger), (StorageErrorKind::Unavailable, StorageErrorKind::Unavailable));
}
