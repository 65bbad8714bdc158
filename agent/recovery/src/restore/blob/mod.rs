//! A fixed VHD as a page blob of Azure Blob Storage: what a disk is imported from, or the blob behind a managed disk that waits
//! for its upload.
//!
//! Only pages that hold something are put, several at once, the footer as the last: without it nobody takes the blob for a
//! disk. A blob that was made for this is removed again when something fails. Deliberately not here: accounts, containers and
//! managed disks; whoever calls has them.

mod request;
mod stored;
mod upload;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::ByteCount;
use reqwest::{StatusCode, Url};

use super::{
    RestoreError,
    medium::{Medium, Settling, Stored},
};
use crate::{
    AzureCredentials, RemoteAccount, RemoteLimits, RemoteSettings, Secret,
    service::AzureSigner,
    storage::{StorageError, StorageErrorKind},
};
use request::{Body, Client};
use stored::StoredBlob;
use upload::Uploads;

/// What a signature of ours allows: reading, creating, writing, removing.
const PERMISSIONS: &str = "rcwd";
/// For how long: as long as it takes to upload 32 TiB at 60 MiB/s, which is what one blob takes.
const LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The most that one request puts.
const MOST: usize = 4 << 20;
/// Zeros between two stretches of content that are put rather than made two requests of.
const BRIDGED: u64 = 64 << 10;
/// The unit of a page blob.
const PAGE: u64 = 512;

/// A page blob, and the right to write it.
#[derive(Clone, Debug)]
pub struct PageBlob {
    url: Secret,
    authorities: Option<Vec<u8>>,
    limits: RemoteLimits,
}

impl PageBlob {
    /// The blob at an address that carries a shared access signature: for reading and writing, and for creating and removing
    /// where it is not there yet.
    ///
    /// # Errors
    /// What is wrong with the address, without the address.
    pub fn at(url: &str) -> Result<PageBlob, String> {
        let parsed = Url::parse(url.trim()).map_err(|err| format!("the blob's address is none: {err}"))?;
        let signed = parsed.query_pairs().any(|(name, _)| name == "sig");
        match parsed.scheme() {
            "http" if !is_here(&parsed) => {
                Err("the blob's address is without TLS: it has to begin with https".to_owned())
            }
            "https" | "http" if signed => {
                Ok(PageBlob { url: Secret::new(parsed), authorities: None, limits: RemoteLimits::default() })
            }
            "https" | "http" => {
                Err("the blob's address has no signature: it ends with ?sv=...&sig=...".to_owned())
            }
            other => Err(format!("the blob's address begins with {other}, not with https")),
        }
    }

    /// The blob `key` in a container, signed by the account's key or with the container's signature.
    ///
    /// # Errors
    /// Where the settings are not those of a container of Azure, or hold neither.
    pub fn in_container(settings: &RemoteSettings, key: &str) -> Result<PageBlob, String> {
        let RemoteAccount::Azure { account, container, endpoint, credentials } = &settings.account else {
            return Err("page blobs are Azure's: there are none in S3".to_owned());
        };
        let parts = settings.prefix.split('/').chain(key.split('/')).filter(|part| !part.is_empty());
        let name = parts.collect::<Vec<_>>().join("/");
        let url = match credentials {
            AzureCredentials::Key(secret) => {
                let signer = AzureSigner::new(account, container, endpoint.as_deref(), secret.reveal())?;
                signer.url(&name, PERMISSIONS, Timestamp::now() + LIFE)
            }
            AzureCredentials::Signature(signature) => {
                let own = format!("https://{account}.blob.core.windows.net");
                let endpoint = endpoint.as_deref().unwrap_or(&own).trim_end_matches('/');
                let address = format!("{endpoint}/{container}/{name}?{}", signature.reveal());
                Url::parse(&address).map_err(|_| "the endpoint is no address".to_owned())?
            }
            _ => return Err("a page blob needs the account's key or a signature".to_owned()),
        };
        let (authorities, limits) = (settings.authorities.clone(), settings.limits);
        Ok(PageBlob { url: Secret::new(url), authorities, limits })
    }

    /// The same, whose store's certificate may also be signed by one of these authorities, in PEM.
    #[must_use]
    pub fn trusting(self, authorities: &[u8]) -> PageBlob {
        PageBlob { authorities: Some(authorities.to_vec()), ..self }
    }

