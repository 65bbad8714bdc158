//! Stands between the commands of an administrator and the service, so that what these say to each other is held to the
//! document, too.
//!
//! The commands get a credential that leads to the clerk and names its certificate. Deliberately not here: comparing (`client`).

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::{Value, json};

use crate::{
    client::{Client, Failed},
    rig::PATIENCE,
};

/// Where the clerk is, and what it has found.
pub(crate) struct Clerk {
    credential: PathBuf,
    problems: Arc<Mutex<Vec<String>>>,
}

impl Clerk {
    /// Hands on to the service at `address` what is asked with the credential that it leaves in `dir`.
    pub(crate) fn new(dir: &Path, address: String, client: Client, secret: &Value) -> Clerk {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = format!("https://{}", listener.local_addr().unwrap());
        let credential = dir.join("clerk.json");
        let text = json!({ "address": own, "authority": cert.pem(), "secret": secret });
        std::fs::write(&credential, text.to_string()).unwrap();
        let problems = Arc::new(Mutex::new(Vec::new()));
        let found = problems.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // What else goes wrong the command says itself.
                if let Ok(Some(problem)) = serve(stream, config.clone(), &address, &client) {
                    found.lock().unwrap().push(problem);
                }
            }
        });
        Clerk { credential, problems }
    }

    /// The credential that leads here.
    pub(crate) fn credential(&self) -> &Path {
        &self.credential
    }

    /// Fails where anything was said that the document does not allow.
    pub(crate) fn is_content(&self) {
        let problems = self.problems.lock().unwrap();
        assert!(problems.is_empty(), "docs/openapi.json is not what is spoken: {problems:#?}");
    }
}

/// Hands one request on, and its answer back; what is wrong with them.
fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    address: &str,
    client: &Client,
) -> io::Result<Option<String>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? <= 2 {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let first = lines.first().ok_or(io::ErrorKind::UnexpectedEof)?.clone();
    let [method, target, _] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut headers = headers(&lines[1..]);
    let length = headers.remove("content-length");
    let length = length.map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let method: Method = method.parse().map_err(io::Error::other)?;
    let mut asking = client.request(method, format!("{address}{target}")).headers(headers);
    if length > 0 {
        asking = asking.body(body);
    }
    let answered = match asking.exchange() {
        Ok(answered) => answered,
        Err(Failed::Broken(problem)) => return Ok(Some(problem)),
        Err(Failed::Sent(err)) => return Err(io::Error::other(err)),
    };
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answered.status());
    write!(head, "content-length: {}\r\n\r\n", answered.bytes().len()).unwrap();
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes())?;
    stream.write_all(answered.bytes())?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(None)
}

/// Those headers that are meant for the service.
fn headers(lines: &[String]) -> HeaderMap {
    let of = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        let name: HeaderName = name.parse().ok()?;
        let meant = ["authorization", "content-type", "content-length"].contains(&name.as_str());
        meant.then(|| Some((name, HeaderValue::from_str(value).ok()?))).flatten()
    };
    lines.iter().filter_map(of).collect()
}
