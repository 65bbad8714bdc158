//! The way through a proxy that wants a name and a password.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    agent::{Machine, good_service},
    server::{header, read_head},
};

/// `name:word` in the words of HTTP.
const ALLOWED: &str = "Basic bmFtZTp3b3Jk";

/// A proxy that makes tunnels for whoever knows the password. Lives as long as the test's process.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || tunnel(stream, &seen));
            }
        });
        Proxy { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn tunnel(mut client: TcpStream, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let head = read_head(&mut client)?;
    let first = head.lines().next().unwrap_or_default().to_owned();
    seen.lock().unwrap().push(first.clone());
    if header(&head, "proxy-authorization") != Some(ALLOWED) {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(refusal);
    }
    let target = first.split(' ').nth(1).unwrap_or_default();
    let server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    let (mut from_server, mut to_client) = (server, client);
    io::copy(&mut from_server, &mut to_client)?;
    to_client.shutdown(std::net::Shutdown::Both)?;
    let _ = up.join();
    Ok(())
}

#[test]
fn a_proxy_is_used_with_its_password_and_only_for_a_tunnel() {
    let (server, authority) = good_service("127.0.0.1:0");
    let proxy = Proxy::start();
    let url = format!("http://name:word@{}", proxy.address);
    let pin = authority.fingerprint();
    let to_server = ["--service", &server.url(), "--ca-fingerprint", &pin];
    let tunnel = format!("CONNECT {} HTTP/1.1", server.address);

    let by_flag = Machine::new();
    let (code, said) = by_flag.enrol(&[&to_server[..], &["--proxy", &url]].concat(), &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!((proxy.asked().len(), &proxy.asked()[0]), (1, &tunnel));
    // It goes on by the proxy that it was enrolled with.
    assert_eq!(by_flag.run("unenroll", &[], &[]).status.code(), Some(0));
    assert_eq!(proxy.asked().len(), 2);

    let (code, said) = Machine::new().enrol(&to_server, &[("HTTPS_PROXY", &url)]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(proxy.asked()[2], tunnel);
    let around = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "127.0.0.0/8")];
    assert_eq!(Machine::new().enrol(&to_server, &around).0, 0);
    let none = [&to_server[..], &["--proxy", "none"]].concat();
    assert_eq!(Machine::new().enrol(&none, &[("HTTPS_PROXY", &url)]).0, 0);
    assert_eq!(proxy.asked().len(), 3, "not by the proxy");
}

/// Everybody on a machine can read its command lines.
#[test]
fn a_proxys_password_may_be_in_a_variable_of_its_own() {
    let (server, authority) = good_service("127.0.0.1:0");
    let proxy = Proxy::start();
    let url = format!("http://name:word@{}", proxy.address);
    let pin = authority.fingerprint();
    let flags = ["--service", &server.url(), "--ca-fingerprint", &pin, "--proxy-env", "OUR_PROXY"];
    let machine = Machine::new();
    let (code, said) = machine.enrol(&flags, &[]);
    assert!(code == 3 && said.contains("OUR_PROXY"), "{said}");
    assert_eq!(machine.enrol(&flags, &[("OUR_PROXY", &url)]).0, 0);
    // It is kept: the variable is gone by then.
    assert_eq!(machine.run("unenroll", &[], &[]).status.code(), Some(0));
    assert_eq!(proxy.asked().len(), 2);
}

#[test]
fn a_proxy_that_refuses_is_not_gone_around() {
    let (server, authority) = good_service("127.0.0.1:0");
    let proxy = Proxy::start();
    let url = format!("http://name:canary-word@{}", proxy.address);
    let flags = ["--service", &server.url(), "--ca-fingerprint", &authority.fingerprint(), "--proxy", &url];
    let (code, said) = Machine::new().enrol(&flags, &[]);
    assert_eq!(code, 12, "{said}");
    assert!(said.contains("proxy does not let") && !said.contains("canary-word"), "{said}");
    assert!(!proxy.asked().is_empty() && server.requests().is_empty());
}
