//! One point served by itself, without a service or a database: for whoever has the storage and nothing else.
//!
//! On this machine alone unless another address is named; under a certificate of an authority that is made for it and gone with it, and
//! behind a key that nobody can guess, as with a service. Where storage is a directory, nothing is pruned meanwhile. Deliberately not
//! here: choosing the point.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, Method},
    response::Response,
    routing::get,
};
use jiff::Timestamp;
use mobility_format::control::ErrorCode;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

use super::{Asked, Key, Shelf, View, answer, index};
use crate::{
    Catalog, Point,
    service::{
        authority::Authority,
        listen,
        refusal::{Answer, Refusal},
        start::{ServeError, failed},
        tls::{self, OwnCertificate},
    },
};

/// Connections at once.
const CONNECTIONS: usize = 256;

/// What is served, and where.
pub struct Offline {
    /// As a program reads it: the point, its disks with their addresses.
    pub shown: serde_json::Value,
    /// The certificate of the authority, as PEM.
    pub authority: String,
    /// SHA-256 of that certificate.
    pub fingerprint: String,
    /// The secret that the addresses end in.
    pub key: String,
    /// Where it listens.
    pub address: SocketAddr,
}

struct Served {
    hash: String,
    base: String,
    view: View,
    shelf: Arc<Shelf>,
}

/// Serves a point until `stop` says so. Tells where, once it does, by `ready`; what that returns ends it.
///
/// # Errors
/// When it cannot listen, or `ready` fails.
pub fn offline(
    catalog: &Catalog,
    point: &Point<'_>,
    listen_at: SocketAddr,
    stop: watch::Receiver<bool>,
    ready: impl FnOnce(&Offline) -> std::io::Result<()>,
) -> Result<(), ServeError> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let view = View::of(catalog.machine(), point);
    let shelf = Shelf::new(&catalog.stores);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start threads"))?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(listen_at).await.map_err(failed(format!("listen at {listen_at}")))?;
        let address = listener.local_addr().map_err(failed("listen"))?;
        let authority = Authority::throw_away()?;
        let names =
            ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), address.ip().to_string()];
        let (chain, key) = authority.server(&names, Timestamp::now())?;
        let own = OwnCertificate::new(chain, &key).map_err(failed("use a certificate"))?;
        let config = tls::server_config(&authority, Arc::new(own)).map_err(failed("set up TLS"))?;
        let (key, _) = Key::new().map_err(failed("make a key"))?;
        let base = format!("https://{address}/v1/exports");
        let offline = Offline {
            shown: view.shown(Some(&format!("{base}/{}", key.secret()))),
            authority: authority.pem().to_owned(),
            fingerprint: authority.fingerprint(),
            key: key.secret().to_owned(),
            address,
        };
        ready(&offline).map_err(failed("say where the export is"))?;
        let served = Arc::new(Served { hash: key.hash(), base, view, shelf });
        let router = Router::new()
            .route("/v1/exports/{export}", get(show))
            .route("/v1/exports/{export}/disks/{disk}", get(disk))
            .with_state(served);
        listen::serve(listener, TlsAcceptor::from(Arc::new(config)), router, CONNECTIONS, stop).await;
        Ok(())
    })
}

impl Served {
    fn check(&self, named: &str, headers: &HeaderMap) -> Answer<()> {
        match Key::shown(named, headers).is_some_and(|key| key.hash() == self.hash) {
            true => Ok(()),
            false => Err(Refusal::new(ErrorCode::Forbidden, "there is no such export")),
        }
    }
}

async fn show(
    State(served): State<Arc<Served>>,
    Path(named): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    served.check(&named, &headers)?;
    Ok(index(&served.view.shown(Some(&format!("{}/{named}", served.base)))))
}

async fn disk(
    State(served): State<Arc<Served>>,
    Path((named, disk)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Answer<Response> {
    served.check(&named, &headers)?;
    let asked = Asked { view: &served.view, disk: &disk, method: &method, headers: &headers };
    answer(&served.shelf, asked, Arc::new(|message| tracing::error!("{message}"))).await
}
