//! A recovery service and store for tests: TLS with client certificates, and answers that a test makes up.
//!
//! Deliberately not here: servers that break TLS or HTTP, which `tests/link` has.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::{MachineId, control::Enrolled};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    SanType,
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer,
    server::WebPkiClientVerifier,
};

use super::{
    Options, Service,
    identity::{Enrolment, Keys},
    state_dir::StateDir,
};

/// A request that arrived.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// The client's certificate (DER).
    pub(super) certificate: Option<Vec<u8>>,
}

/// What is answered: a status, headers, a body; or nothing, and the connection ends.
pub(super) type Reply = Option<(u16, &'static str, Vec<u8>)>;

pub(super) fn ok(body: &impl serde::Serialize) -> Reply {
    Some((200, "", serde_json::to_vec(body).unwrap()))
}

pub(super) fn refused(status: u16, code: &str) -> Reply {
    Some((status, "", format!(r#"{{"code":"{code}","message":"says {code}"}}"#).into_bytes()))
}

/// An authority for services, stores and machines.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn sign(&self, csr: &str) -> String {
        CertificateSigningRequestParams::from_pem(csr).unwrap().signed_by(&self.0).unwrap().pem()
    }

    fn server(&self) -> Arc<ServerConfig> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        Arc::new(config)
    }
}

/// It serves until it is dropped.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Arc<AtomicBool>,
}

impl Fake {
    pub(super) fn start(
        authority: &Authority,
        reply: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, tls) = (listener.local_addr().unwrap(), authority.server());
        let (received, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped, reply) = (received.clone(), stop.clone(), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (tls, seen, reply) = (tls.clone(), seen.clone(), reply.clone());
                // A client that goes away is no fault of the test.
                thread::spawn(move || serve(stream, tls, &seen, &*reply));
            }
        });
        Fake { address, received, stop }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    /// What arrived so far with a path that starts so.
    pub(super) fn received(&self, path: &str) -> Vec<Received> {
        let all = self.received.lock().unwrap();
        all.iter().filter(|request| request.path.starts_with(path)).cloned().collect()
    }

    /// Waits until so many requests with such a path have arrived.
    pub(super) fn await_received(&self, path: &str, count: usize) -> Vec<Received> {
        eventually(path, || Some(self.received(path)).filter(|all| all.len() >= count))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Waits until there is something.
pub(super) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        thread::sleep(Duration::from_millis(10));
    }
}

fn serve(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    seen: &Mutex<Vec<Received>>,
    reply: &dyn Fn(&Received) -> Reply,
) -> io::Result<()> {
    let session = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split([' ', '\r']).map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let certificate = stream.conn.peer_certificates().map(|chain| chain[0].to_vec());
    let received = Received { method, path, head, body, certificate };
    seen.lock().unwrap().push(received.clone());
    let Some((status, headers, body)) = reply(&received) else { return Ok(()) };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Keeps an identity in `dir` that the service has given, good for so long.
pub(super) fn enrol(dir: &Path, authority: &Authority, service: &Fake, life: SignedDuration) {
    let state = StateDir::open(dir).unwrap();
    let mut keys = Keys::generate().unwrap();
    let answer = Enrolled {
        machine: MachineId([7; 16]),
        certificate: authority.sign(&keys.certificate_request().unwrap()),
        expires: Timestamp::now() + life,
        authorities: authority.pem(),
        addresses: vec![service.url("")],
    };
    keys.enrolment = Some(Enrolment::new(answer, &[], Timestamp::now()));
    keys.store(&state).unwrap();
}

/// A service that was opened with that identity.
pub(super) fn open(dir: &Path) -> Service {
    let options = Options { retry_wait: Some(Duration::from_secs(1)), ..Options::default() };
    Service::open(dir, &options).unwrap()
}
