//! By which proxy the service and the stores are reached: the one that is configured, else the environment's
//! (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), else none.
//!
//! Proxies are spoken to in plain HTTP and asked for a tunnel (`CONNECT`), with a name and a password where they are in the
//! address; TLS runs inside, from this machine to the service. Deliberately not here: proxies that want NTLM or Kerberos,
//! and SOCKS.

use reqwest::{NoProxy, Proxy, Url};
use serde::{Deserialize, Serialize};

/// What is configured.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxySettings {
    /// Its address, such as `http://name:password@proxy.example:3128`; `none` for no proxy, whatever the environment says.
    pub(crate) url: Option<String>,
    /// What is reached without it, as in `NO_PROXY`.
    pub(crate) except: Option<String>,
}

/// Without the password, which must not get into a log.
impl std::fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.url.as_deref().and_then(|url| Url::parse(url).ok());
        let host = shown.as_ref().and_then(Url::host_str);
        f.debug_struct("ProxySettings").field("host", &host).field("except", &self.except).finish()
    }
}

impl ProxySettings {
    /// These settings, or `others` where nothing is set.
    pub(crate) fn or(&self, others: &ProxySettings) -> ProxySettings {
        if self == &ProxySettings::default() { others.clone() } else { self.clone() }
    }

    /// Whether they can be followed.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.apply(reqwest::Client::builder()).map(|_| ())
    }

    /// A client that follows them.
    pub(super) fn apply(&self, client: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, String> {
        match self.url.as_deref() {
            // The client reads the environment by itself.
            None => Ok(client),
            Some("none") => Ok(client.no_proxy()),
            Some(text) => Ok(client.no_proxy().proxy(self.proxy(text)?)),
        }
    }

    fn proxy(&self, text: &str) -> Result<Proxy, String> {
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        // The text may hold a password: it is not repeated.
        let invalid = || "the proxy must be an address such as http://proxy.example:3128".to_owned();
        let url = Url::parse(&full).map_err(|_| invalid())?;
        if url.scheme() != "http" || url.host_str().is_none() {
            return Err(invalid());
        }
        let proxy = Proxy::all(url).map_err(|_| invalid())?;
        Ok(proxy.no_proxy(self.except.as_deref().and_then(NoProxy::from_string)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> ProxySettings {
        ProxySettings { url: Some(url.to_owned()), except: None }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        for good in ["http://proxy:3128", "proxy:3128", "http://name:word@[::1]:1", "none"] {
            assert!(of(good).apply(reqwest::Client::builder()).is_ok(), "{good}");
        }
        for bad in ["https://name:word@proxy", "socks5://name:word@proxy", "http://", "http://name:word@:1"] {
            let message = of(bad).apply(reqwest::Client::builder()).unwrap_err();
            assert!(!message.contains("word"), "{message}");
        }
        assert!(!format!("{:?}", of("http://name:word@proxy:1")).contains("word"));
    }

    #[test]
    fn what_is_configured_goes_before_what_was_enrolled_with() {
        let (enrolled, set) = (of("http://a:1"), of("none"));
        assert_eq!(set.or(&enrolled), set);
        assert_eq!(ProxySettings::default().or(&enrolled), enrolled);
    }
}
