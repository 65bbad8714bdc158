//! Objects in an object store over the network: S3 and what speaks its protocol, Azure Blob Storage.
//!
//! Each call waits for its requests on the runtime that it was given, which has to be one with threads of its own; it must
//! not come from one of these. Requests have a time limit and a bounded number of tries. Nothing is moved inside a store:
//! what is taken in has been read here, so it can just as well be written here. Deliberately not here: locks. No store has
//! any; the caller sees to it that one process at a time works on a machine.

mod connect;
mod draft;
mod failure;
mod reading;
mod settings;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart, aws::AmazonS3, azure::MicrosoftAzure,
    path::Path as Location,
};
use tokio::runtime::Handle;

pub use settings::{AzureCredentials, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret};

use super::{Draft, Holding, Listed, Lock, LockError, Objects, OpenObject, Reading, StorageError};
use draft::MemoryDraft;
use reading::{BlockCache, RemoteObject};

/// How many small objects are read at the same time.
const READ_AT_ONCE: usize = 16;
/// How many objects one request removes; stores allow 256 and more.
const REMOVED_AT_ONCE: usize = 100;
/// How long an object written piece by piece should get: it is held in memory until it is published.
const DRAFT_LENGTH: u64 = 16 << 20;

/// How long removing a batch and putting a record may take with all tries: less than a claim is held without being renewed, so
/// that none of them comes to its end after somebody else has begun.
const SOON: Duration = Duration::from_secs(15);

/// The client of a store, for what each does in its own way: signing upload grants.
#[derive(Clone, Debug)]
pub enum Backend {
    /// S3 or a store that speaks its protocol.
    S3(Arc<AmazonS3>),
    /// Azure Blob Storage.
    Azure(Arc<MicrosoftAzure>),
}

/// A place in an object store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    backend: Backend,
    store: Arc<dyn ObjectStore>,
    /// What people call it: the scheme, the container, the prefix.
    name: Arc<str>,
    prefix: Location,
    runtime: Handle,
    blocks: Arc<BlockCache>,
}

impl Remote {
    /// Gets ready to use a store. `runtime` must be one with threads of its own. Nothing is sent yet.
    ///
    /// # Errors
    /// Where the settings are not those of a store.
    pub fn open(settings: &RemoteSettings, runtime: Handle) -> Result<Remote, StorageError> {
        let name = settings.name();
        let failed =
            |err: object_store::Error| StorageError::new("use", name.as_ref(), failure::as_io_error(&err));
        let backend = connect::connect(settings).map_err(failed)?;
        let prefix = Location::parse(&settings.prefix).map_err(|err| failed(err.into()))?;
        let store: Arc<dyn ObjectStore> = match &backend {
            Backend::S3(store) => store.clone(),
            Backend::Azure(store) => store.clone(),
        };
        Ok(Remote { backend, store, name: name.into(), prefix, runtime, blocks: Arc::default() })
    }

