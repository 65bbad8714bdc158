//! Servers that are the right ones and answer wrongly. Nothing of it is believed, and nothing of it takes for ever.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent::{Machine, TOKEN, take_in},
    authority::Authority,
    server::{Connection, Request, Server, answer},
};

/// Has an agent enrol with a server that behaves so. It has to end in time and say that the service gave nothing usable; the
/// next try, with a good server, has to succeed.
fn survives(
    what: &str,
    behave: impl Fn(&Request, &mut dyn Connection) -> io::Result<()> + Send + Sync + 'static,
) {
    let authority = Arc::new(Authority::new());
    let server = Server::start("127.0.0.1:0", Some(authority.server(|_| {})), behave);
    let machine = Machine::new();
    let pin = authority.fingerprint();
    let start = Instant::now();
    let (code, said) = machine.enrol(&["--service", &server.url(), "--ca-fingerprint", &pin], &[]);
    assert_eq!(code, 12, "{what}: {said}");
    assert!(start.elapsed() < Duration::from_secs(60), "{what} took {:?}", start.elapsed());
    assert!(!said.contains('\u{1b}'), "{what}: {said:?}");
    assert!(!machine.keeps(TOKEN) && !machine.keeps("machine\":\"07"), "{what}");
    let signing = authority.clone();
    let good = Server::start("127.0.0.1:0", Some(authority.server(|_| {})), move |request, stream| {
        take_in(&signing, request, stream)
    });
    let (code, said) = machine.enrol(&["--service", &good.url(), "--ca-fingerprint", &pin], &[]);
    assert_eq!(code, 0, "after {what}: {said}");
}

#[test]
fn storms_of_refusals() {
    for (status, headers) in [
        ("429 Too Many Requests", ""),
        ("429 Too Many Requests", "Retry-After: 3600\r\n"),
        ("503 Service Unavailable", ""),
        ("503 Service Unavailable", "Retry-After: Fri, 31 Dec 2027 23:59:59 GMT\r\n"),
        ("502 Bad Gateway", ""),
        ("500 Internal Server Error", "Retry-After: -1\r\n"),
    ] {
        survives(status, move |_, stream| answer(stream, status, headers, b"<html>\x1b[31m</html>"));
    }
}

#[test]
fn answers_that_end_too_soon() {
    survives("no answer", |_, _| Ok(()));
    survives("half a head", |_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le"));
    survives("half a body", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"machine\":\"0707")
    });
    survives("half a chunk", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n{\"mach")
    });
}

#[test]
fn answers_that_are_none() {
    for body in [&b""[..], b"null", b"{}", b"\xff\xfe", b"{\"machine\":\"07\"}", &b"[".repeat(100_000)] {
        let body = body.to_vec();
        survives("garbage", move |_, stream| answer(stream, "200 OK", "", &body));
    }
    survives("not HTTP", |_, stream| stream.write_all(b"220 smtp.example ESMTP\r\n"));
    survives("a status that is no success", |_, stream| answer(stream, "204 No Content", "", b""));
    let machine = "\"machine\":\"07070707070707070707070707070707\"";
    let expires = "\"expires\":\"2030-01-01T00:00:00Z\",\"addresses\":[]";
    let authorities = "\"authorities\":\"x\"";
    let long = format!("{{{machine},\"certificate\":\"{}\",{expires},{authorities}}}", "x".repeat(100_000));
    survives("a field beyond its limit", move |_, stream| answer(stream, "200 OK", "", long.as_bytes()));
}

#[test]
fn answers_without_end() {
    survives("a long announcement", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    });
    survives("a long body", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let piece = vec![b' '; 1 << 16];
        // The agent hangs up, or this ends.
        (0..10_000).try_for_each(|_| {
            stream.write_all(b"10000\r\n")?;
            stream.write_all(&piece)?;
            stream.write_all(b"\r\n")
        })
    });
    survives("a long head", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        (0..10_000_000).try_for_each(|n| write!(stream, "X-{n}: {n}\r\n"))
    });
}

#[test]
fn answers_that_take_for_ever() {
    survives("a pause", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")?;
        stream.flush()?;
        thread::sleep(Duration::from_secs(70));
        Ok(())
    });
    survives("a byte now and then", |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")?;
        (0..100).try_for_each(|_| {
            stream.write_all(b" ")?;
            stream.flush()?;
            thread::sleep(Duration::from_secs(1));
            Ok(())
        })
    });
}

#[test]
fn redirections_are_not_followed() {
    let authority = Arc::new(Authority::new());
    let elsewhere = Server::start("127.0.0.1:0", Some(authority.server(|_| {})), move |request, stream| {
        take_in(&authority, request, stream)
    });
    for status in ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("Location: {}/v1/enrol\r\n", elsewhere.url());
        survives(status, move |_, stream| answer(stream, status, &location, b""));
    }
    assert!(elsewhere.requests().is_empty());
}
