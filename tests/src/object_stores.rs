//! Object stores for a test: an S3 server over a directory, and Azurite, which is Azure Blob Storage for tests, with TLS.
//!
//! Programs that `packaging/install-test-stores.sh` puts under `target/stores`, each with a directory and a port of its
//! own for as long as the test holds it. Deliberately not here: what is tested with them.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "for tests, which fail by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mobility_recovery::{
    AzureCredentials, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// The bucket and the container that every server has.
pub const CONTAINER: &str = "recovery";
/// Azurite's account and its key, which are the same everywhere and written in its manual.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const S3_KEY: (&str, &str) = ("mobility", "mobility-secret");

/// A running server, which ends with this.
#[derive(Debug)]
pub struct ObjectStoreServer {
    child: Child,
    dir: TempDir,
    account: RemoteAccount,
    authorities: Option<Vec<u8>>,
    /// Where it listens.
    pub port: u16,
}

impl ObjectStoreServer {
    /// What a client needs in order to use the server's container below `prefix`.
    #[must_use]
    pub fn settings(&self, prefix: &str) -> RemoteSettings {
        RemoteSettings {
            account: self.account.clone(),
            prefix: prefix.to_owned(),
            authorities: self.authorities.clone(),
            allow_http: self.authorities.is_none(),
            limits: RemoteLimits::default(),
        }
    }

    /// Lets it stand still: it takes connections and answers nothing.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// Ends an S3 server as a power cut does.
    ///
    /// # Panics
    /// When it has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts an S3 server that was killed, over what it had stored.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        self.child = spawn_s3(self.dir.path(), self.port).unwrap();
    }

    /// The certificate of the authority that signed the server's, where it speaks TLS.
    #[must_use]
    pub fn authorities(&self) -> Option<&[u8]> {
        self.authorities.as_deref()
    }

    /// The table of a service's configuration that keeps `storage.<name>` here below `prefix`, with files beside it in `dir`.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn table(&self, name: &str, prefix: &str, dir: &Path) -> String {
        let (kind, place, credentials) = match &self.account {
            RemoteAccount::S3 {
                bucket, endpoint, credentials: S3Credentials::Key { id, secret }, ..
            } => (
                "s3",
                format!("bucket = '{bucket}'\nendpoint = '{}'\n", endpoint.as_deref().unwrap_or_default()),
                format!("access-key-id = '{id}'\nsecret-access-key = '{}'\n", secret.reveal()),
            ),
            RemoteAccount::Azure {
                account,
                container,
                endpoint,
                credentials: AzureCredentials::Key(key),
            } => {
                let endpoint = endpoint.as_deref().unwrap_or_default();
                let place =
                    format!("account = '{account}'\ncontainer = '{container}'\nendpoint = '{endpoint}'\n");
                ("azure", place, format!("account-key = '{}'\n", key.reveal()))
            }
            _ => panic!("a server of a test's has a key"),
        };
        let file = dir.join(format!("{name}-credentials.toml"));
        fs::write(&file, credentials).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut table = format!("[storage.{name}]\nkind = '{kind}'\n{place}prefix = '{prefix}'\n");
        table += &format!("credentials = '{}'\n", file.display());
        if let Some(authorities) = &self.authorities {
            let file = dir.join(format!("{name}-authorities.pem"));
            fs::write(&file, authorities).unwrap();
            table += &format!("authorities = '{}'\n", file.display());
        }
        table
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for ObjectStoreServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn installed(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/stores").join(name);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("no {name} in target/stores: packaging/install-test-stores.sh installs it")),
    }
}

/// An S3 server, without TLS: the server has none.
///
/// # Errors
/// What is lacking.
pub fn s3() -> Result<ObjectStoreServer, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(CONTAINER)).unwrap();
    let port = free_port();
    let child = spawn_s3(dir.path(), port)?;
    let (id, secret) = S3_KEY;
    let account = RemoteAccount::S3 {
        bucket: CONTAINER.to_owned(),
        region: None,
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        virtual_hosted: false,
        credentials: S3Credentials::Key { id: id.to_owned(), secret: Secret::new(secret) },
    };
    Ok(ObjectStoreServer { child, dir, account, authorities: None, port })
}

