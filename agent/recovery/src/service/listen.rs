//! Takes connections, and hands their requests on with the name of who is at the other end.
//!
//! Everything that a stranger can make the service hold on to has a limit: connections, the time of a handshake, of a request's
//! head and of the request, the size of heads and bodies. Deliberately not here: what is answered (`api`, `admin`), and HTTP/2: no agent
//! speaks it, it would be one more thing for strangers to try, and exports were read more slowly in its small frames.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
};
use hyper::server::conn::http1::Builder;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::tls::Holder;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request's head may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(75);
/// How long a request may take; a wait for commands is the longest.
const REQUEST: Duration = Duration::from_secs(90);
/// How long an upload into the service's own cache storage may take.
const UPLOAD: Duration = Duration::from_secs(15 * 60);
/// How long requests that are under way may take to end when the service stops.
const STOP: Duration = Duration::from_secs(15);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// How long to rest when no connection can be taken, for want of descriptors perhaps.
const REST: Duration = Duration::from_millis(100);

/// Serves `router` until `stop` says so, and then until what is under way has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    most: usize,
    mut stop: watch::Receiver<bool>,
) {
    let free = Arc::new(Semaphore::new(most));
    let graceful = GracefulShutdown::new();
    let builder = Arc::new(builder());
    loop {
        let permit = tokio::select! {
            permit = free.clone().acquire_owned() => permit,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match stream {
            Ok((stream, _)) => {
                let watcher = graceful.watcher();
                let connection = Connection {
                    tls: tls.clone(),
                    router: router.clone(),
                    builder: builder.clone(),
                    watcher,
                };
                tokio::spawn(connection.run(stream, permit));
            }
            Err(err) => {
                tracing::warn!("a connection could not be taken: {err}");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    if timeout(STOP, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end within {} s are cut off", STOP.as_secs());
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    builder
}

struct Connection {
    tls: TlsAcceptor,
    router: Router,
    builder: Arc<Builder>,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        stream.set_nodelay(true).ok();
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            // Anybody can come with anything; it is of interest only to who looks for it.
            Ok(Err(err)) => return tracing::debug!("a handshake failed: {err}"),
            Err(_) => return tracing::debug!("a handshake took too long"),
        };
        let holder = Holder::of(stream.get_ref().1.peer_certificates());
        let inner = TowerToHyperService::new(self.router);
        let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
            if let Some(holder) = holder {
                request.extensions_mut().insert(holder);
            }
            answer(inner.clone(), request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        if let Err(err) = self.watcher.watch(connection).await {
            tracing::debug!("a connection ended: {err}");
        }
    }
}

async fn answer(
    inner: TowerToHyperService<Router>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Infallible> {
    let uploads = request.uri().path().starts_with(super::api::CACHE_PATH);
    let limit = if uploads { UPLOAD } else { REQUEST };
    match timeout(limit, hyper::service::Service::call(&inner, request)).await {
        Ok(answer) => answer,
        Err(_) => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
            Ok(answer)
        }
    }
}