    /// Its address, with the signature.
    #[must_use]
    pub fn address(&self) -> &Secret {
        &self.url
    }

    /// What people call it: its address, without the signature.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let url = self.url.reveal();
        PathBuf::from(url.split('?').next().unwrap_or_default())
    }
}

/// A page blob being written.
pub(super) struct Pages {
    client: Arc<Client>,
    uploads: Arc<Uploads>,
    /// Whether it was made for this, and goes again.
    made: bool,
    length: u64,
    /// What is to be put next, until it is long enough.
    gathered: Option<(u64, Vec<u8>)>,
    last: Option<(u64, Vec<u8>)>,
}

impl Pages {
    /// Makes the blob, `length` long and all zero; or, where it is there and may be replaced, makes what there is zero.
    pub(super) fn begin(blob: &PageBlob, length: u64, replace: bool) -> Result<Pages, RestoreError> {
        let (client, path) = (Arc::new(Client::new(blob)?), blob.path());
        let made = match client.length()? {
            None => true,
            Some(_) if !replace => return Err(RestoreError::Exists(path)),
            Some(found) if found != length => {
                let (available, needed) = (ByteCount(found), ByteCount(length));
                return Err(RestoreError::WrongSize { path, available, needed });
            }
            Some(_) => false,
        };
        if made {
            let created = client.create(length);
            created.map_err(|err| match err.kind() {
                StorageErrorKind::AlreadyThere => RestoreError::Exists(path.clone()),
                _ => err.into(),
            })?;
        } else {
            client.clear(0, length)?;
        }
        let uploads = Uploads::start(&client);
        Ok(Pages { client, uploads, made, length, gathered: None, last: None })
    }

    fn hand_on(&mut self) {
        if let Some((at, mut bytes)) = self.gathered.take() {
            bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
            self.uploads.add(at, bytes);
        }
    }
}

impl Medium for Pages {
    fn is_fresh(&self) -> bool {
        true
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        debug_assert!(at.is_multiple_of(PAGE) && bytes.len() < MOST);
        if let Some((start, gathered)) = &mut self.gathered {
            let gap = at - (*start + gathered.len() as u64);
            if gap <= BRIDGED && gathered.len() + gap as usize + bytes.len() <= MOST {
                gathered.resize(gathered.len() + gap as usize, 0);
                gathered.extend_from_slice(bytes);
                return Ok(());
            }
        }
        self.hand_on();
        self.gathered = Some((at, bytes.to_vec()));
        Ok(())
    }

    fn clear(&mut self, _: u64, _: u64) -> Result<(), RestoreError> {
        Ok(())
    }

    fn put_last(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.last = Some((at, bytes.to_vec()));
        Ok(())
    }

    fn room(&mut self) -> Result<bool, RestoreError> {
        Ok(self.uploads.room()?)
    }

    fn settle(&mut self) -> Settling {
        self.hand_on();
        let (uploads, client, last) = (self.uploads.clone(), self.client.clone(), self.last.take());
        Box::new(move || {
            uploads.finish()?;
            last.map_or(Ok(()), |(at, bytes)| Ok(client.put(at, &Body::from(bytes))?))
        })
    }

    fn stored(&self) -> Result<Arc<dyn Stored>, RestoreError> {
        Ok(Arc::new(StoredBlob::new(self.client.clone(), self.length)))
    }

    fn publish(self: Box<Self>) -> Result<(), RestoreError> {
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        self.uploads.stop();
        self.client.hurry();
        // Nothing better can be done where even this fails, and the caller has an error already: without a footer it is no disk.
        match self.made {
            true => self.client.remove().ok(),
            false => self.client.clear(self.length - PAGE, PAGE).ok(),
        };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.uploads.stop();
    }
}

/// Whether an address is of this machine, where a store for tests has no TLS.
fn is_here(url: &Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the same request may succeed when it is sent again.
fn may_succeed_later(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn failed(
    action: &'static str,
    path: &std::path::Path,
    kind: std::io::ErrorKind,
    text: String,
) -> StorageError {
    StorageError::new(action, path, std::io::Error::new(kind, text))
}