    /// The client.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What the store calls the object `key`.
    #[must_use]
    pub fn location(&self, key: &str) -> Location {
        key.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Whether the container is there and lets us in; costs one request.
    ///
    /// # Errors
    /// What the store says.
    pub fn check(&self) -> Result<(), StorageError> {
        let listed = self.runtime.block_on(self.store.list(Some(&self.prefix)).next());
        listed.transpose().map(|_| ()).map_err(|err| self.failed("list", "", &err))
    }

    /// What waits for requests.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Begins an object that is sent in parts of this length, and is there when the last one is.
    pub(crate) fn begin_parts(&self, key: &str, part: usize) -> Result<WriteMultipart, StorageError> {
        let location = self.location(key);
        let upload = self.soon("put", key, self.store.put_multipart(&location))?;
        Ok(WriteMultipart::new_with_chunk_size(upload, part))
    }

    fn key_of(&self, location: &Location) -> Option<String> {
        let parts = location.prefix_match(&self.prefix)?;
        Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
    }

    pub(crate) fn failed(&self, action: &'static str, key: &str, err: &object_store::Error) -> StorageError {
        StorageError::new(action, &self.place(key), failure::as_io_error(err))
    }

    fn put(&self, key: &str, payload: PutPayload, mode: PutMode) -> Result<(), StorageError> {
        let location = self.location(key);
        let put = self.runtime.block_on(self.store.put_opts(&location, payload, mode.into()));
        put.map(|_| ()).map_err(|err| self.failed("put", key, &err))
    }

    /// Puts something small.
    fn put_soon(&self, key: &str, bytes: &[u8], mode: PutMode) -> Result<(), StorageError> {
        let location = self.location(key);
        let put = self.store.put_opts(&location, bytes.to_vec().into(), mode.into());
        self.soon("put", key, put).map(|_| ())
    }

    /// Waits for what has to end soon.
    fn soon<T>(
        &self,
        action: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        match self.runtime.block_on(async { tokio::time::timeout(SOON, work).await }) {
            Ok(done) => done.map_err(|err| self.failed(action, key, &err)),
            Err(_) => {
                let problem = format!("the storage took longer than {} s", SOON.as_secs());
                let source = io::Error::new(io::ErrorKind::TimedOut, problem);
                Err(StorageError::new(action, &self.place(key), source))
            }
        }
    }

    /// The beginning of an object.
    async fn fetch(&self, location: &Location, limit: u64) -> object_store::Result<Vec<u8>> {
        let mut chunks = self.store.get(location).await?.into_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            let room = usize::try_from(limit).unwrap_or(usize::MAX) - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        Ok(bytes)
    }

    fn remove_all(&self, locations: &[Location]) -> Result<(), StorageError> {
        for batch in locations.chunks(REMOVED_AT_ONCE) {
            let batch: Vec<_> = batch.iter().cloned().map(Ok).collect();
            let mut removed = self.store.delete_stream(stream::iter(batch).boxed());
            self.soon("remove objects from", "", async {
                while let Some(one) = removed.next().await {
                    match one {
                        Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(err) => return Err(err),
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Objects for Remote {
    fn place(&self, key: &str) -> PathBuf {
        PathBuf::from(if key.is_empty() { self.name.to_string() } else { format!("{}/{key}", self.name) })
    }

    fn read(&self, key: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
        let read = self.runtime.block_on(self.fetch(&self.location(key), limit));
        read.map_err(|err| self.failed("read", key, &err))
    }

    fn read_each(
        &self,
        keys: &[String],
        limit: u64,
        take: &mut dyn FnMut(usize, Result<Vec<u8>, StorageError>),
    ) {
        let fetches = keys.iter().map(|key| async move { self.fetch(&self.location(key), limit).await });
        let mut results = std::pin::pin!(stream::iter(fetches).buffered(READ_AT_ONCE).enumerate());
        // Waits anew for each, so that `take` runs outside of the runtime and may use it.
        while let Some((position, read)) = self.runtime.block_on(results.next()) {
            take(position, read.map_err(|err| self.failed("read", &keys[position], &err)));
        }
    }

    fn open(&self, key: &str, reading: Reading) -> Result<OpenObject, StorageError> {
        Ok(Arc::new(RemoteObject::new(self, key, reading)))
    }

    fn size(&self, key: &str) -> Result<Option<u64>, StorageError> {
        match self.runtime.block_on(self.store.head(&self.location(key))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(err) => Err(self.failed("look at", key, &err)),
        }
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.put_soon(key, bytes, PutMode::Create)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.put_soon(key, bytes, PutMode::Overwrite)
    }

    fn draft(&self, _: &str) -> Result<Box<dyn Draft>, StorageError> {
        Ok(Box::new(MemoryDraft::new(self.clone())))
    }

    fn draft_length(&self) -> u64 {
        DRAFT_LENGTH
    }

    fn remove(&self, keys: &[String]) -> Result<(), StorageError> {
        self.remove_all(&keys.iter().map(|key| self.location(key)).collect::<Vec<_>>())
    }

    fn remove_below(&self, prefix: &str) -> Result<(), StorageError> {
        let mut listed = self.store.list(Some(&self.location(prefix))).chunks(REMOVED_AT_ONCE);
        while let Some(page) = self.runtime.block_on(listed.next()) {
            let page: Result<Vec<_>, _> = page.into_iter().collect();
            let page = page.map_err(|err| self.failed("list", prefix, &err))?;
            self.remove_all(&page.into_iter().map(|meta| meta.location).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StorageError> {
        let mut listed = self.store.list(Some(&self.location(prefix)));
        while let Some(meta) = self.runtime.block_on(listed.next()) {
            let meta = meta.map_err(|err| self.failed("list", prefix, &err))?;
            let Some(key) = self.key_of(&meta.location) else { continue };
            let modified = Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or_default();
            each(Listed { key, size: meta.size, modified });
        }
        Ok(())
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&self.location(prefix))));
        let listed = listed.map_err(|err| self.failed("list", prefix, &err))?;
        let name = |path: &Location| path.filename().map(str::to_owned);
        let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn adopt(&self, _: &dyn Objects, moves: &[(String, String)]) -> Result<Vec<usize>, StorageError> {
        Ok((0..moves.len()).collect())
    }

    fn lock(&self, _: &str, _: Holding, _: Duration) -> Result<Lock, LockError> {
        Ok(Lock::nothing())
    }
}
