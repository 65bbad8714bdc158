//! Shared access signatures of Azure Blob Storage for one blob: those that create and do nothing else (`sp=c`), and others.
//!
//! Signed with the account's key, by the rules for a service signature of one blob. With `sp=c`, putting a whole blob under a
//! new name is all that is allowed; that is how an agent uploads. Deliberately not here: signatures that a user's identity
//! makes, for which the client in `object_store` gives no right that only creates.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use mobility_format::control::Grant;
use reqwest::Url;
use ring::hmac;

use crate::Remote;

/// The version of the rules, which is also that of the request.
pub(crate) const VERSION: &str = "2023-11-03";
/// Only creating.
const PERMISSION: &str = "c";

/// Makes signatures for the blobs of one container.
pub(crate) struct Signer {
    key: hmac::Key,
    /// `/blob/<account>/<container>`, as it is signed.
    resource: String,
    /// The container's address.
    container: Url,
    /// `https`, or nothing where the store is on this machine and has no TLS.
    protocol: &'static str,
    remote: Option<Remote>,
}

impl Signer {
    /// Signs for `container`, at `endpoint` if that is not Azure's own.
    pub(crate) fn new(
        account: &str,
        container: &str,
        endpoint: Option<&str>,
        key: &str,
    ) -> Result<Signer, String> {
        let own = format!("https://{account}.blob.core.windows.net");
        let endpoint = endpoint.unwrap_or(&own).trim_end_matches('/');
        let address = format!("{endpoint}/{container}/");
        let address = Url::parse(&address).map_err(|_| "the endpoint is no address".to_owned())?;
        let key = STANDARD.decode(key.trim()).map_err(|_| "the account's key is not in Base64".to_owned())?;
        Ok(Signer {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            resource: format!("/blob/{account}/{container}"),
            protocol: if address.scheme() == "http" { "" } else { "https" },
            container: address,
            remote: None,
        })
    }

    /// Names blobs as `remote` does.
    pub(crate) fn for_remote(self, remote: Remote) -> Signer {
        Signer { remote: Some(remote), ..self }
    }

    /// The right to create `key` until `expires`.
    pub(super) fn grant(&self, key: &str, expires: Timestamp) -> Grant {
        let url = self.url(key, PERMISSION, expires);
        let headers = [("x-ms-blob-type", "BlockBlob"), ("x-ms-version", VERSION)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Grant { url: url.into(), headers: headers.into() }
    }

    /// The address of `key`, with the right to do what `permissions` say until `expires`.
    pub(crate) fn url(&self, key: &str, permissions: &str, expires: Timestamp) -> Url {
        let blob =
            self.remote.as_ref().map_or_else(|| key.to_owned(), |remote| remote.location(key).to_string());
        let expiry = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let text = self.to_sign(&blob, permissions, &expiry);
        let signature = STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        // Prefixes and keys are made of letters that stand in an address as they are.
        let mut url = self.container.clone();
        url.set_path(&format!("{}{blob}", self.container.path()));
        {
            // There is no beginning: the clock of the store may be behind ours.
            let mut query = url.query_pairs_mut();
            query.append_pair("sv", VERSION).append_pair("sp", permissions).append_pair("se", &expiry);
            if !self.protocol.is_empty() {
                query.append_pair("spr", self.protocol);
            }
            query.append_pair("sr", "b").append_pair("sig", &signature);
        }
        url
    }

    /// Sixteen fields, most of them of no use here: permission, beginning, end, resource, stored policy, addresses, protocol,
    /// version, kind of resource, snapshot, encryption scope, and five headers of the answer.
    fn to_sign(&self, blob: &str, permissions: &str, expiry: &str) -> String {
        let resource = format!("{}/{blob}", self.resource);
        let (protocol, version) = (self.protocol, VERSION);
        [permissions, "", expiry, &resource, "", "", protocol, version, "b", "", "", "", "", "", "", ""]
            .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(endpoint: Option<&str>) -> Signer {
        Signer::new("account", "container", endpoint, "c2VjcmV0").unwrap()
    }

    #[test]
    fn a_signature_is_for_creating_one_blob_until_a_time() {
        let expires: Timestamp = "2026-11-24T01:02:03.5Z".parse().unwrap();
        let grant = signer(None).grant("cache/a/b", expires);
        let url = Url::parse(&grant.url).unwrap();
        assert_eq!(url.host_str(), Some("account.blob.core.windows.net"));
        assert_eq!(url.path(), "/container/cache/a/b");
        let said: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let is = |name: &str, value: &str| said.contains(&(name.to_owned(), value.to_owned()));
        assert!(is("sp", "c") && is("spr", "https") && is("sr", "b") && is("sv", VERSION), "{said:?}");
        assert!(is("se", "2026-11-24T01:02:03Z"), "{said:?}");
        let text = signer(None).to_sign("cache/a/b", "c", "2026-11-24T01:02:03Z");
        assert_eq!(
            text,
            "c\n\n2026-11-24T01:02:03Z\n/blob/account/container/cache/a/b\n\n\nhttps\n2023-11-03\nb\n\n\n\n\n\n\n"
        );
        // By another program: printf TEXT | openssl dgst -sha256 -hmac secret -binary | base64
        assert!(is("sig", "odKkie/StCZnsmgpLMw/uqFLU2arZTlvIUmWf4eTYlg="), "{said:?}");
    }

    #[test]
    fn without_tls_only_on_this_machine_and_then_the_signature_says_so() {
        let grant = signer(Some("http://127.0.0.1:10000/account/")).grant("x", Timestamp::UNIX_EPOCH);
        assert!(grant.url.starts_with("http://127.0.0.1:10000/account/container/x?"), "{}", grant.url);
        assert!(!grant.url.contains("spr="), "{}", grant.url);
        assert!(Signer::new("a", "b", None, "no base 64").is_err());
    }
}
