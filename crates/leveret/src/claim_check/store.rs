//! The store for large bodies.

use std::fmt::Write;
use std::future::ready;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::timeout;

use super::Claim;
use crate::error::{Error, PublishError, Result};
use crate::failure::Remedy;

/// Bodies larger than this go to the store, where nothing else is said, in bytes.
const ABOVE_BYTES: usize = 128 * 1024;
/// The largest body that is put or fetched, where nothing else is said, in bytes: it must fit into
/// memory.
const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// How long the store may take, where nothing else is said.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a message's id is seen in a key, in bytes.
const KEY_ID_BYTES: usize = 64;

/// A place for large bodies, beside the broker: a directory, S3, Google's or Azure's storage, or
/// whatever else the crate `object_store` leads to. Clones are the same place.
///
/// A body above a threshold is put there before its message is published, and the message carries
/// what it is fetched by. All buses that publish or consume such messages need the same store and
/// the same prefix. See the guide's page on large messages.
#[derive(Debug, Clone)]
pub struct ClaimCheck {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    above: usize,
    at_most: u64,
    within: Duration,
}

/// What was swept out of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many bodies.
    pub bodies: u64,
}

impl ClaimCheck {
    /// In that store, below that prefix, which nothing else should use: [`ClaimCheck::sweep`]
    /// deletes what is there. An `Arc` of a store is one, too.
    ///
    /// A store must keep what it has taken. `object_store::local::LocalFileSystem` does so only
    /// `with_fsync(true)`; [`ClaimCheck::in_directory`] sees to that.
    #[must_use]
    pub fn new(store: impl ObjectStore, prefix: &str) -> Self {
        ClaimCheck {
            store: Arc::new(store),
            prefix: Path::from(prefix),
            above: ABOVE_BYTES,
            at_most: BODY_BYTES_MAX,
            within: STORE_TIMEOUT,
        }
    }

    /// In files of that directory, which is made if it is not there: for programs on one machine,
    /// or with a file system in common.
    ///
    /// # Errors
    /// [`Error::Store`] if there is no such directory and it cannot be made.
    pub fn in_directory(directory: impl AsRef<FilePath>) -> Result<Self> {
        let directory = directory.as_ref();
        let failed = |source| Error::Store {
            what: format!("the directory {directory:?} for large bodies"),
            source,
        };
        std::fs::create_dir_all(directory).map_err(|error| failed(error.into()))?;
        let store = LocalFileSystem::new_with_prefix(directory);
        let store = store.map_err(|error| failed(error.into()))?;
        Ok(ClaimCheck::new(store.with_fsync(true), ""))
    }

    /// For bodies larger than this, in bytes: 128 KiB where nothing is said. With more than the
    /// broker takes, those between are refused as too large.
    #[must_use]
    pub fn above(mut self, bytes: usize) -> Self {
        self.above = bytes;
        self
    }

    /// For bodies no larger than this, in bytes: 1 GiB where nothing is said. A consumer holds as
    /// many of them in memory as it handles messages at a time.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.at_most = bytes;
        self
    }

    /// How long putting or fetching a body may take: a minute where nothing is said.
    #[must_use]
    pub fn timeout(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Deletes the bodies that were put there longer ago than this, by the store's clock.
    ///
    /// Nobody else deletes any: a body may be for several queues, and nobody knows when the last of
    /// them has done with it. So this must be longer than any message waits, dead letters and what
    /// is delayed included; a message whose body is gone becomes a dead letter. Call it now and
    /// then from one of the programs; several at once do no harm.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be listed, or does not delete. What was deleted until
    /// then stays so.
    pub async fn sweep(&self, older_than: Duration) -> Result<Swept> {
        let failed = |error: object_store::Error| Error::Store {
            what: format!("the store for large bodies ({})", self.store),
            source: error.into(),
        };
        // The store says by its own clock on the wall when something was put there.
        let horizon = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let old = self.store.list(Some(&self.prefix)).try_filter_map(move |found| {
            let old = SystemTime::from(found.last_modified) <= horizon;
            ready(Ok(old.then_some(found.location)))
        });
        let mut deleted = self.store.delete_stream(old.boxed());
        let mut swept = Swept::default();
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) => swept.bodies += 1,
                // Somebody else was faster.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(swept)
    }

    pub(crate) fn takes(&self, bytes: usize) -> bool {
        bytes > self.above
    }

    pub(crate) async fn put(&self, id: &str, body: Bytes) -> Result<Claim, PublishError> {
        let (size, limit) = (body.len() as u64, self.at_most);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let crc32c = crc32c::crc32c(&body);
        let claim = Claim { key: key(id, crc32c, size), size, crc32c };
        let path = self.path(&claim);
        let error = match timeout(self.within, self.store.put(&path, body.into())).await {
            Ok(Ok(_)) => return Ok(claim),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.within),
        };
        Err(PublishError::LargeBody { size, store: self.store.to_string(), text: error })
    }

    /// The body, or what may help and what is wrong.
    pub(crate) async fn fetch(&self, claim: &Claim) -> Result<Bytes, (Remedy, String)> {
        if claim.size > self.at_most {
            let text = format!("a body of {} bytes; at most {} may be", claim.size, self.at_most);
            return Err((Remedy::None, text));
        }
        let path = self.path(claim);
        let text = match timeout(self.within, self.get(&path, claim)).await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(text)) => text,
            Err(_) => format!("no answer within {:?}", self.within),
        };
        let text =
            format!("the message's body {path:?} is not to be had from {}: {text}", self.store);
        Err((Remedy::Retry, text))
    }

    async fn get(&self, path: &Path, claim: &Claim) -> Result<Bytes, String> {
        let found = self.store.get(path).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                "it is not there; it was swept, or the publisher has another store or prefix".into()
            }
            error => error.to_string(),
        })?;
        if found.meta.size != claim.size {
            return Err(format!("{} bytes, not {}", found.meta.size, claim.size));
        }
        let body = found.bytes().await.map_err(|error| error.to_string())?;
        if crc32c::crc32c(&body) != claim.crc32c {
            return Err("its checksum is wrong: it was changed or damaged".to_owned());
        }
        Ok(body)
    }

    fn path(&self, claim: &Claim) -> Path {
        self.prefix.clone().join(claim.key.as_str())
    }
}

/// What a body is called: after its message's id, for people, and after itself, so that another
/// message of the same id does not take its place, and the same one published again does.
fn key(id: &str, crc32c: u32, size: u64) -> String {
    let plain = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte),
        _ => '_',
    };
    let mut key: String = id.bytes().take(KEY_ID_BYTES).map(plain).collect();
    // Writing to a string does not fail.
    let _ = write!(key, "-{:08x}{crc32c:08x}-{size:x}", crc32c::crc32c(id.as_bytes()));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_safe_names_and_differ_as_messages_do() {
        let long = "ä/".repeat(127);
        for id in ["", "order-7", "../../etc/passwd", long.as_str()] {
            let key = key(id, 1, 2);
            assert!(key.len() < 128 && !key.contains(['/', '.', '%']), "{key}");
            assert_eq!(Path::from("p").join(key.as_str()).to_string(), format!("p/{key}"));
        }
        assert_ne!(key("a/b", 1, 2), key("a_b", 1, 2));
        assert_ne!(key("a", 1, 2), key("a", 2, 2));
        assert_eq!(key("a", 1, 2), key("a", 1, 2));
    }
}