/// An S3 server over that directory at that port, when it listens.
fn spawn_s3(dir: &Path, port: u16) -> Result<Child, String> {
    let program = installed("bin/s3s-fs")?;
    let (id, secret) = S3_KEY;
    let child = Command::new(program)
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--access-key",
            id,
            "--secret-key",
            secret,
        ])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|err| format!("s3s-fs does not start: {err}"))?;
    wait_until("the S3 server listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    Ok(child)
}

/// Azurite, with a certificate of an authority of its own.
///
/// # Errors
/// What is lacking.
pub fn azurite() -> Result<ObjectStoreServer, String> {
    let program = installed("node_modules/.bin/azurite-blob")?;
    let dir = tempfile::tempdir().unwrap();
    let authority = certificates(dir.path());
    let mut child = Command::new(program)
        .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--oauth", "basic", "--disableTelemetry"])
        .args(["--inMemoryPersistence", "--extentMemoryLimit", "512", "--silent"])
        .arg("--cert")
        .arg(dir.path().join("chain.pem"))
        .arg("--key")
        .arg(dir.path().join("key.pem"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .map_err(|err| format!("Azurite does not start: {err}"))?;
    let port = port_in(BufReader::new(child.stdout.take().unwrap()));
    let endpoint = format!("https://127.0.0.1:{port}/{ACCOUNT}");
    let account = RemoteAccount::Azure {
        account: ACCOUNT.to_owned(),
        container: CONTAINER.to_owned(),
        endpoint: Some(endpoint.clone()),
        credentials: AzureCredentials::Key(Secret::new(ACCOUNT_KEY)),
    };
    let server = ObjectStoreServer { child, dir, account, authorities: Some(authority.into_bytes()), port };
    create_container(server.dir(), &endpoint);
    Ok(server)
}

/// Writes an authority's certificate, and a chain and a key for 127.0.0.1; returns the first.
fn certificates(dir: &Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut of_authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    of_authority.distinguished_name.push(rcgen::DnType::CommonName, "a test's authority");
    let authority = of_authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(of_authority, key);
    let own_key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let own = own.signed_by(&own_key, &issuer).unwrap();
    fs::write(dir.join("authority.pem"), authority.pem()).unwrap();
    fs::write(dir.join("chain.pem"), own.pem() + &authority.pem()).unwrap();
    fs::write(dir.join("key.pem"), own_key.serialize_pem()).unwrap();
    authority.pem()
}

/// Reads on until Azurite says where it listens, and then throws away what it says.
fn port_in(mut output: impl BufRead + Send + 'static) -> u16 {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|length| length > 0) {
            let port = line.rsplit_once("127.0.0.1:").and_then(|(_, port)| port.trim().parse::<u16>().ok());
            if let Some(port) = port.filter(|_| line.contains("successfully listen")) {
                tell.send(port).ok();
            }
            line.clear();
        }
    });
    told.recv_timeout(PATIENCE).expect("Azurite does not say where it listens")
}

/// The client makes no containers. Azurite takes any token that looks like one of Azure's.
fn create_container(dir: &Path, endpoint: &str) {
    let claims = r#"{"iss":"https://sts.windows.net/00000000-0000-0000-0000-000000000000/","aud":"https://storage.azure.com","iat":0,"nbf":0,"exp":4102444800}"#;
    let token = format!("{}.{}.none", base64(br#"{"alg":"none","typ":"JWT"}"#), base64(claims.as_bytes()));
    let created = Command::new("curl")
        .args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "-X", "PUT", "--cacert"])
        .arg(dir.join("authority.pem"))
        .args(["-H", &format!("Authorization: Bearer {token}"), "-H", "x-ms-version: 2023-11-03"])
        .args(["-H", "Content-Length: 0", &format!("{endpoint}/{CONTAINER}?restype=container")])
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
}

/// Base64 for addresses, without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digits =
            (0..=chunk.len()).map(|digit| ALPHABET[(number >> (18 - 6 * digit)) as usize & 63] as char);
        text.extend(digits);
    }
    text
}

/// A port of the loopback that nobody listens at.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
