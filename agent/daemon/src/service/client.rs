//! Requests to the service, and the one thread that carries all of the agent's network traffic.
//!
//! A request is made once at each address until one answers. Every request has a time limit as a whole and every answer a
//! longest length; nothing is redirected. The service's clock is learnt from its answers, because certificates and grants
//! go by it. Deliberately not here: what an answer that is no success means (`answer`), and uploads (`upload`).

use std::{
    future::Future,
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::control::{Limited, MAX_BODY, VERSION};
use reqwest::{Method, Url, header};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    runtime,
    sync::{oneshot, watch},
};

use super::{
    answer::{self, Answer},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    proxy::ProxySettings,
};
use crate::clock;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may pause.
const IDLE: Duration = Duration::from_secs(15);
/// How long a request may take in all, unless it says otherwise.
const WHOLE: Duration = Duration::from_secs(30);
/// How long data that was sent may stay without an acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// How long a connection is kept for the next request.
const KEPT: Duration = Duration::from_secs(45);

/// A client of HTTP for one kind of connection.
pub(super) fn http(tls: ClientConfig, proxy: &ProxySettings) -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("mobility-agent/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        // When to try again is not the client's to decide.
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT)
        .tcp_user_timeout(UNACKNOWLEDGED)
        .pool_idle_timeout(KEPT)
        .pool_max_idle_per_host(4)
        .referer(false);
    proxy.apply(builder)?.build().map_err(|err| format!("no client can be made: {}", answer::causes(&err)))
}

/// How the service and the stores are reached. Replaced as a whole when the certificate is renewed.
pub(super) struct Ways {
    pub(super) service: reqwest::Client,
    /// Nothing before enrolment.
    pub(super) stores: Option<reqwest::Client>,
    addresses: Vec<Url>,
    /// The address that answered last.
    current: AtomicUsize,
}

impl Ways {
    pub(super) fn new(
        service: reqwest::Client,
        stores: Option<reqwest::Client>,
        addresses: Vec<Url>,
    ) -> Self {
        Ways { service, stores, addresses, current: AtomicUsize::new(0) }
    }

    /// Whether `url` leads to the service itself.
    pub(super) fn is_service(&self, url: &Url) -> bool {
        self.addresses.iter().any(|address| address.origin() == url.origin())
    }

    /// Whether the service is on this very machine.
    pub(super) fn is_local(&self) -> bool {
        self.addresses.iter().any(is_loopback)
    }
}

/// Whether the address never leaves the machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// One request.
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    limit: Duration,
    longest: usize,
}

impl Ask {
    /// `GET /v1/<path>`.
    pub(super) fn get(path: &str) -> Ask {
        let path = format!("/{VERSION}/{path}");
        Ask { method: Method::GET, path, body: None, limit: WHOLE, longest: MAX_BODY }
    }

    /// `POST /v1/<path>` with a body.
    pub(super) fn post(path: &str, body: &impl Serialize) -> Result<Ask, ServiceFault> {
        let body = serde_json::to_vec(body).map_err(|err| ServiceFault::new(Kind::Local, err.to_string()))?;
        Ok(Ask { method: Method::POST, body: Some(body), ..Ask::get(path) })
    }

    /// `POST /v1/<path>` without one.
    pub(super) fn post_nothing(path: &str) -> Ask {
        Ask { method: Method::POST, body: Some(Vec::new()), ..Ask::get(path) }
    }

    /// With another time limit.
    pub(super) fn within(self, limit: Duration) -> Ask {
        Ask { limit, ..self }
    }

    async fn send(&self, http: &reqwest::Client, address: &Url) -> Result<Answer, ServiceFault> {
        let unreachable = |what: String| ServiceFault::new(Kind::Unreachable, what);
        let (base, shown) = (address.as_str().trim_end_matches('/'), answer::place(address));
        let mut request = http.request(self.method.clone(), format!("{base}{}", self.path));
        if let Some(body) = &self.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let exchange = async {
            let response = request
                .send()
                .await
                .map_err(|err| answer::of_failure("the recovery service", address, &err))?;
            Answer::read(response, self.longest, IDLE)
                .await
                .map_err(|err| err.about("the recovery service", address))
        };
        match tokio::time::timeout(self.limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(unreachable(format!(
                "the recovery service at {shown} did not answer within {} s",
                self.limit.as_secs()
            ))),
        }
    }
}

