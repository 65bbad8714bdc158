//! Pre-signed requests of S3, which create and never overwrite: `If-None-Match: *` is part of what is signed, so whoever leaves
//! it out has no valid signature.
//!
//! Deliberately not here: signing itself (`object_store`).

use std::time::Duration;

use mobility_format::control::Grant;
use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};

use crate::{Backend, Remote};

/// The header that lets a request create only, and its value.
const ONLY_CREATE: (&str, &str) = ("if-none-match", "*");

/// The right to create `key`.
pub(super) async fn grant(remote: &Remote, key: &str, life: Duration) -> Result<Grant, String> {
    let Backend::S3(store) = remote.backend() else { return Err("cache storage is not S3".to_owned()) };
    let (name, value) = ONLY_CREATE;
    let options = SignedUrlOptions::new()
        .with_signed_header(HeaderName::from_static(name), HeaderValue::from_static(value));
    let signed = store.signed_url_opts(Method::PUT, &remote.location(key), life, &options).await;
    let url = signed.map_err(|err| err.to_string())?;
    Ok(Grant { url: url.into(), headers: [(name.to_owned(), value.to_owned())].into() })
}
