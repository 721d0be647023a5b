//! Large bodies by reference: the body in a store, and on the message what it is fetched by.

#[cfg(feature = "claim-check")]
mod store;

#[cfg(feature = "claim-check")]
pub use store::{ClaimCheck, Swept};

use serde::{Deserialize, Serialize};

use crate::bus::Inner;
use crate::error::PublishError;
use crate::failure::{Failure, Remedy};
use crate::letter::Letter;
use crate::message::Payload;

/// The header that stands for a body that is somewhere else.
const CLAIM: &str = "leveret-claim";
/// What failures to get a body are called.
const KIND: &str = "claim check";

/// What a body is fetched by, as JSON in a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// What it is called in the store, below the prefix.
    pub(crate) key: String,
    /// Its length, in bytes.
    pub(crate) size: u64,
    pub(crate) crc32c: u32,
}

/// Where a bus has its large bodies: with the messages, unless it was told of a store.
#[derive(Debug, Clone, Default)]
pub(crate) struct LargeBodies {
    #[cfg(feature = "claim-check")]
    pub(crate) store: Option<ClaimCheck>,
}

/// Whether a message's body is in a store.
pub(crate) fn is_claimed(letter: &Letter) -> bool {
    letter.body().is_empty() && letter.headers.get(CLAIM).is_some()
}

#[cfg(feature = "claim-check")]
impl LargeBodies {
    /// Whether a message's body belongs into the store.
    pub(crate) fn takes(&self, letter: &Letter) -> bool {
        self.store.as_ref().is_some_and(|store| store.takes(letter.body().len()))
    }

    /// Puts the body into the store, and on the message what it is fetched by.
    pub(crate) async fn put(&self, letter: &mut Letter) -> Result<(), PublishError> {
        let Some(store) = &self.store else { return Ok(()) };
        let claim = store.put(&letter.id, letter.body().clone()).await?;
        letter.payload.body = bytes::Bytes::new();
        // A name and numbers can be written.
        letter.headers.set(CLAIM, serde_json::to_string(&claim).unwrap_or_default());
        Ok(())
    }

    /// The whole message's body, which is in a store.
    pub(crate) async fn fetch(&self, letter: &Letter) -> Result<Payload, Failure> {
        let claim = claim(letter)?;
        let Some(store) = &self.store else { return Err(no_store(&claim)) };
        let body = store.fetch(&claim).await;
        let body = body.map_err(|(remedy, text)| Failure::named(KIND, remedy, text))?;
        Ok(Payload { body, ..letter.payload.clone() })
    }
}

#[cfg(not(feature = "claim-check"))]
impl LargeBodies {
    pub(crate) fn takes(&self, _: &Letter) -> bool {
        false
    }

    pub(crate) async fn put(&self, _: &mut Letter) -> Result<(), PublishError> {
        Ok(())
    }

    pub(crate) async fn fetch(&self, letter: &Letter) -> Result<Payload, Failure> {
        Err(no_store(&claim(letter)?))
    }
}

impl Inner {
    /// A message with its body, from the store if it is there.
    pub(crate) async fn whole(&self, mut letter: Letter) -> Result<Letter, Failure> {
        if is_claimed(&letter) {
            letter.payload = self.large_bodies.fetch(&letter).await?;
        }
        Ok(letter)
    }
}

fn claim(letter: &Letter) -> Result<Claim, Failure> {
    let text = letter.headers.get(CLAIM).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| {
        let text = format!("the header {CLAIM} cannot be read: {error}");
        Failure::named(KIND, Remedy::None, text)
    })
}

fn no_store(claim: &Claim) -> Failure {
    let text = format!(
        "the message's body, {} bytes, is in a store for large bodies, called {:?}, and this bus \
         has none: give it the publisher's with BusBuilder::large_bodies() (feature claim-check)",
        claim.size, claim.key,
    );
    Failure::named(KIND, Remedy::None, text)
}
