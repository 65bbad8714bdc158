//! A client, each of whose exchanges is held to the document.
//!
//! Deliberately not here: what is asked.

use reqwest::{
    Method, StatusCode,
    blocking::{Body, RequestBuilder},
    header::HeaderMap,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::document::{Document, Exchange};

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client(pub(crate) reqwest::blocking::Client);

/// A request that is being put together.
#[derive(Debug)]
pub(crate) struct Asking {
    client: reqwest::blocking::Client,
    builder: RequestBuilder,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    Sent(reqwest::Error),
    /// There is one, which the document does not allow.
    Broken(String),
}

impl Client {
    pub(crate) fn request(&self, method: Method, url: impl AsRef<str>) -> Asking {
        Asking { client: self.0.clone(), builder: self.0.request(method, url.as_ref()) }
    }

    pub(crate) fn get(&self, url: impl AsRef<str>) -> Asking {
        self.request(Method::GET, url)
    }

    pub(crate) fn put(&self, url: impl AsRef<str>) -> Asking {
        self.request(Method::PUT, url)
    }

    pub(crate) fn post(&self, url: impl AsRef<str>) -> Asking {
        self.request(Method::POST, url)
    }
}

impl Asking {
    fn with(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Asking {
        Asking { client: self.client, builder: change(self.builder) }
    }

    pub(crate) fn body(self, body: impl Into<Body>) -> Asking {
        self.with(|builder| builder.body(body))
    }

    pub(crate) fn json(self, message: &(impl Serialize + ?Sized)) -> Asking {
        self.with(|builder| builder.json(message))
    }

    pub(crate) fn headers(self, headers: HeaderMap) -> Asking {
        self.with(|builder| builder.headers(headers))
    }

    pub(crate) fn bearer_auth(self, secret: &str) -> Asking {
        self.with(|builder| builder.bearer_auth(secret))
    }

    /// Asks. Fails the test where the document does not allow what is said.
    pub(crate) fn send(self) -> reqwest::Result<Answered> {
        self.exchange().map_err(|failed| match failed {
            Failed::Sent(err) => err,
            Failed::Broken(problem) => panic!("docs/openapi.json is not what is spoken: {problem}"),
        })
    }

    pub(crate) fn exchange(self) -> Result<Answered, Failed> {
        let request = self.builder.build().map_err(Failed::Sent)?;
        let (method, url) = (request.method().clone(), request.url().clone());
        let body = match request.body() {
            None => Some(Vec::new()),
            Some(body) => body.as_bytes().map(<[u8]>::to_vec),
        };
        let answer = self.client.execute(request).map_err(Failed::Sent)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let answered = Answered { status, headers, body: answer.bytes().map_err(Failed::Sent)?.to_vec() };
        let target = url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let exchange = Exchange {
            method: method.as_str(),
            target: &target,
            request: body.as_deref(),
            status: status.as_u16(),
            headers: &answered.headers,
            answer: &answered.body,
        };
        Document::check(&exchange).map_err(Failed::Broken)?;
        Ok(answered)
    }
}

impl Answered {
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err}: {:?}", self.body))
    }
}
