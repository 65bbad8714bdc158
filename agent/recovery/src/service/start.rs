//! Puts an instance together, runs it, and stops it when it is told to.
//!
//! Deliberately not here: what the parts do.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc, watch},
};
use tokio_rustls::TlsAcceptor;

use super::{
    admin, api,
    authority::{Authority, AuthorityError, SERVER_LIFE},
    config::{ConfigError, Database as Place, Options, Settings},
    credential::{Credential, CredentialError},
    database::{Database, DatabaseError},
    export::Shelf,
    failover::Failover,
    granting::Granting,
    listen, open_files,
    places::Opened,
    plan::{self, PlanRun},
    private_file,
    processor::{self, Gaps, Intakes},
    reindex,
    secret::{self, Recognised, Sealer},
    state::Service,
    stepwise,
    tls::{self, OwnCertificate},
};
use crate::{Lock, Objects, Remote, Stores, VaultError};

/// The file of the authority, in the directory of secrets.
const AUTHORITY: &str = "authority.pem";
/// The file of the key that signs addresses of the service's own cache storage.
const GRANTS: &str = "grants.key";
/// The file that keeps a second instance from using the same SQLite database, in the data directory.
const LOCK: &str = "service.lock";
/// Threads that may wait for storage on behalf of requests, for each core.
const THREADS: usize = 16;
/// Objects that may arrive at once.
const UPLOADS: usize = 256;
/// How often the service looks at its own certificate.
const LOOK: Duration = Duration::from_secs(3600);
/// How long work may take to end when the service stops.
const STOP: Duration = Duration::from_secs(10);

/// The service could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its configuration is no good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its administrator's credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Its storage cannot be used.
    #[error(transparent)]
    Storage(#[from] VaultError),
    /// Something else: a database, a file, an address.
    #[error("{what}: {problem}")]
    Other {
        /// What was tried.
        what: String,
        /// What happened.
        problem: String,
    },
}

pub(super) fn failed<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> ServeError {
    move |problem| ServeError::Other { what: what.into(), problem: problem.to_string() }
}

/// Runs an instance until the process is told to end by SIGTERM or SIGINT. Prints to standard output where it listens.
///
/// # Errors
/// When it cannot start.
pub fn serve(options: &Options) -> Result<(), ServeError> {
    // There is one library for TLS in this program, and it has to be said once.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut settings = Settings::new(options)?;
    settings.connections = open_files::connections(settings.connections, settings.connections_said)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start threads"))?;
    let (stop, stopped) = watch::channel(false);
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])
            .map_err(failed("wait for signals"))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            stop.send(true).ok();
        }
    });
    let served = runtime.block_on(run(settings, stopped));
    runtime.shutdown_timeout(STOP);
    served
}

async fn run(settings: Settings, stop: watch::Receiver<bool>) -> Result<(), ServeError> {
    let data = settings.data.display().to_string();
    private_file::directory(&settings.data).map_err(failed(format!("make the directory {data}")))?;
    private_file::directory(&settings.secrets).map_err(failed("make the directory of secrets"))?;
    let (database, alone) = open_database(&settings).await?;
    let known = database.has_machines().await.map_err(failed("read the database"))?;
    let opened = settings.places.open(true)?;
    refuse_half_a_database(&database, known, &opened.stores).await?;
    let new = !settings.secrets.join(AUTHORITY).exists();
    let authority = Authority::open(&settings.secrets.join(AUTHORITY), !known)?;
    database.keep_policy(&admin::first_policy()).await.map_err(failed("write the database"))?;

    let (listener, address) = listen_at(settings.listen).await?;
    let addresses = match settings.addresses.is_empty() {
        true => vec![format!("https://{}:{}", host_name(), address.port())],
        false => settings.addresses.clone(),
    };
    let mut names = names(&addresses);
    // The administrator on this very machine comes to where it listens.
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    let own = Arc::new(own_certificate(&authority, &names)?);
    let config = tls::server_config(&authority, own.clone()).map_err(failed("set up TLS"))?;

    let local = match address.ip() {
        ip if !ip.is_unspecified() => format!("https://{address}"),
        ip if ip.is_ipv4() => format!("https://127.0.0.1:{}", address.port()),
        _ => format!("https://localhost:{}", address.port()),
    };
    let credential = Credential::keep(&settings.secrets, &local, authority.pem())?;
    // Beside other instances that share the secrets, each is reached at an address of its own.
    if settings.secrets != settings.data {
        credential.write_to(&settings.data)?;
    }
    let (alerts, waiting) = mpsc::channel(processor::WAITING_ALERTS);
    let service =
        assemble(&settings, opened, database, authority, &credential, addresses, alerts, stop.clone())?;

    let router = Router::new().merge(api::router(service.clone())).merge(admin::router(service.clone()));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(processor::run(service.clone(), settings.workers));
    tasks.spawn(processor::watch::run(service.clone()));
    plan::clear_inputs(&settings.plans.notes);
    tasks.spawn(stepwise::run::<Failover>(service.clone()));
    tasks.spawn(stepwise::run::<PlanRun>(service.clone()));
    tasks.spawn(keep_certificate(service.clone(), own, names, stop.clone()));
    if let Some(webhook) = &settings.webhook {
        let client = reqwest::Client::builder().build().map_err(failed("set up the webhook"))?;
        tasks.spawn(processor::deliver(client, webhook.clone(), waiting, stop.clone()));
    }
    announce(&service, address, new).await;
    let tls = TlsAcceptor::from(Arc::new(config));
    listen::serve(listener, tls, router, settings.connections, stop).await;
    if tokio::time::timeout(STOP, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("work that did not end in time is left to be gone on with later");
    }
    service.database.close().await;
    drop(alone);
    Ok(())
}

