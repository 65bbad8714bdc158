//! Something that stands before the service, shows a certificate of its authority, and passes requests on as the
//! machine that made them; but for those that it answers itself, and as it should not.
//!
//! It has the machine's key, which no real one has: so it can be wrong about every request, and not about uploads
//! alone. Deliberately not here: what is wrong with the line to it (`line`).

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use mobility_format::envelope::{self, Magic};
use mobility_tests::dice::Dice;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use reqwest::{
    Certificate, Identity, Method,
    blocking::{Client, Response},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use serde_json::Value;

use crate::server::{Connection, Request, Server, answer};

/// The longest that a request may wait at the service.
const LONGEST: Duration = Duration::from_secs(90);

/// What it does to requests now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    /// Passes all on.
    None,
    /// Answers with this status and, perhaps, a wish for so many seconds; of uploads alone, or of everything.
    Storm { status: u16, retry_after: Option<u64>, uploads: bool },
    /// Passes on and cuts the answer short.
    Truncates,
    /// Says that a segment was stored, and throws it away.
    LosesSegments,
    /// The same of manifests.
    LosesManifests,
    /// Passes each request on twice, and gives the first answer or the second.
    Repeats,
    /// Passes on, and closes the connection without an answer.
    LosesAnswers,
}

/// It serves until it is dropped.
pub(crate) struct Front {
    server: Server,
    state: Arc<State>,
}

struct State {
    to: String,
    mischief: Mutex<(Mischief, Dice)>,
    /// Whoever passes requests on, with the machine's identity once there is one.
    client: OnceLock<Client>,
    nobody: Client,
    /// When each upload came, since the beginning of the mischief that is on.
    uploads: Mutex<Vec<Instant>>,
    /// How many requests suffered from it.
    harm: Mutex<u64>,
}

impl Front {
    /// Before the service with its secrets in `data`, which listens at `to`.
    pub(crate) fn new(seed: u64, data: &Path, to: &str) -> Front {
        // By whichever test is the first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let authority = fs::read_to_string(data.join("authority.pem")).unwrap();
        let state = Arc::new(State {
            to: to.to_owned(),
            mischief: Mutex::new((Mischief::None, Dice::new(seed))),
            client: OnceLock::new(),
            nobody: client(&authority, None),
            uploads: Mutex::default(),
            harm: Mutex::default(),
        });
        let serving = state.clone();
        let serve = move |request: &Request, stream: &mut dyn Connection| serving.serve(request, stream);
        let server = Server::start("127.0.0.1:0", Some(certified(&authority)), serve);
        Front { server, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// From now on it passes requests on as the machine that is enrolled in `state`.
    pub(crate) fn be(&self, data: &Path, state: &Path) {
        let authority = fs::read_to_string(data.join("authority.pem")).unwrap();
        let bytes = fs::read(state.join("identity")).unwrap();
        let keys: Value = envelope::open(Magic::STATE, 1, &bytes).unwrap().body;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let identity = text(&keys["enrolment"]["certificate"]) + &text(&keys["tls_key"]);
        assert!(self.state.client.set(client(&authority, Some(&identity))).is_ok());
    }

    pub(crate) fn set(&self, mischief: Mischief) {
        self.state.mischief.lock().unwrap().0 = mischief;
        self.state.uploads.lock().unwrap().clear();
        *self.state.harm.lock().unwrap() = 0;
    }

    pub(crate) fn harm(&self) -> u64 {
        *self.state.harm.lock().unwrap()
    }

    /// When each upload came since [`Front::set`].
    pub(crate) fn uploads(&self) -> Vec<Instant> {
        self.state.uploads.lock().unwrap().clone()
    }
}

fn client(authority: &str, identity: Option<&str>) -> Client {
    let start = authority.find("-----BEGIN CERTIFICATE").unwrap();
    let root = Certificate::from_pem(&authority.as_bytes()[start..]).unwrap();
    let builder = Client::builder().tls_certs_only([root]).timeout(LONGEST).no_proxy();
    match identity {
        Some(pem) => builder.identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

fn certified(authority: &str) -> Arc<ServerConfig> {
    let der = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(authority.as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&der, KeyPair::try_from(&key).unwrap()).unwrap();
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let chain = vec![params.signed_by(&own, &issuer).unwrap().der().clone(), der.clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

impl State {
    fn serve(&self, request: &Request, stream: &mut dyn Connection) -> io::Result<()> {
        let is_upload = request.method == "PUT";
        let (mischief, luck) = {
            let mut mischief = self.mischief.lock().unwrap();
            (mischief.0, mischief.1.below(2) == 0)
        };
        if is_upload {
            self.uploads.lock().unwrap().push(Instant::now());
        }
        let harmed = || *self.harm.lock().unwrap() += 1;
        match mischief {
            Mischief::Storm { status, retry_after, uploads } if is_upload || !uploads => {
                harmed();
                let wish = retry_after.map(|wish| format!("Retry-After: {wish}\r\n")).unwrap_or_default();
                answer(stream, &format!("{status} Not Now"), &wish, b"not now")
            }
            Mischief::LosesSegments if is_upload && request.path.contains(".seg") => {
                harmed();
                answer(stream, "201 Created", "", b"")
            }
            Mischief::LosesManifests if is_upload && !request.path.contains(".seg") => {
                harmed();
                answer(stream, "201 Created", "", b"")
            }
            Mischief::Truncates => {
                let (status, body) = self.passed_on(request)?;
                harmed();
                let length = body.len() + 7;
                write!(stream, "HTTP/1.1 {status} Cut\r\nContent-Length: {length}\r\n\r\n")?;
                stream.write_all(&body[..body.len() / 2])
            }
            Mischief::LosesAnswers => {
                harmed();
                self.passed_on(request).map(|_| ())
            }
            Mischief::Repeats => {
                harmed();
                let (first, second) = (self.passed_on(request)?, self.passed_on(request)?);
                let (status, body) = if luck { first } else { second };
                answer(stream, &format!("{status} Passed On"), "", &body)
            }
            _ => {
                let (status, body) = self.passed_on(request)?;
                answer(stream, &format!("{status} Passed On"), "", &body)
            }
        }
    }

    /// What the service says.
    fn passed_on(&self, request: &Request) -> io::Result<(u16, Vec<u8>)> {
        let client = self.client.get().unwrap_or(&self.nobody);
        let method = Method::from_bytes(request.method.as_bytes()).map_err(io::Error::other)?;
        let mut passed = client.request(method, format!("{}{}", self.to, request.path));
        if !request.body.is_empty() {
            let json = request.method == "POST";
            let kind = if json { "application/json" } else { "application/octet-stream" };
            passed = passed.header("Content-Type", kind).body(request.body.clone());
        }
        let answer: Response = passed.send().map_err(io::Error::other)?;
        let status = answer.status().as_u16();
        Ok((status, answer.bytes().map_err(io::Error::other)?.to_vec()))
    }
}