/// The agent's connections.
pub(super) struct Client {
    runtime: runtime::Handle,
    /// The thread ends with this.
    _alive: oneshot::Sender<()>,
    stop: watch::Sender<bool>,
    ways: RwLock<Arc<Ways>>,
    /// The service's clock minus ours, in milliseconds.
    ahead: AtomicI64,
}

impl Client {
    /// Starts the thread.
    pub(super) fn start(ways: Ways) -> io::Result<Client> {
        let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        let handle = runtime.handle().clone();
        let (alive, dropped) = oneshot::channel::<()>();
        let run = move || {
            // Not before the client is dropped: what still waits would find no clock to wait by.
            let _ = runtime.block_on(dropped);
            runtime.shutdown_background();
        };
        thread::Builder::new().name("network".to_owned()).spawn(run)?;
        let stop = watch::Sender::new(false);
        Ok(Client {
            runtime: handle,
            _alive: alive,
            stop,
            ways: RwLock::new(Arc::new(ways)),
            ahead: AtomicI64::new(0),
        })
    }

    /// Ends everything at once.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) fn ways(&self) -> Arc<Ways> {
        self.ways.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on with other keys, authorities or addresses. Requests at hand end as they began.
    pub(super) fn replace(&self, ways: Ways) {
        *self.ways.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ways);
    }

    /// The service's clock minus this machine's, as far as it is known.
    pub(super) fn ahead(&self) -> SignedDuration {
        SignedDuration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    /// Now, by the service's clock as far as it is known.
    pub(super) fn now(&self) -> Timestamp {
        clock::wall().saturating_add(self.ahead()).unwrap_or_else(|_| clock::wall())
    }

    /// Waits for something on the network, but not longer than until the agent ends.
    pub(super) fn wait<T>(
        &self,
        what: impl Future<Output = Result<T, ServiceFault>>,
    ) -> Result<T, ServiceFault> {
        let mut stopped = self.stop.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => Err(ServiceFault::new(Kind::Stopped, "the agent ends")),
                result = what => result,
            }
        })
    }

    /// Asks the service, and takes its answer only if it keeps all limits.
    pub(super) fn call<A: DeserializeOwned + Limited>(&self, ask: &Ask) -> Result<A, ServiceFault> {
        let body = self.ask(ask)?;
        let garbage = |what: String| {
            ServiceFault::new(Kind::Garbage, format!("the recovery service's answer to {} {what}", ask.path))
        };
        let answer: A =
            serde_json::from_slice(&body).map_err(|err| garbage(format!("cannot be read: {err}")))?;
        answer.check().map_err(|err| garbage(format!("is refused: {err}")))?;
        Ok(answer)
    }

    /// Asks the service, and takes the body of its answer as it is.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Vec<u8>, ServiceFault> {
        let ways = self.ways();
        let count = ways.addresses.len();
        let first = ways.current.load(Ordering::Relaxed);
        let mut worst: Option<ServiceFault> = None;
        for at in (0..count).map(|n| (first + n) % count) {
            let answer = self.wait(ask.send(&ways.service, &ways.addresses[at]));
            let result = answer.and_then(|answer| {
                self.learn_time(&answer);
                answer.into_success(&ways.addresses[at])
            });
            match result {
                Ok(body) => {
                    ways.current.store(at, Ordering::Relaxed);
                    return Ok(body);
                }
                Err(fault) if is_of_this_address(fault.kind) => {
                    // That one address leads nowhere says less than what another one did.
                    if worst.as_ref().is_none_or(|worst| worst.kind == Kind::Unreachable) {
                        worst = Some(fault);
                    }
                }
                Err(fault) => {
                    ways.current.store(at, Ordering::Relaxed);
                    return Err(fault);
                }
            }
        }
        Err(worst
            .unwrap_or_else(|| ServiceFault::new(Kind::Local, "no address of the recovery service is known")))
    }

    fn learn_time(&self, answer: &Answer) {
        if let Some(date) = answer.date {
            let ahead = date.duration_since(clock::wall()).as_millis();
            // The header has whole seconds: what is less than that is no difference.
            let ahead = if ahead.abs() < 2000 { 0 } else { ahead };
            self.ahead.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// Whether another address of the same service may do better.
fn is_of_this_address(kind: Kind) -> bool {
    matches!(kind, Kind::Unreachable | Kind::Untrusted | Kind::Garbage | Kind::Busy | Kind::Unauthenticated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_the_world() {
        for (text, local) in [
            ("https://127.0.0.1:1", true),
            ("https://[::1]", true),
            ("https://localhost", true),
            ("https://10.0.0.1", false),
            ("https://127.0.0.1.example", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(text).unwrap()), local, "{text}");
        }
    }
}