/// The database, and what keeps others from it where it is a file.
pub(super) async fn open_database(settings: &Settings) -> Result<(Database, Option<Lock>), ServeError> {
    let open = async |shown: &str| {
        let opened: Result<Database, DatabaseError> = Database::open(&settings.database).await;
        opened.map_err(failed(format!("open the database {shown}")))
    };
    match &settings.database {
        Place::File(path) => {
            // Nobody else works with this file, so whoever holds a claim in it is dead.
            let alone = Lock::exclusive(&settings.data.join(LOCK), STOP).map_err(failed("begin"))?;
            let database = open(&path.display().to_string()).await?;
            database.drop_claims().await.map_err(failed("write the database"))?;
            database.drop_record_claims::<Failover>().await.map_err(failed("write the database"))?;
            database.drop_record_claims::<PlanRun>().await.map_err(failed("write the database"))?;
            Ok((database, Some(alone)))
        }
        Place::Server(_) => Ok((open("PostgreSQL").await?, None)),
    }
}

/// A database that was lost must not be taken for a new one: machines that have points would be told that nobody knows them.
async fn refuse_half_a_database(database: &Database, known: bool, stores: &Stores) -> Result<(), ServeError> {
    let refused = |problem: &str| Err(failed("begin with this database")(problem));
    if database.is_rebuilding().await.map_err(failed("read the database"))? {
        return refused("it is half rebuilt: run `recovery-service reindex` again");
    }
    if known {
        return Ok(());
    }
    let stores = stores.clone();
    let stored = tokio::task::spawn_blocking(move || reindex::machines(&stores)).await;
    let stored = stored.map_err(failed("read storage"))?.map_err(|err| ServeError::Storage(err.into()))?;
    match stored.is_empty() {
        true => Ok(()),
        false => refused(
            "it knows no machine, and target storage has points of some: rebuild it with `recovery-service reindex`, or name \
             another place for target storage",
        ),
    }
}

#[expect(clippy::too_many_arguments, reason = "it is the one place where all parts come together")]
fn assemble(
    settings: &Settings,
    opened: Opened,
    database: Database,
    authority: Authority,
    credential: &Credential,
    addresses: Vec<String>,
    alerts: mpsc::Sender<super::database::Event>,
    stop: watch::Receiver<bool>,
) -> Result<Arc<Service>, ServeError> {
    let randomness = || failed("draw random numbers");
    let instance = secret::hex(&secret::random::<8>().map_err(randomness())?);
    let granting =
        Granting::new(&settings.places, &opened).map_err(failed("grant uploads to storage.cache"))?;
    look_at_stores(opened.cache.iter().chain(&opened.target));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(Arc::new(Service {
        instance,
        claims: std::sync::atomic::AtomicU64::new(0),
        database,
        authority,
        administrator: Recognised::new(&credential.secret).map_err(randomness())?,
        sealer: Sealer::new(&grants_key(&settings.secrets.join(GRANTS))?),
        granting,
        shelf: Shelf::new(&opened.stores),
        exports: std::sync::Mutex::default(),
        stores: opened.stores,
        addresses,
        targets: settings.failover.values().map(|place| place.settings.clone()).collect(),
        bell: super::bell::Bell::default(),
        work: Notify::new(),
        alerts,
        stop,
        threads: Arc::new(Semaphore::new(cores * THREADS)),
        uploads: Arc::new(Semaphore::new(UPLOADS)),
        readers: api::digests::Readers::default(),
        intakes: Intakes::default(),
        gaps: Gaps::default(),
        patience: settings.patience,
        source_limit: settings.source_limit,
        failover: settings.failover.clone(),
        plans: settings.plans.clone(),
        counters: super::state::Counters::default(),
        standings: std::sync::Mutex::default(),
    }))
}

