//! Rights to create one object in cache storage, made by the rules of the store that it is in.
//!
//! Whatever the store, a right is for one name, for a time, and for creating: not for overwriting, reading or removing. An agent
//! knows nothing of this; it sends what a grant says. Deliberately not here: how many rights, and for which names (`api::grants`).

pub(crate) mod azure;
mod s3;

use jiff::{SignedDuration, Timestamp};
use mobility_format::{control::Grant, key::CacheKey};

use super::{
    api,
    places::{Opened, Place, Places},
    refusal::{Answer, Refusal},
    state::Service,
};
use crate::{AzureCredentials, Remote, RemoteAccount, storage::Stores};

/// The longest object that may be put into the service's own directory, in bytes.
const LONGEST: u64 = 256 << 20;
/// The longest that is copied from one storage into another.
const LONGEST_COPIED: u64 = 64 << 20;

/// How rights are made.
pub(crate) enum Granting {
    /// Addresses of this service, which it alone can make.
    Own,
    /// Pre-signed requests.
    S3(Remote),
    /// Shared access signatures.
    Azure(Box<azure::Signer>),
}

impl Granting {
    /// As cache storage needs it.
    ///
    /// # Errors
    /// Why no rights can be made for it.
    pub(crate) fn new(places: &Places, opened: &Opened) -> Result<Granting, String> {
        let (Place::Remote(settings), Some(remote)) = (&places.cache, &opened.cache) else {
            return Ok(Granting::Own);
        };
        match &settings.account {
            RemoteAccount::S3 { .. } => Ok(Granting::S3(remote.clone())),
            RemoteAccount::Azure {
                account,
                container,
                endpoint,
                credentials: AzureCredentials::Key(key),
            } => {
                let signer = azure::Signer::new(account, container, endpoint.as_deref(), key.reveal())?;
                Ok(Granting::Azure(Box::new(signer.for_remote(remote.clone()))))
            }
            RemoteAccount::Azure { .. } => Err("Azure needs the account's key here".to_owned()),
        }
    }

    /// Whether cache storage is this service's own directory.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Granting::Own)
    }
}

/// The longest object that may be put, in bytes. A store does not hold anybody to it; the intake does.
pub(crate) fn longest(stores: &Stores) -> u64 {
    let moved = stores.cache().as_directory().is_some() && stores.target().as_directory().is_some();
    if moved { LONGEST } else { LONGEST_COPIED }
}

/// The right to create the object `key` until `expires`.
pub(crate) async fn grant(
    service: &Service,
    key: CacheKey,
    now: Timestamp,
    life: SignedDuration,
) -> Answer<Grant> {
    let expires = now + life;
    match &service.granting {
        Granting::Own => Ok(Grant {
            url: api::cache_address(service, key, expires, longest(&service.stores)),
            headers: std::collections::BTreeMap::new(),
        }),
        Granting::Azure(signer) => Ok(signer.grant(&key.to_string(), expires)),
        Granting::S3(remote) => s3::grant(remote, &key.to_string(), life.unsigned_abs())
            .await
            .map_err(|err| Refusal::failing(&format!("no upload can be granted: {err}"))),
    }
}