/// Says at once, and not only when a machine needs it, that a store does not let us in. The service goes on: stores may be away
/// for a while.
fn look_at_stores<'a>(stores: impl Iterator<Item = &'a Remote>) {
    for store in stores {
        let store = store.clone();
        tokio::task::spawn_blocking(move || match store.check() {
            Ok(()) => tracing::info!("{} can be used", store.place("").display()),
            Err(err) => tracing::error!("storage cannot be used now: {err}; {}", err.kind().remedy()),
        });
    }
}

/// The key that signs addresses, made where there is none: addresses that were given out before are good for nothing then, and
/// agents ask for others.
fn grants_key(path: &Path) -> Result<Vec<u8>, ServeError> {
    let what = || failed::<io::Error>(format!("read or make {}", path.display()));
    let fresh = secret::random::<32>().map_err(failed("draw random numbers"))?;
    if !path.exists() {
        private_file::create(path, secret::hex(&fresh).as_bytes()).map_err(what())?;
    }
    let text = std::fs::read_to_string(path).map_err(what())?;
    match secret::unhex(text.trim()) {
        Some(key) if key.len() == fresh.len() => Ok(key),
        _ => Err(what()(io::Error::other("it is not a key: remove it, and a new one will be made"))),
    }
}

async fn listen_at(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let what = || failed(format!("listen at {wanted}"));
    let listener = match TcpListener::bind(wanted).await {
        // A machine without IPv6.
        Err(err)
            if wanted.ip().is_ipv6()
                && wanted.ip().is_unspecified()
                && err.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            TcpListener::bind(("0.0.0.0", wanted.port())).await.map_err(what())?
        }
        other => other.map_err(what())?,
    };
    let address = listener.local_addr().map_err(what())?;
    Ok((listener, address))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The names that the service's certificate has to hold.
fn names(addresses: &[String]) -> Vec<String> {
    let of = |address: &String| {
        let host = reqwest::Url::parse(address).ok()?.host_str()?.to_owned();
        Some(host.trim_matches(['[', ']']).to_owned())
    };
    let mut names: Vec<String> = addresses.iter().filter_map(of).collect();
    names.extend([host_name(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    names.sort();
    names.dedup();
    names
}

fn own_certificate(authority: &Authority, names: &[String]) -> Result<OwnCertificate, ServeError> {
    let (chain, key) = authority.server(names, Timestamp::now())?;
    OwnCertificate::new(chain, &key).map_err(failed("use the service's own certificate"))
}

/// Renews the service's own certificate after a third of its life.
async fn keep_certificate(
    service: Arc<Service>,
    own: Arc<OwnCertificate>,
    names: Vec<String>,
    mut stop: watch::Receiver<bool>,
) {
    let mut made = Timestamp::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = Timestamp::now();
        if now < made + SERVER_LIFE / 3 {
            continue;
        }
        let renewed = service.authority.server(&names, now).map_err(|err| err.to_string());
        match renewed.and_then(|(chain, key)| own.renew(chain, &key).map_err(|err| err.to_string())) {
            Ok(()) => made = now,
            Err(err) => tracing::error!("the service's own certificate could not be renewed: {err}"),
        }
    }
}

/// Says where the service is, and how to protect a machine.
async fn announce(service: &Service, address: SocketAddr, new: bool) {
    let mut text = format!("listening on {address}\n");
    text += &format!("SHA-256 of the authority's certificate: {}\n", service.authority.fingerprint());
    // A token must not get into a log, so it is shown to people alone.
    let shown = new && io::stdout().is_terminal();
    match shown {
        true => match admin::make_token(service, admin::TokenWanted::default()).await {
            Ok(made) => {
                text += &format!("to protect a machine, run there, within a day:\n  {}\n", made.command)
            }
            Err(err) => tracing::error!("no token could be made: {}", err.message),
        },
        false => {
            text += "to protect a machine, run `recovery-service token create` here and its answer there\n"
        }
    }
    io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).ok();
}
